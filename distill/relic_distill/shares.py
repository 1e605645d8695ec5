"""Tensors of which each process may hold a share: the whole of one, the own share, and one shared out like another."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, in each process; every process must ask for it. Other tensors as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_share(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, in the same memory; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(pattern: Tensor, value: Tensor) -> Tensor:
    """A whole tensor on the device of `pattern`, and sharded as it is; every process must hold the same `value`."""
    value = value.to(pattern.device)
    if not isinstance(pattern, DTensor):
        return value
    return distribute_tensor(value, pattern.device_mesh, pattern.placements, src_data_rank=None)
