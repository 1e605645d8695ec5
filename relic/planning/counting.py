"""What a computation takes, counted on torch's meta device: operations, operators, bytes held and bytes kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def count_flops(job: Callable[[], object]) -> float:
    """Operations of matrix products, convolutions and attention; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        job()
    return float(counter.get_total_flops())


@torch.no_grad()
def count_held_bytes(
    job: Callable[[], object], given: Iterable[Tensor], ignored: Callable[[Tensor], bool] = lambda _: False
) -> int:
    """The most bytes that tensors made by `job` occupy at one moment.

    Args:
        job: run once.
        given: tensors that exist before, such as parameters; they and their views are not counted.
        ignored: tells tensors that the meta device makes and a real one does not.
    """
    with _HeldBytes(given, ignored) as held:
        job()
    return held.most


@torch.no_grad()
def count_operators(job: Callable[[], object]) -> float:
    """Operators that compute something; views are none."""
    with _Operators() as operators:
        job()
    return float(operators.count)


def count_saved_bytes(
    job: Callable[[], object], parameters: Iterable[Tensor], ignored: Callable[[Tensor], bool] = lambda _: False
) -> int:
    """Bytes that autograd keeps of `job` for a backward pass.

    Args:
        job: run once.
        parameters: are not counted.
        ignored: tells tensors that the meta device makes and a real one does not.
    """
    own = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not ignored(tensor):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = job()
    del result
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


class _Operators(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class _HeldBytes(TorchDispatchMode):
    """Follows the storages that operators return until they are freed."""

    def __init__(self, given: Iterable[Tensor], ignored: Callable[[Tensor], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ignored = ignored
        self._known = {tensor.untyped_storage()._cdata for tensor in given}
        self._now = 0
        self.most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._follow(storage, 0 if self._ignored(leaf) else storage.nbytes())
        return out

    def _follow(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
