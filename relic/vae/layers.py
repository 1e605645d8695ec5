"""Layers of the small picture networks: pointwise ones, and residual blocks of a depth-wise convolution.

Where a network of them is run without gradients on a processor, C++ computes it (`relic_kernels.picture_network`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, ValuesView
from itertools import chain
from operator import is_
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relic_kernels import picture_network as native
from relic_kernels.native import may_run
from relic_kernels.picture_network import Blocks, Layer, ResidualWeights, Step


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
        x = channels_last(F.pixel_unshuffle(x.to(self.weight.dtype), self.fold))
        out = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
        return F.pixel_shuffle(out, self.unfold)

    def step(self, source: int, target: int, *, adds: bool = False) -> Layer:
        """As a step of the C++, see `relic_kernels.picture_network.Layer`."""
        return Layer(
            weight=self.weight,
            bias=self.bias,
            source=source,
            target=target,
            fold=self.fold,
            unfold=self.unfold,
            adds=adds,
        )


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

    def weights(self) -> ResidualWeights:
        """Its parameters, for the C++."""
        layers = (self.depthwise, self.widen, self.narrow)
        parts = (cast(Tensor, part) for layer in layers for part in (layer.weight, layer.bias))
        return ResidualWeights(self.norm_weight, self.norm_bias, *parts)


class ResidualStack(nn.ModuleList):
    """Blocks one after another.

    Attributes:
        in_bytes: whether the C++ multiplies 8-bit integers, made of the weights as they are at the first call. Set it
            where the processor can; blocks whose widths are no multiples of 4 do without.
    """

    in_bytes = False

    def __init__(self, count: int, channels: int, expansion: int, side: int, shifted: int = 0) -> None:
        super().__init__(ResidualBlock(channels, expansion, side, shifted) for _ in range(count))
        self.shifted = shifted

    def forward(self, x: Tensor, past: Sequence[Tensor | None] = (), batch: int = 1) -> tuple[Tensor, list[Tensor]]:
        """See `ResidualBlock.forward`, with a past for each block, or none.

        Args:
            x: `(N, C, h, w)`.
            past: `(batch, C', h, w)` of each block; empty at the beginning.
            batch: streams side by side.
        """
        kept = []
        for block, last in zip(self, past or [None] * len(self), strict=True):
            x, own = block(x, last, batch)
            kept.append(own)
        return x, kept

    def step(self, pictures: int) -> Blocks:
        """As a step of the C++ over the pictures of a number, in place."""
        weights = [cast(ResidualBlock, block).weights() for block in self]
        in_bytes = self.in_bytes and not any(side % 4 for side in weights[0].widen.shape)
        return Blocks(blocks=weights, source=pictures, target=pictures, shifted=self.shifted, in_bytes=in_bytes)


class SteppedNetwork(nn.Module, ABC):
    """A network of such layers, in one call of C++ where that can be; hooks on its layers are not called then."""

    def __init__(self) -> None:
        super().__init__()
        self._native: _Native | None = None

    @abstractmethod
    def steps(self) -> list[Step]:
        """What C++ does, as `relic_kernels.picture_network` has it: pictures 0 are the input."""

    @abstractmethod
    def by_torch(self, x: Tensor, past: Sequence[Tensor | None], batch: int) -> tuple[Tensor, list[Tensor]]:
        """The same in PyTorch, see `run`."""

    def run(
        self, x: Tensor, past: Sequence[Tensor | None] = (), batch: int = 1, unread: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the network.

        Args:
            x: `(N, C, H, W)` frames of any precision, those of one moment for all streams together.
            past: for each block of all stacks what it kept, `(batch, C', h, w)`; empty at the beginning.
            batch: streams side by side.
            unread: frames at the beginning, fewer than N, whose output is not wanted.

        Returns:
            The output of the other frames, and what each block keeps; float32 by C++, else of the weights' precision.

        Raises:
            ValueError: for another number of channels, or a past of another size.
        """
        if may_run(torch.float32, x):
            if self._native is None or not self._native.holds():
                self._native = _Native(self, x.shape[1])
            if self._native.network is not None:
                return self._native.network(x, past, batch, unread)
        out, kept = self.by_torch(x, past, batch)
        return out[unread:], kept


class _Native:
    """The C++ of a network.

    Attributes:
        network: None where it cannot run with the network's weights.
    """

    def __init__(self, network: SteppedNetwork, channels: int) -> None:
        modules = list(network.modules())
        # they are looked at before every call, and through attributes that takes ten times as long
        self._owners: list[ValuesView[Any]] = [
            owner.values() for module in modules for owner in (module._modules, module._parameters) if owner
        ]
        self._parts = self._parts_now()
        self._stacks = [module for module in modules if isinstance(module, ResidualStack)]
        self._in_bytes = [stack.in_bytes for stack in self._stacks]
        self.network: native.PictureNetwork | None = None
        weights = list(network.parameters())
        if may_run(weights[0].dtype, *weights) and native.fits(weights[0].dtype, steps := network.steps()):
            self.network = native.PictureNetwork(channels, steps)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """See `relic_kernels.native.PlacedWeights`."""
        return type(None), ()

    def holds(self) -> bool:
        """Whether it is still that of its network, whose parts may be cast, moved or put in place of others."""
        parts = self._parts_now()
        return (
            self.network is not None
            and len(parts) == len(self._parts)
            and all(map(is_, parts, self._parts))
            and [stack.in_bytes for stack in self._stacks] == self._in_bytes
            and self.network.holds()
        )

    def _parts_now(self) -> list[object]:
        return [*chain.from_iterable(self._owners)]


def multiply_bytes(network: nn.Module, on: bool) -> None:
    """Say whether the residual blocks of a network are to multiply 8-bit integers, see `ResidualStack`."""
    for module in network.modules():
        if isinstance(module, ResidualStack):
            module.in_bytes = on


def channels_last(x: Tensor) -> Tensor:
    """The same numbers with each position's channels side by side."""
    return x.contiguous(memory_format=torch.channels_last)
