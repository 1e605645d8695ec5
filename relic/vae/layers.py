"""Layers of the small picture networks: pointwise ones, and residual blocks of a depth-wise convolution.

Where they are run without gradients on a processor, C++ computes them (`relic_kernels.residual_blocks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relic_kernels import residual_blocks as native


class Pointwise(nn.Module):
    """A 1x1 convolution as the matrix product it is; with channels last, nothing is copied for it.

    Args:
        inputs: channels, once folded.
        outputs: channels before they are unfolded.
        fold: side of the cells whose positions become channels before.
        unfold: side of the cells that channels become after.
        zero: begin with weights of zero.
    """

    def __init__(self, inputs: int, outputs: int, *, fold: int = 1, unfold: int = 1, zero: bool = False) -> None:
        super().__init__()
        self.fold, self.unfold = fold, unfold
        self.weight = nn.Parameter(
            torch.zeros(outputs, inputs) if zero else torch.randn(outputs, inputs) * inputs**-0.5
        )
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in / fold^2, h fold, w fold) of any precision -> (N, out / unfold^2, h unfold, w unfold)."""
        if native.runs_natively(x, self.weight):
            return native.pointwise(x, self.weight, self.bias, self.fold, self.unfold)
        x = channels_last(F.pixel_unshuffle(x.to(self.weight.dtype), self.fold))
        out = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
        return F.pixel_shuffle(out, self.unfold)


class ResidualBlock(nn.Module):
    """Normalise, depth-wise convolution, widen, SiLU, narrow, add.

    Args:
        channels: of what goes in and comes out.
        expansion: how many times as many are between.
        side: of the depth-wise kernel.
        shifted: of the normalised channels, the first so many are read from the frame before.
    """

    def __init__(self, channels: int, expansion: int, side: int, shifted: int = 0) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm_weight = nn.Parameter(torch.ones(channels))
        self.norm_bias = nn.Parameter(torch.zeros(channels))
        self.depthwise = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)
        self.widen = Pointwise(channels, channels * expansion)
        self.narrow = Pointwise(channels * expansion, channels, zero=True)

    def forward(self, x: Tensor, past: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) and the shifted channels of the frame before, (batch, C', h, w) -> the same, updated."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.norm_weight, self.norm_bias).permute(0, 3, 1, 2)
        moving = y[:, : self.shifted]
        if self.shifted:
            before = torch.zeros_like(moving[:batch]) if past is None else past.to(moving)
            y = torch.cat([torch.cat([before, moving[:-batch]]), y[:, self.shifted :]], dim=1)
        y = self.narrow(F.silu(self.widen(self.depthwise(channels_last(y)))))
        return x + y, moving[-batch:].clone()

    def weights(self) -> tuple[Tensor, ...]:
        """Its parameters, for the C++, in the order of `relic_kernels.residual_blocks.ResidualWeights`."""
        # looked up at every call, and as attributes that takes ten times as long
        parts = [cast(nn.Module, self._modules[name])._parameters for name in ("depthwise", "widen", "narrow")]
        norm = [self._parameters[name] for name in ("norm_weight", "norm_bias")]
        return cast(tuple[Tensor, ...], (*norm, *(part[name] for part in parts for name in ("weight", "bias"))))


class ResidualStack(nn.ModuleList):
    """Blocks one after another, in one call of C++ where that can be.

    Attributes:
        in_bytes: whether the C++ multiplies 8-bit integers, made of the weights as they are at the first call. Set it
            where the processor can; blocks whose widths are no multiples of 4 do without.
    """

    in_bytes = False

    def __init__(self, count: int, channels: int, expansion: int, side: int, shifted: int = 0) -> None:
        super().__init__(ResidualBlock(channels, expansion, side, shifted) for _ in range(count))
        self.shifted = shifted
        self._native: native.ResidualBlocks | None = None

    def forward(self, x: Tensor, past: Sequence[Tensor | None] = (), batch: int = 1) -> tuple[Tensor, list[Tensor]]:
        """See `ResidualBlock.forward`, with a past for each block, or none.

        Args:
            x: `(N, C, h, w)`.
            past: `(batch, C', h, w)` of each block; empty at the beginning.
            batch: streams side by side.
        """
        blocks = [cast(ResidualBlock, block) for block in self]
        before = past or [None] * len(blocks)
        if blocks and native.runs_natively(x, blocks[0].widen.weight):
            return self._by_cpp(blocks)(x, before, batch)
        kept = []
        for block, last in zip(blocks, before, strict=True):
            x, own = block(x, last, batch)
            kept.append(own)
        return x, kept

    def _by_cpp(self, blocks: Sequence[ResidualBlock]) -> native.ResidualBlocks:
        weights = [block.weights() for block in blocks]
        in_bytes = self.in_bytes and not any(side % 4 for side in blocks[0].widen.weight.shape)
        made = self._native
        if made is None or made.in_bytes != in_bytes or not made.holds([one for block in weights for one in block]):
            layers = [native.ResidualWeights(*block) for block in weights]
            made = self._native = native.ResidualBlocks(layers, self.shifted, in_bytes=in_bytes)
        return made


def multiply_bytes(network: nn.Module, on: bool) -> None:
    """Say whether the residual blocks of a network are to multiply 8-bit integers, see `ResidualStack`."""
    for module in network.modules():
        if isinstance(module, ResidualStack):
            module.in_bytes = on


def channels_last(x: Tensor) -> Tensor:
    """The same numbers with each position's channels side by side."""
    return x.contiguous(memory_format=torch.channels_last)
