"""Attention of the current block to pooled memory, to the window and to itself, each read where it lies.

Registered as `torch.ops.relic.memory_attention`, with gradients for the block's own queries, keys and values; memory is
constant (paper, eq. 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relic_kernels.dispatch import chosen, launched_on, require
from relic_kernels.memory_attention import reference
from relic_kernels.memory_attention.parts import Part, empty_part
from relic_kernels.memory_attention.turns import Turns

__all__ = ["Part", "Turns", "memory_attention"]

WIDTHS = (32, 64, 128)
_TENSORS_OF_PART = 6


def memory_attention(
    q: Tensor,
    own: Part,
    pooled: Part | None = None,
    window: Part | None = None,
    *,
    softmax_scale: float | None = None,
    splits: int = 1,
) -> Tensor:
    """Softmax attention of a block.

    Args:
        q: `(B, L, H, D)` queries after RoPE; D is 32, 64 or 128.
        own: the block's keys and values, not quantised.
        pooled: the compressed part of memory; None for none.
        window: the uncompressed part; None for none.
        softmax_scale: factor of the logits; D^-0.5 when left out.
        splits: shares of the pooled part that are worked on side by side, for few queries and a long memory.

    Returns:
        `(B, L, H, D)` in the dtype of `q`.

    Raises:
        ValueError: for shapes that do not fit.
    """
    require(q.ndim == 4 and q.shape[-1] in WIDTHS, f"q {tuple(q.shape)} must be (B, L, H, D) with D one of {WIDTHS}")
    require(own.k_scale is None, "own.k_scale must be None: the block's own keys are not quantised")
    require(splits >= 1, f"splits {splits} must be at least 1")
    parts = [part or empty_part(q) for part in (pooled, window)]
    for part, name in ((own, "own"), (parts[0], "pooled"), (parts[1], "window")):
        part.check(q, name)
    require(own.k.shape[1] > 0, "own.k holds no token: a block attends to itself")
    memory = [tensor for part in parts for tensor in part.tensors]
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    out, _ = torch.ops.relic.memory_attention(
        q, own.k, own.v, own.turns.table, own.turns.offsets, memory, scale, splits
    )  # fmt: skip
    return out


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
) -> tuple[Tensor, Tensor]:
    if chosen(q) == "reference":
        own, parts = _parts(k, v, table, offsets, memory)
        return reference.memory_attention(q, own, parts, softmax_scale), q.new_empty(0, dtype=torch.float32)
    from relic_kernels.memory_attention import triton_impl

    k, v, table, offsets, *memory = (tensor.contiguous() for tensor in (k, v, table, offsets, *memory))
    own, parts = _parts(k, v, table, offsets, memory)
    with launched_on(q):
        return triton_impl.forward(q.contiguous(), own, parts, softmax_scale, splits)


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    offsets: Tensor,
    memory: Sequence[Tensor],
    softmax_scale: float,
    splits: int,
) -> tuple[Tensor, Tensor]:
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
    q, k, v, table, offsets, memory, ctx.softmax_scale, _ = inputs
    ctx.memory = len(memory)
    ctx.save_for_backward(*output, q, k, v, table, offsets, *memory)
    ctx.mark_non_differentiable(output[1])


def _propagate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    out, lse, q, k, v, table, offsets, *memory = ctx.saved_tensors
    dq, dk, dv = torch.ops.relic.memory_attention_backward(
        grad, out, lse, q, k, v, table, offsets, memory, ctx.softmax_scale
    )
    return dq, dk, dv, None, None, [None] * ctx.memory, None, None


_forward.register_autograd(_propagate, setup_context=_save)
