"""Picture networks in plain PyTorch, in the precision of their tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.native.reference import linear_of_bytes
from relic_kernels.picture_network import EPS, Blocks, Layer, Step


def picture_network(
    x: Tensor, steps: Sequence[Step], past: Sequence[Tensor | None] = (), streams: int = 1
) -> tuple[Tensor, list[Tensor]]:
    """See `relic_kernels.picture_network.PictureNetwork`; what comes out has the precision that went in.

    Args:
        x: `(N, C, H, W)`.
        steps: in the order they run.
        past: for each block of all steps `(streams, shifted, h, w)`; None for zeros, and empty for none but those.
        streams: frames side by side.
    """
    pictures = {0: x}
    kept: list[Tensor] = []
    for step in steps:
        y = pictures[step.source]
        if isinstance(step, Blocks):
            before = past[len(kept) :][: len(step.blocks)] if past else [None] * len(step.blocks)
            y, own = _blocks(y, step, before, streams)
            kept += own
        else:
            y = _layer(y, step)
            if step.adds:
                y = pictures[step.target] + y
        pictures[step.target] = y
    return y, kept


def coordinates(cells: Tensor) -> Tensor:
    """Where each cell of `(N, C, h, w)` lies in the picture: x and y in (-1, 1), `(N, 2, h, w)`."""
    rows, columns = cells.shape[-2:]
    x = (torch.arange(columns, dtype=cells.dtype, device=cells.device) * 2 + 1) / columns - 1
    y = (torch.arange(rows, dtype=cells.dtype, device=cells.device) * 2 + 1) / rows - 1
    return torch.stack([x.expand(rows, -1), y.unsqueeze(1).expand(-1, columns)]).expand(len(cells), -1, -1, -1)


def _layer(x: Tensor, layer: Layer) -> Tensor:
    x = F.pixel_unshuffle(x, layer.fold)
    if layer.coordinates:
        x = torch.cat([x, coordinates(x)], dim=1)
    kernel = layer.weight.unflatten(1, (-1, 1, 1)) if layer.weight.ndim == 2 else layer.weight
    return F.pixel_shuffle(F.conv2d(x, kernel, layer.bias, padding=layer.side // 2), layer.unfold)


def _blocks(x: Tensor, step: Blocks, past: Sequence[Tensor | None], streams: int) -> tuple[Tensor, list[Tensor]]:
    linear = linear_of_bytes if step.in_bytes else F.linear
    shifted, kept = step.shifted, []
    for w, before in zip(step.blocks, past, strict=True):
        normed = F.layer_norm(x.movedim(1, -1), (x.shape[1],), w.norm, w.norm_bias, EPS).movedim(-1, 1)
        moving = normed[:, :shifted]
        first = torch.zeros_like(moving[:streams]) if before is None else before
        y = torch.cat([torch.cat([first, moving[:-streams]]), normed[:, shifted:]], dim=1)
        y = F.conv2d(y, w.depthwise, w.depthwise_bias, padding=w.depthwise.shape[-1] // 2, groups=x.shape[1])
        hidden = F.silu(linear(y.movedim(1, -1), w.widen, w.widen_bias))
        x = x + linear(hidden, w.narrow, w.narrow_bias).movedim(-1, 1)
        kept.append(moving[-streams:])
    return x, kept
