"""A frame's keys, turned to their places, and its values written among those that a block reads, on a processor.

`relic.memory.read_buffer` does the same in PyTorch, and says what for.

Axes: N layers, B batch, L tokens of the frame, T tokens there is room for, H heads, D head width.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.native import check, function, may_run

_PLACES = ("k", "v", "keys", "values")
_FIELDS = (
    *(f"{name}_{what}" for name in _PLACES for what in ("at", "layers_apart", "cases_apart")),
    *("turns", "layers", "cases", "tokens", "heads", "head_dim", "threads"),
)
_NUMBERS_A_THREAD = 2**18
"""Of keys: with fewer, waking another thread takes about as long as it saves."""


class _Frame(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _FIELDS]


def writes_natively(k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether the C++ may write such tensors, see `relic_kernels.native.may_run`: all of one dtype."""
    return k.dtype == v.dtype == keys.dtype == values.dtype and may_run(k.dtype, k, v, keys, values)


def write_frame(k: Tensor, v: Tensor, turns: Tensor, keys: Tensor, values: Tensor, begin: int, threads: int) -> None:
    """Write a frame's tokens from token `begin` on; each case of each layer's may lie apart from the others.

    Args:
        k: `(N, B, L, H, D)` before RoPE, float32 or bfloat16; D is even.
        v: the same of the values.
        turns: `(L, D / 2)` complex64, contiguous: what every head's pairs of neighbouring numbers are multiplied by.
        keys: `(N, B, T, H, D)` of the same dtype; written.
        values: the same; written.
        begin: at most T - L.
        threads: at most; a frame of few numbers is one thread's.

    Raises:
        ValueError: for tensors that do not fit, before anything is written, or where the C++ cannot run.
    """
    layers, batch, tokens, heads, width = k.shape
    room = keys.shape[2]
    require(0 <= begin <= room - tokens, f"{tokens} tokens from {begin} on do not fit the {room} there is room for")
    require(width % 2 == 0, f"heads of {width} numbers are no pairs: the head width must be even")
    check("turns", turns, (tokens, width // 2), torch.complex64)
    shapes = (k.shape, k.shape, (layers, batch, room, heads, width), (layers, batch, room, heads, width))
    begins = (0, 0, begin, begin)
    places: list[int] = []
    for name, tensor, shape, first in zip(_PLACES, (k, v, keys, values), shapes, begins, strict=True):
        _check(name, tensor, shape, k.dtype)
        apart = tensor.stride()
        places += (tensor.data_ptr() + first * heads * width * tensor.element_size(), apart[0], apart[1])
    team = max(1, min(threads, k.numel() // _NUMBERS_A_THREAD))
    frame = _Frame(*places, turns.data_ptr(), layers, batch, tokens, heads, width, team)
    function("memory_frames", k.dtype)(ctypes.byref(frame))


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise unless the tokens of a case lie side by side."""
    *_, heads, width = shape
    fits = tensor.shape == shape and tensor.dtype == dtype and tensor.is_cpu
    if not fits or tensor.stride()[2:] != (heads * width, width, 1):
        check(name, tensor, shape, dtype)
