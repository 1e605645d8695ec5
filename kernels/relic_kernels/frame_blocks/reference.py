"""Transformer blocks for the tokens of one frame in plain PyTorch, in the precision of their tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.attention_backends import attend
from relic_kernels.frame_blocks import BlockInputs, BlockWeights, Gelu


def frame_blocks(
    layers: Sequence[BlockWeights],
    heads: int,
    eps: float,
    gelu: Gelu,
    x: Tensor,
    modulation: Tensor,
    rotation: Tensor,
    inputs: Sequence[BlockInputs],
) -> Tensor:
    """See `relic_kernels.frame_blocks.FrameBlocks`: `(L, M)` tokens; inputs are written as there.

    Args:
        layers: weights of each block.
        heads: H.
        eps: of all norms.
        gelu: `tanh`, or `none` for the exact one.
        x: `(L, M)`.
        modulation: `(6, M)`.
        rotation: `(L, D / 2)` complex.
        inputs: of each block.
    """
    for w, one in zip(layers, inputs, strict=True):
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = w.modulation[0] + modulation
        normed = F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift
        q = _rms(F.linear(normed, w.q, w.q_bias) + one.pose, w.norm_q, eps).unflatten(-1, (heads, -1))
        k = _rms(F.linear(normed, w.k, w.k_bias) + one.pose, w.norm_k, eps).unflatten(-1, (heads, -1))
        one.own_k.copy_(k)
        one.own_v.copy_(F.linear(normed, w.v, w.v_bias).unflatten(-1, (heads, -1)))
        one.keys[: len(x)], one.values[: len(x)] = _turn(k, rotation), one.own_v
        seen = attend(_turn(q, rotation)[None], one.keys[None], one.values[None], "math")[0]
        x = x + F.linear(seen.flatten(1), w.out, w.out_bias) * gate + one.action
        normed = F.layer_norm(x, x.shape[-1:], w.text_norm, w.text_norm_bias, eps)
        q = _rms(F.linear(normed, w.text_q, w.text_q_bias), w.text_norm_q, eps).unflatten(-1, (heads, -1))
        read = attend(q[None], one.text_k[None], one.text_v[None], "math")[0]
        x = x + F.linear(read.flatten(1), w.text_out, w.text_out_bias)
        normed = F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + ffn_scale) + ffn_shift
        hidden = F.gelu(F.linear(normed, w.widen, w.widen_bias), approximate=gelu)
        x = x + F.linear(hidden, w.narrow, w.narrow_bias) * ffn_gate
    return x


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def _turn(x: Tensor, rotation: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotation[:, None]).flatten(-2)
