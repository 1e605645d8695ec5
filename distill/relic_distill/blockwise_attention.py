"""Attention of many blocks to overlapping stretches of the same keys, with a backward that adds gradients in place.

Autograd by itself would keep every block's joined keys and, for each stretch that a block has read, add a tensor of
gradients to those of all other readers: quadratic in the length of the clip. Here each block is computed again in the
backward pass, and its gradients go straight into one buffer.

Axes: B batch, P pooled tokens, F frames, L tokens of a frame, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from relic_kernels.attention_backends import attend_as_chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What one block attends to.

    Attributes:
        own: frames of the block: its queries, and the last of its keys.
        pooled: so many of the first pooled tokens.
        recent: frames in full before the block.
    """

    own: slice
    pooled: int
    recent: slice


def blockwise_attention(
    q: Tensor, k: Tensor, v: Tensor, pooled_k: Tensor, pooled_v: Tensor, reads: Sequence[Read]
) -> Tensor:
    """Softmax attention of every block to what it reads.

    Args:
        q: `(B, F, L, H, D)` rotated queries.
        k: `(B, F, L, H, D)` rotated keys.
        v: `(B, F, L, H, D)` values.
        pooled_k: `(B, P, H, D)` rotated keys of pooled frames.
        pooled_v: `(B, P, H, D)` values of pooled frames.
        reads: one for each block; their `own` frames are all F, each once.

    Returns:
        `(B, F, L, H, D)`; in the autocast's precision where there is one.
    """
    device = q.device.type
    tensors = (q, k, v, pooled_k, pooled_v)
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        narrow = torch.get_autocast_dtype(device)
        tensors = cast("tuple[Tensor, Tensor, Tensor, Tensor, Tensor]", tuple(one.to(narrow) for one in tensors))
    out: Tensor = _Blockwise.apply(*tensors, reads)  # type: ignore[no-untyped-call]
    return out


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, pooled_k: Tensor, pooled_v: Tensor, reads: Sequence[Read]
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, pooled_k, pooled_v)
        ctx.reads = reads
        out = torch.empty_like(q)
        for read in reads:
            queries, *stretches = _stretches(read, q, k, v, pooled_k, pooled_v)
            out[:, read.own] = _attend(queries, *stretches).unflatten(1, (-1, q.shape[2]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        wide = torch.promote_types(inputs[0].dtype, torch.float32)
        totals = [torch.zeros(one.shape, dtype=wide, device=one.device) for one in inputs]
        for read in ctx.reads:
            leaves = [one.detach().requires_grad_() for one in _stretches(read, *inputs)]
            with torch.enable_grad():
                out = _attend(*leaves)
            found = torch.autograd.grad(out, leaves, grads[0][:, read.own].flatten(1, 2))
            for total, gradient in zip(_stretches(read, *totals), found, strict=True):
                total.add_(gradient)
        return (*(total.to(one.dtype) for total, one in zip(totals, inputs, strict=True)), None)


def _stretches(read: Read, q: Tensor, k: Tensor, v: Tensor, pooled_k: Tensor, pooled_v: Tensor) -> list[Tensor]:
    """Views `(B, tokens, H, D)` of a block's queries, then of the three stretches of its keys and of its values."""
    queries, *keys_and_values = (
        one.flatten(1, 2)
        for one in (q[:, read.own], k[:, read.recent], k[:, read.own], v[:, read.recent], v[:, read.own])
    )
    recent_k, own_k, recent_v, own_v = keys_and_values
    return [
        queries, pooled_k[:, : read.pooled], recent_k, own_k, pooled_v[:, : read.pooled], recent_v, own_v
    ]  # fmt: skip


def _attend(q: Tensor, *stretches: Tensor) -> Tensor:
    half = len(stretches) // 2
    return attend_as_chosen(q, torch.cat(stretches[:half], dim=1), torch.cat(stretches[half:], dim=1))
