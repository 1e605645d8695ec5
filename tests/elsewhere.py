"""Devices that a machine without accelerators can test on: real numbers that claim to lie elsewhere.

A tensor of such a device holds its numbers on the processor, and an operation that mixes it with a tensor of another
device is refused as CUDA refuses it. By default it calls itself `meta`, the one other device that every build of torch
knows; a process of its own may name several (`name_devices`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

ELSEWHERE = torch.device("meta")
PROCESSOR = torch.device("cpu")

_pretended = {"meta"}
"""Types of device that are pretended in this process."""


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
    def __new__(
        cls, held: Tensor, device: torch.device = ELSEWHERE, requires_grad: bool | None = None
    ) -> "TensorElsewhere":
        if isinstance(held, TensorElsewhere):  # how accelerate makes a parameter of a tensor
            held, device = held.held, held.device
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=device, requires_grad=held.requires_grad if requires_grad is None else requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [value.device for value in flat if isinstance(value, TensorElsewhere)]
    devices = {*there, *(value.device for value in flat if not isinstance(value, TensorElsewhere) and value.ndim)}
    if len(devices) > 1 and func not in _MIXING:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got {[v.shape for v in flat]}")
    wanted = kwargs.get("device")
    goes_to = torch.device(wanted) if wanted is not None else there[0] if there else PROCESSOR
    goes_there = goes_to.type in _pretended
    if kwargs.get("generator") is not None and goes_there:
        raise RuntimeError(f"Expected a generator of the other device: {func}")
    if goes_there and wanted is not None:
        kwargs = {**kwargs, "device": PROCESSOR}
    if func is torch.ops.aten._conj.default:
        func = torch.ops.aten.conj_physical.default  # the mark of a lazy conjugate is not looked at down here
    args, kwargs = tree_map_only(TensorElsewhere, lambda value: value.held, (args, kwargs))
    out = func(*args, **kwargs)
    if func._schema.name.endswith("_") and flat:
        return flat[0]
    return tree_map_only(Tensor, lambda value: TensorElsewhere(value, goes_to), out) if goes_there else out


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


def name_devices() -> tuple[torch.device, torch.device]:
    """Two devices beside the processor; once in a process, in which `meta` is then itself again."""
    _pretended.clear()
    _pretended.add("pretended")
    _setup_privateuseone_for_python_backend("pretended")
    return torch.device("pretended:0"), torch.device("pretended:1")


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Within the `with`, tensors may lie on pretended devices; `meta` is the one that is given."""
    with _Lists(), _Factories():
        yield ELSEWHERE
