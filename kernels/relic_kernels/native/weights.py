"""Weights that the C++ reads where they lie."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

_LARGEST_BYTE = 127


class PlacedWeights:
    """Addresses of weights, for C structures of pointers alone; there is None in its place in a copy.

    Args:
        tensors: in the order of the structures' fields, one structure after another.

    Attributes:
        tensors: as given.
        table: the addresses. What lies there stays for as long as this object does.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self._held = [tensor.detach() for tensor in tensors]
        self._places = [tensor.data_ptr() for tensor in tensors]
        self.table = (ctypes.c_void_p * len(tensors))(*self._places)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of a network has its weights elsewhere."""
        return type(None), ()

    def holds(self, tensors: Sequence[Tensor] | None = None) -> bool:
        """Whether the weights lie where they lay: those of a network that was cast or moved do not.

        Args:
            tensors: if given, whether these are they.
        """
        if tensors is not None and not all(a is b for a, b in zip(tensors, self.tensors, strict=True)):
            return False
        return self._places == [tensor.data_ptr() for tensor in self.tensors]


def quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(..., I)` as whole numbers in [-127, 127], and `(..., 1)` scales: a row's largest size over 127."""
    scale = rows.abs().amax(dim=-1, keepdim=True) / _LARGEST_BYTE
    return (rows / torch.where(scale > 0, scale, 1.0)).round(), scale


def matrix_in_bytes(weight: Tensor) -> Tensor:
    """A matrix `(O, I)` as layers of bytes read it, I a multiple of 4; its numbers as they are now.

    Returns:
        `(O (I + 8),)` uint8: `(O, I)` int8, see `quantised`, then `(O,)` float32 scales, then `(O,)` int32, -128 times
        each row's sum: what inputs add that were raised by 128.
    """
    codes, scale = quantised(weight.detach().float())
    start = codes.sum(dim=1).to(torch.int32) * -128
    parts = (codes.to(torch.int8), scale, start)
    return torch.cat([part.contiguous().view(torch.uint8).flatten() for part in parts])
