"""Attention of the current block to pooled memory, to the window and to itself.

Registered as `torch.ops.relic.memory_attention`, which reads each part where it lies and has gradients for the block's
own queries, keys and values; memory is constant (paper, eq. 5). `torch.ops.relic.memory_unpack` writes all parts as
one stretch of keys and values, which SDPA reads where a block has many queries.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from relic_kernels.dispatch import chosen, launched_on, require, working_dtype
from relic_kernels.memory_attention import reference, sdpa
from relic_kernels.memory_attention.parts import Part, empty_part
from relic_kernels.memory_attention.turns import Turns

__all__ = ["Part", "Turns", "Way", "memory_attention"]

Way = Literal["in place", "unpacked"]
WIDTHS = (32, 64, 128)
HALF = (torch.float16, torch.bfloat16)
UNPACKED_WIDTHS = (64, 128)
FEW_QUERIES = 256
"""Up to so many parts are read in place; more pay for a copy of them (counted in this folder's README)."""
_TENSORS_OF_PART = 6


def memory_attention(
    q: Tensor,
    own: Part,
    pooled: Part | None = None,
    window: Part | None = None,
    *,
    softmax_scale: float | None = None,
    splits: int = 1,
    way: Way | None = None,
) -> Tensor:
    """Softmax attention of a block.

    Where Triton runs, more than `FEW_QUERIES` queries in half precision with heads of 64 or 128, without `splits`, go
    the way "unpacked" by themselves; all else goes "in place". Gradients are taken in place after either.

    Args:
        q: `(B, L, H, D)` queries after RoPE; D is 32, 64 or 128.
        own: the block's keys and values, not quantised.
        pooled: the compressed part of memory; None for none.
        window: the uncompressed part; None for none.
        softmax_scale: factor of the logits; D^-0.5 when left out.
        splits: shares of the pooled part that are worked on side by side, for few queries and a long memory.
        way: "in place" reads each part where it lies, in one kernel; "unpacked" first writes turned keys and values of
            all parts, in the dtype of `q`, to memory that is free again after the call. None for the choice above.

    Returns:
        `(B, L, H, D)` in the dtype of `q`.

    Raises:
        ValueError: for shapes that do not fit, another way, or the way "unpacked" with `splits`, or with gradients of
            what is not half precision.
    """
    require(q.ndim == 4 and q.shape[-1] in WIDTHS, f"q {tuple(q.shape)} must be (B, L, H, D) with D one of {WIDTHS}")
    require(own.k_scale is None, "own.k_scale must be None: the block's own keys are not quantised")
    require(splits >= 1, f"splits {splits} must be at least 1")
    parts = [part or empty_part(q) for part in (pooled, window)]
    for part, name in ((own, "own"), (parts[0], "pooled"), (parts[1], "window")):
        part.check(q, name)
    require(own.k.shape[1] > 0, "own.k holds no token: a block attends to itself")
    require(way is None or way in typing.get_args(Way), f"way {way!r} is not one of {typing.get_args(Way)}")
    memory = [tensor for part in parts for tensor in part.tensors]
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    unpacked = way == "unpacked" or (way is None and splits == 1 and _pays(q))
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, own.k, own.v))
    require(not unpacked or splits == 1, f"the way 'unpacked' has no splits, not {splits}: take 'in place'")
    if unpacked and not learns:
        keys, values = torch.ops.relic.memory_unpack(q, [*memory, *own.tensors])
        return sdpa.attend(q, keys, values, scale)
    require(
        not unpacked or q.dtype in HALF,
        f"the way 'unpacked' has no gradient in {q.dtype}: take 'in place', or torch.no_grad()",
    )
    out, _ = torch.ops.relic.memory_attention(
        q, own.k, own.v, own.turns.table, own.turns.offsets, memory, scale, splits, unpacked
    )  # fmt: skip
    return out


def _pays(q: Tensor) -> bool:
    """Whether a copy of the parts costs less than reading them anew for every tile of queries."""
    return chosen(q) == "triton" and q.dtype in HALF and q.shape[-1] in UNPACKED_WIDTHS and q.shape[1] > FEW_QUERIES


@torch.library.custom_op("relic::memory_unpack", mutates_args=())
def _unpack(q: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    size = _TENSORS_OF_PART
    if chosen(q) == "reference":
        keys, values = reference.joined([parts[i : i + size] for i in range(0, len(parts), size)], working_dtype(q))
        return keys.to(q.dtype), values.to(q.dtype)
    from relic_kernels.memory_attention import unpack

    parts = [tensor.contiguous() for tensor in parts]
    with launched_on(q):
        return unpack.unpack([parts[i : i + size] for i in range(0, len(parts), size)], q.dtype)


@_unpack.register_fake
def _(q: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    batch, _, heads, width = q.shape
    tokens = sum(keys.shape[1] for keys in parts[::_TENSORS_OF_PART])
    return q.new_empty((batch, tokens, heads, width)), q.new_empty((batch, tokens, heads, width))


def _parts(
    k: Tensor, v: Tensor, table: Tensor, offsets: Tensor, memory: Sequence[Tensor]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    none = table.new_empty(0)
    size = _TENSORS_OF_PART
    return [k, v, table, offsets, none, none], [list(memory[:size]), list(memory[size:])]


@torch.library.custom_op("relic::memory_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    offsets: Tensor,
    memory: Sequence[Tensor],
    softmax_scale: float,
    splits: int,
    unpacked: bool,
) -> tuple[Tensor, Tensor]:
    if chosen(q) == "reference":
        own, parts = _parts(k, v, table, offsets, memory)
        return reference.memory_attention(q, own, parts, softmax_scale), q.new_empty(0, dtype=torch.float32)
    from relic_kernels.memory_attention import triton_impl, unpack

    k, v, table, offsets, *memory = (tensor.contiguous() for tensor in (k, v, table, offsets, *memory))
    own, parts = _parts(k, v, table, offsets, memory)
    with launched_on(q):
        if unpacked:
            return sdpa.attend_with_logs(q, *unpack.unpack([*parts, own], q.dtype), softmax_scale)
        return triton_impl.forward(q.contiguous(), own, parts, softmax_scale, splits)


@_forward.register_fake
def _(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    shape = (0,) if chosen(q) == "reference" else (q.shape[0], q.shape[2], q.shape[1])
    return torch.empty_like(q), q.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("relic::memory_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    offsets: Tensor,
    memory: Sequence[Tensor],
    softmax_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if not lse.numel():
        own, parts = _parts(k, v, table, offsets, memory)
        return reference.memory_attention_backward(grad, q, own, parts, softmax_scale)
    from relic_kernels.memory_attention import backward

    k, v, table, offsets, *memory = (tensor.contiguous() for tensor in (k, v, table, offsets, *memory))
    own, parts = _parts(k, v, table, offsets, memory)
    return backward.backward(grad.contiguous(), out, lse, q.contiguous(), own, parts, softmax_scale)


_backward.register_fake(
    lambda _grad, _out, _lse, q, k, v, *_: (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, table, offsets, memory, ctx.softmax_scale, *_ = inputs
    ctx.memory = len(memory)
    ctx.save_for_backward(*output, q, k, v, table, offsets, *memory)
    ctx.mark_non_differentiable(output[1])


def _propagate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    out, lse, q, k, v, table, offsets, *memory = ctx.saved_tensors
    dq, dk, dv = torch.ops.relic.memory_attention_backward(
        grad, out, lse, q, k, v, table, offsets, memory, ctx.softmax_scale
    )
    return dq, dk, dv, None, None, [None] * ctx.memory, None, None, None


_forward.register_autograd(_propagate, setup_context=_save)
