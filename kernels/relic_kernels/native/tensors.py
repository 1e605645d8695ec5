"""Which tensors the C++ operators take."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from relic_kernels.dispatch import is_forced
from relic_kernels.native.library import why_not

_WITH_NUMBERS = (Tensor, Parameter)


def may_run(dtype: torch.dtype, *tensors: Tensor) -> bool:
    """Whether the C++ may compute with tensors on a processor, where it can be had in `dtype`.

    Not with gradients, under autocast, where another implementation is forced, or with tensors that only pretend to
    have numbers.
    """
    return (
        not torch.is_grad_enabled()
        and not is_forced()
        and all(tensor.is_cpu and type(tensor) in _WITH_NUMBERS for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and why_not(dtype) is None
    )


def check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise a `ValueError` that names a tensor which the C++ would misread."""
    if tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous() and tensor.is_cpu:
        return
    raise ValueError(
        f"{name} is {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}, "
        f"{'' if tensor.is_contiguous() else 'not '}contiguous: it must be {shape} of {dtype}, contiguous, on the CPU"
    )


def check_cases(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The same for a tensor whose cases, along its first axis, may lie apart from each other."""
    if tensor.shape == shape and shape[0] > 1 and not tensor.is_contiguous():
        check(f"a case of {name}", tensor[0], shape[1:], dtype)
    else:
        check(name, tensor, shape, dtype)


def place_of(tensor: Tensor, case: int = 0) -> int:
    """Address of a case of a tensor, counted along its first axis."""
    start = tensor.data_ptr()
    return start + case * tensor.stride(0) * tensor.element_size() if case else start
