"""Depth of a picture: a small U-Net that looks at one frame of the world's own camera.

Axes: B pictures, H rows, W columns, C channels, h w cells of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from relic.checkpoint import load_checkpoint, load_into
from relic.config import from_json
from relic.reprojection.config import DepthConfig
from relic.vae.layers import Pointwise, ResidualStack, SteppedNetwork
from relic_kernels.picture_network import Layer, Step
from relic_kernels.picture_network.reference import coordinates

NEAREST_M, FARTHEST_M = 0.1, 30.0
_FOLD = 4
_STRIDE = 16
_PLACE_CHANNELS = 2
_TYPICAL_LOG_DEPTH = 1.0


def _stage(channels: int, count: int, expansion: int) -> ResidualStack:
    return ResidualStack(count, channels, expansion, 5)


class DepthNet(SteppedNetwork):
    """Metric z-depth from a single picture taken with the world's intrinsics.

    Each cell is told where it lies in the picture: floors and ceilings get their depth from that.
    """

    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        self.config = config
        quarter, eighth, deep = config.channels
        few, some, many = config.blocks
        self.stem = Pointwise(3 * _FOLD**2 + _PLACE_CHANNELS, quarter)
        self.down_1 = _stage(quarter, few, config.expansion)
        self.fold_1 = Pointwise(4 * quarter, eighth, fold=2)
        self.down_2 = _stage(eighth, some, config.expansion)
        self.fold_2 = Pointwise(4 * eighth, deep, fold=2)
        self.deepest = _stage(deep, many, config.expansion)
        self.unfold_2 = Pointwise(deep, 4 * eighth, unfold=2)
        self.up_2 = _stage(eighth, some, config.expansion)
        self.unfold_1 = Pointwise(eighth, 4 * quarter, unfold=2)
        self.up_1 = _stage(quarter, few, config.expansion)
        self.head = Pointwise(quarter, _FOLD**2, unfold=_FOLD, zero=True)

    @classmethod
    def load(cls, checkpoint: Path) -> DepthNet:
        """A depth network from its exported weights, in float32.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is no checkpoint of a depth network.
        """
        state, values = load_checkpoint(checkpoint)
        network = cls(from_json(DepthConfig, values))
        load_into(network, state, checkpoint)
        return network

    def forward(self, pictures: Tensor) -> Tensor:
        """Natural logarithm of the z-depth in metres.

        Args:
            pictures: `(B, 3, H, W)` in [-1, 1], of any precision.

        Returns:
            `(B, H, W)` in the precision of the pictures.

        Raises:
            ValueError: when H or W is no multiple of 16.
        """
        height, width = pictures.shape[-2:]
        if height % _STRIDE or width % _STRIDE:
            raise ValueError(f"a picture of {height}x{width} needs sides that are multiples of {_STRIDE}")
        log_depth, _ = self.run(pictures)
        return log_depth[:, 0].to(pictures.dtype) + _TYPICAL_LOG_DEPTH

    def steps(self) -> list[Step]:
        """See `SteppedNetwork.steps`: 1, 2 and 3 are the pictures of the three stages."""
        return [
            Layer(weight=self.stem.weight, bias=self.stem.bias, source=0, target=1, fold=_FOLD, coordinates=True),
            self.down_1.step(1),
            self.fold_1.step(1, 2),
            self.down_2.step(2),
            self.fold_2.step(2, 3),
            self.deepest.step(3),
            self.unfold_2.step(3, 2, adds=True),
            self.up_2.step(2),
            self.unfold_1.step(2, 1, adds=True),
            self.up_1.step(1),
            self.head.step(1, 4),
        ]

    def by_torch(self, x: Tensor, past: Sequence[Tensor | None], batch: int) -> tuple[Tensor, list[Tensor]]:
        """See `SteppedNetwork.run`; nothing is kept, since it looks at one frame."""
        folded = F.pixel_unshuffle(x, _FOLD)
        quarter, _ = self.down_1(self.stem(torch.cat([folded, coordinates(folded)], dim=1)))
        eighth, _ = self.down_2(self.fold_1(quarter))
        deep, _ = self.deepest(self.fold_2(eighth))
        eighth, _ = self.up_2(eighth + self.unfold_2(deep))
        quarter, _ = self.up_1(quarter + self.unfold_1(eighth))
        return self.head(quarter), []

    def depth(self, pictures: Tensor) -> Tensor:
        """z-depth `(B, H, W)` in metres, within [0.1, 30]; see `forward`."""
        return self(pictures).exp().clamp(NEAREST_M, FARTHEST_M)
