"""Which implementation of an operator runs: Triton on GPUs, the reference elsewhere, or the one a test forces."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import Tensor

Implementation = Literal["reference", "triton"]

_forced: list[Implementation] = []
"""What `force` was given, innermost last; one for all threads, since backward passes run in threads of autograd's."""


@contextmanager
def force(implementation: Implementation) -> Iterator[None]:
    """Run every operator of the process by one implementation inside a `with`; for tests and measurements.

    Triton runs on CPU tensors only in its interpreter, with `TRITON_INTERPRET=1` set before the first import.

    Raises:
        ValueError: for another name.
    """
    if implementation not in typing.get_args(Implementation):
        raise ValueError(f"implementation {implementation!r} is not one of {typing.get_args(Implementation)}")
    _forced.append(implementation)
    try:
        yield
    finally:
        _forced.pop()


def chosen(tensor: Tensor) -> Implementation:
    """The implementation for an operator's first argument: the forced one, or what its device can run."""
    if _forced:
        return _forced[-1]
    return "triton" if tensor.device.type == "cuda" else "reference"


def is_forced() -> bool:
    """Whether `force` holds now: then nothing but the named implementation may run."""
    return bool(_forced)


def launched_on(tensor: Tensor) -> AbstractContextManager[None]:
    """Make a tensor's GPU the current one inside a `with`: Triton launches there, whatever its tensors' device.

    For forward passes and memory; in backward passes autograd does the same. Nothing for tensors of the processor.
    """
    guard: AbstractContextManager[None] = torch.cuda.device_of(tensor)
    return guard


def blocks_of(count: int, block: int) -> int:
    """Programs that cover `count` elements in blocks."""
    return -(-count // block)


def require(condition: bool, message: str) -> None:
    """Raise a `ValueError` unless a contract holds; the message names the bad value and the way out."""
    if not condition:
        raise ValueError(message)


def working_dtype(tensor: Tensor) -> torch.dtype:
    """What an operator computes in: float32, or float64 for a float64 reference."""
    return torch.promote_types(tensor.dtype, torch.float32)


def has_e4m3(device: torch.device) -> bool:
    """Whether kernels may name the E4M3 type there; elsewhere they read and write it as bytes, coded by hand."""
    if device.type != "cuda":
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)
