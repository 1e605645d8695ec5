"""Plain attention by name, for the bidirectional teacher and cross-attention: `sdpa`, `xformers` or `math`.

All take queries `(B, L, H, D)`, keys and values `(B, T, H, D)` and give `(B, L, H, D)`.
"""

from __future__ import annotations

import importlib
import importlib.util
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.dispatch import require, working_dtype

Backend = Literal["sdpa", "xformers", "math"]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

_in_use: list[Backend] = []
"""What `using` was given, innermost last; one for all threads, since backward passes run in threads of autograd's."""
_USUAL_WIDTH = 64
_XFORMERS_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def attend(q: Tensor, k: Tensor, v: Tensor, backend: Backend = "sdpa") -> Tensor:
    """Softmax attention with logits scaled by D^-0.5.

    Args:
        q: `(B, L, H, D)`.
        k: `(B, T, H, D)`.
        v: `(B, T, H, D)`.
        backend: `sdpa`, PyTorch's own choice of kernel; `xformers`, its memory-efficient attention; `math`, the
            reference, which holds all weights.

    Returns:
        `(B, L, H, D)` in the dtype of `q`.

    Raises:
        ValueError: for shapes that do not fit, another name, or a backend that cannot run here; it says why.
    """
    require(q.ndim == 4, f"q {tuple(q.shape)} must be (B, L, H, D)")
    batch, _, heads, width = q.shape
    wanted = (batch, k.shape[1] if k.ndim == 4 else -1, heads, width)
    require(tuple(k.shape) == wanted and k.shape == v.shape,
            f"k {tuple(k.shape)} and v {tuple(v.shape)} must be one ({batch}, T, {heads}, {width})")  # fmt: skip
    why = why_not(backend, q)
    require(why is None, f"attention backend {backend!r} cannot run here: {why}")
    return BACKENDS[backend](q, k, v)


def why_not(backend: Backend, q: Tensor) -> str | None:
    """Why a backend cannot take such queries, and the way out; None where it can.

    Raises:
        ValueError: for another name.
    """
    require(backend in BACKENDS, f"attention backend {backend!r} is not one of {', '.join(typing.get_args(Backend))}")
    if backend != "xformers":
        return None
    if q.device.type != "cuda":
        return f"xformers has no kernels for a {q.device.type}, only for CUDA and ROCm: choose sdpa"
    if q.dtype not in _XFORMERS_DTYPES:
        return f"xformers takes no {q.dtype}: choose sdpa, or cast"
    if importlib.util.find_spec("xformers") is None:
        return "xformers is not installed: pip install relic-world[gpu], or choose sdpa"
    return _xformers_fault(q.device, q.dtype, q.shape[-1] if q.ndim == 4 else _USUAL_WIDTH)


@lru_cache
def _xformers_fault(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    """What xformers says when asked for a little attention: its kernels may be of another PyTorch than is here."""
    q, k, v = torch.zeros(3, 1, 8, 1, width, device=device, dtype=dtype)
    try:
        _xformers(q, k, v)
    except (ImportError, RuntimeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return f"xformers is installed without a kernel for it ({said}): install one of this PyTorch, or choose sdpa"
    return None


@contextmanager
def using(backend: Backend) -> Iterator[None]:
    """Within the `with`, networks attend by a backend wherever plain attention is theirs to choose.

    Raises:
        ValueError: for another name.
    """
    require(backend in BACKENDS, f"attention backend {backend!r} is not one of {', '.join(typing.get_args(Backend))}")
    _in_use.append(backend)
    try:
        yield
    finally:
        _in_use.pop()


def attend_as_chosen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` by the backend of the innermost `using`, else by SDPA; in the precision of autocast where it is on."""
    backend = _in_use[-1] if _in_use else "sdpa"
    if backend == "sdpa":
        return _sdpa(q, k, v)
    device = q.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        q, k, v = (one.to(torch.get_autocast_dtype(device)) for one in (q, k, v))
    return attend(q, k, v, backend)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    operators: Any = importlib.import_module("xformers.ops")
    out: Tensor = operators.memory_efficient_attention(q, k, v)
    return out


def _math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    wide = working_dtype(q)
    logits = torch.einsum("blhd,bthd->bhlt", q.to(wide), k.to(wide)) * q.shape[-1] ** -0.5
    return torch.einsum("bhlt,bthd->blhd", logits.softmax(-1), v.to(wide)).to(q.dtype)


BACKENDS: Mapping[Backend, Attention] = MappingProxyType({"sdpa": _sdpa, "xformers": _xformers, "math": _math})
"""What each name runs; `attend` checks first that it can."""
