"""A transformer for the tokens of one frame in plain PyTorch, in the precision of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.attention_backends import attend
from relic_kernels.frame_network import BlockInputs, BlockWeights, EndWeights, FrameInputs, Gelu, Level
from relic_kernels.native.reference import linear_of_bytes


def frame_network(
    ends: EndWeights,
    layers: Sequence[BlockWeights],
    heads: int,
    side: int,
    eps: float,
    gelu: Gelu,
    frame: FrameInputs,
    level: Level,
    inputs: Sequence[BlockInputs],
    *,
    in_bytes: bool = False,
) -> Tensor:
    """See `relic_kernels.frame_network.FrameNetwork`: `(B, C, h, w)` velocity; inputs are written as there.

    Args:
        ends: weights of the first and the last layer.
        layers: weights of each block.
        heads: H.
        side: of a patch.
        eps: of all norms.
        gelu: `tanh`, or `none` for the exact one.
        frame: what the pass reads.
        level: its noise level.
        inputs: of each block.
        in_bytes: whether the blocks' layers multiply 8-bit integers.
    """
    linear = linear_of_bytes if in_bytes else F.linear
    patches = F.pixel_unshuffle(frame.latents, side).flatten(2).transpose(1, 2)
    x = F.linear(patches, ends.embed.flatten(1), ends.embed_bias)
    if frame.guide is not None:
        x = x + frame.guide
    for w, one in zip(layers, inputs, strict=True):
        x = _block(w, linear, heads, eps, gelu, x, frame.rotation, level.modulation, one)
    shift, scale = level.ends_modulation.unsqueeze(2).unbind(1)
    out = F.linear(F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift, ends.out, ends.out_bias)
    if frame.skip is not None:
        out = out - torch.tensor(level.sigma, dtype=out.dtype)[:, None, None] * frame.skip
    cells = out.unflatten(-1, (side**2, -1)).transpose(2, 3).flatten(2)
    rows = frame.latents.shape[-2] // side
    return F.pixel_shuffle(cells.transpose(1, 2).unflatten(2, (rows, -1)), side)


def _block(
    w: BlockWeights,
    linear: Callable[[Tensor, Tensor, Tensor], Tensor],
    heads: int,
    eps: float,
    gelu: Gelu,
    x: Tensor,
    rotation: Tensor,
    modulation: Tensor,
    one: BlockInputs,
) -> Tensor:
    """`(B, L, M)` -> the same."""
    own = x.shape[1]
    table = (w.modulation + modulation).unsqueeze(2)
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(1)
    normed = F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift
    pose = one.pose.squeeze(1)
    q = _rms(linear(normed, w.q, w.q_bias) + pose, w.norm_q, eps).unflatten(-1, (heads, -1))
    k = _rms(linear(normed, w.k, w.k_bias) + pose, w.norm_k, eps).unflatten(-1, (heads, -1))
    v = linear(normed, w.v, w.v_bias).unflatten(-1, (heads, -1))
    one.own_k[:, 0], one.own_v[:, 0] = k, v
    one.keys[:, :own], one.values[:, :own] = _turn(k, rotation), v
    seen = attend(_turn(q, rotation), one.keys, one.values, "math")
    x = x + linear(seen.flatten(2), w.out, w.out_bias) * gate + one.action.squeeze(1)
    normed = F.layer_norm(x, x.shape[-1:], w.text_norm, w.text_norm_bias, eps)
    q = _rms(linear(normed, w.text_q, w.text_q_bias), w.text_norm_q, eps).unflatten(-1, (heads, -1))
    x = x + linear(attend(q, one.text_k, one.text_v, "math").flatten(2), w.text_out, w.text_out_bias)
    normed = F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + ffn_scale) + ffn_shift
    hidden = F.gelu(linear(normed, w.widen, w.widen_bias), approximate=gelu)
    return x + linear(hidden, w.narrow, w.narrow_bias) * ffn_gate


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def _turn(x: Tensor, rotation: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotation[:, None]).flatten(-2)
