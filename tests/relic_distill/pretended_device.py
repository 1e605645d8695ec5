"""A device that a machine without accelerators can test on: real numbers that claim to lie elsewhere.

A tensor of this device holds its numbers on the processor, and an operation that mixes it with a tensor of the
processor is refused as CUDA refuses it. It calls itself `meta`, the one other device that every build of torch knows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

ELSEWHERE = torch.device("meta")


_MIXING = {
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}
"""What CUDA lets take tensors of the processor too: copies, and indices."""


class TensorElsewhere(Tensor):
    """A tensor that claims to lie on the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "TensorElsewhere":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=ELSEWHERE, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [value for value in flat if isinstance(value, TensorElsewhere)]
    here = [value for value in flat if not isinstance(value, TensorElsewhere) and value.ndim]
    if there and here and func not in _MIXING:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got {[v.shape for v in here]} too")
    wanted = kwargs.get("device")
    goes_there = bool(there) if wanted is None else torch.device(wanted) == ELSEWHERE
    if kwargs.get("generator") is not None and goes_there:
        raise RuntimeError(f"Expected a generator of the other device: {func}")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is torch.ops.aten._conj.default:
        func = torch.ops.aten.conj_physical.default  # the mark of a lazy conjugate is not looked at down here
    args, kwargs = tree_map_only(TensorElsewhere, lambda value: value.held, (args, kwargs))
    out = func(*args, **kwargs)
    if func._schema.name.endswith("_") and flat:
        return flat[0]
    return tree_map_only(Tensor, TensorElsewhere, out) if goes_there else out


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            parts = func.decompose(*args, **(kwargs or {}))  # inference mode shows composite operations whole
        return run(func, args, dict(kwargs or {})) if parts is NotImplemented else parts


class _Lists(TorchFunctionMode):
    """From and to Python's numbers, which torch does by ways that no operation shows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor:
            wanted = kwargs.pop("device", None) or torch.get_default_device()
            return func(*args, device=torch.device("cpu"), **kwargs).to(wanted)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            places = tuple(torch.tensor(one, device="cpu") if isinstance(one, list) else one for one in places)
            args = (args[0], places, *args[2:])
        if func is Tensor.tolist and isinstance(args[0], TensorElsewhere):
            return args[0].held.tolist()
        return func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Within the `with`, `meta` is the pretended device."""
    with _Lists(), _Factories():
        yield ELSEWHERE
