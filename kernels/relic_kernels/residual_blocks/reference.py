"""Residual convolution blocks in plain PyTorch, in the precision of their tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.linear_layers.reference import linear_of_bytes
from relic_kernels.residual_blocks import EPS, ResidualWeights


def residual_blocks(
    x: Tensor,
    blocks: Sequence[ResidualWeights],
    past: Sequence[Tensor | None],
    shifted: int,
    streams: int = 1,
    *,
    in_bytes: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """See `relic_kernels.residual_blocks.residual_blocks`; what comes out has the precision that went in.

    Args:
        x: `(N, C, h, w)`.
        blocks: weights of each.
        past: for each block `(streams, shifted, h, w)`; None for zeros.
        shifted: channels that are those of the frame before.
        streams: frames side by side.
        in_bytes: whether the layers that widen and narrow multiply 8-bit integers.
    """
    linear = linear_of_bytes if in_bytes else F.linear
    kept = []
    for w, before in zip(blocks, past, strict=True):
        normed = F.layer_norm(x.movedim(1, -1), (x.shape[1],), w.norm, w.norm_bias, EPS).movedim(-1, 1)
        moving = normed[:, :shifted]
        first = torch.zeros_like(moving[:streams]) if before is None else before
        y = torch.cat([torch.cat([first, moving[:-streams]]), normed[:, shifted:]], dim=1)
        y = F.conv2d(y, w.depthwise, w.depthwise_bias, padding=w.depthwise.shape[-1] // 2, groups=x.shape[1])
        hidden = F.silu(linear(y.movedim(1, -1), w.widen, w.widen_bias))
        x = x + linear(hidden, w.narrow, w.narrow_bias).movedim(-1, 1)
        kept.append(moving[-streams:])
    return x, kept


def pointwise(x: Tensor, weight: Tensor, bias: Tensor, fold: int = 1, unfold: int = 1) -> Tensor:
    """See `relic_kernels.residual_blocks.pointwise`.

    Args:
        x: `(N, I / fold^2, h fold, w fold)`.
        weight: `(O, I)`.
        bias: `(O,)`.
        fold: side of the cells whose positions become channels before.
        unfold: side of the cells that channels become after.
    """
    return F.pixel_shuffle(F.conv2d(F.pixel_unshuffle(x, fold), weight[:, :, None, None], bias), unfold)
