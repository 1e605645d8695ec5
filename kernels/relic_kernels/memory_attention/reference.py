"""Attention of a block to its memory and itself, in plain PyTorch: every part is dequantised, rotated and joined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relic_kernels.dispatch import working_dtype
from relic_kernels.memory_attention.turns import expanded


def memory_attention(
    q: Tensor, own: Sequence[Tensor], memory: Sequence[Sequence[Tensor]], softmax_scale: float
) -> Tensor:
    """Softmax attention of rotated queries to keys that are rotated as they are read.

    Args:
        q: `(B, L, H, D)`, after RoPE.
        own: `Part.tensors` of the block itself.
        memory: those of the other parts.
        softmax_scale: factor of the logits.

    Returns:
        `(B, L, H, D)` in the dtype of `q`.
    """
    weights, values = attention_weights(q, own, memory, softmax_scale)
    return torch.einsum("bhlt,bthd->blhd", weights, values).to(q.dtype)


def attention_weights(
    q: Tensor, own: Sequence[Tensor], memory: Sequence[Sequence[Tensor]], softmax_scale: float
) -> tuple[Tensor, Tensor]:
    """Weights `(B, H, L, T)` and values `(B, T, H, D)` of all parts together, in the dtype of the computation."""
    wide = working_dtype(q)
    keys, values = joined([*memory, own], wide)
    logits = torch.einsum("blhd,bthd->bhlt", q.to(wide), keys) * softmax_scale
    return logits.softmax(-1), values


def joined(parts: Sequence[Sequence[Tensor]], wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Turned keys and values `(B, T, H, D)` of all parts, dequantised to a dtype and concatenated."""
    keys = [
        _rotate(_read(k, k_scale, wide), expanded(table, offsets, k.shape[-1]).to(wide))
        for k, _, table, offsets, k_scale, _ in parts
    ]
    return torch.cat(keys, dim=1), torch.cat([_read(v, v_scale, wide) for _, v, *_, v_scale in parts], dim=1)


def memory_attention_backward(
    grad: Tensor, q: Tensor, own: Sequence[Tensor], memory: Sequence[Sequence[Tensor]], softmax_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the queries, and of the block's own keys and values; memory is constant."""
    wide = working_dtype(q)
    weights, values = attention_weights(q, own, memory, softmax_scale)
    g = grad.to(wide)
    tokens = own[0].shape[1]
    by_weight = torch.einsum("blhd,bthd->bhlt", g, values)
    logits = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True)) * softmax_scale
    keys, _ = joined([*memory, own], wide)
    dq = torch.einsum("bhlt,bthd->blhd", logits, keys)
    first = weights.shape[-1] - tokens
    dk = torch.einsum("bhlt,blhd->bthd", logits[..., first:], q.to(wide))
    dv = torch.einsum("bhlt,blhd->bthd", weights[..., first:], g)
    turns = expanded(own[2], own[3], own[0].shape[-1]).to(wide)
    back = turns * turns.new_tensor([1.0, -1.0])
    return dq.to(q.dtype), _rotate(dk, back).to(own[0].dtype), dv.to(own[1].dtype)


def _read(stored: Tensor, scale: Tensor, wide: torch.dtype) -> Tensor:
    """Stored keys or values as numbers."""
    numbers = stored.to(torch.float32).to(wide) if stored.dtype == torch.float8_e4m3fn else stored.to(wide)
    return numbers * scale.to(wide).unsqueeze(-1) if scale.numel() else numbers


def _rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn neighbouring channels of `(B, T, H, D)` by `(T, D / 2, 2)`."""
    cos, sin = turns.unsqueeze(1).unbind(-1)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
