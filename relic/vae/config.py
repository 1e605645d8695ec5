"""Configuration of the video auto-encoders: the tiny one that is trained here, and Wan's."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

SPATIAL_FACTOR = 8
"""Pixels a side of one latent cell."""
TEMPORAL_FACTOR = 4
"""Pixel frames of one latent frame; the first latent frame holds one pixel frame."""

VaeKind = Literal["wan"]
WanDecoder = Literal["wan", "taehv"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeConfig:
    """Sizes of the tiny video VAE.

    A pair names the two stages of the network: quarter resolution (24x40 for a 96x160 picture), then
    eighth resolution (12x20), where the latent lives.

    Attributes:
        latent_channels: channels of a latent cell.
        encoder_channels: width of the encoder's stages.
        encoder_blocks: residual blocks of the encoder's stages.
        decoder_channels: width of the decoder's stages.
        decoder_blocks: residual blocks of the decoder's stages.
        expansion: hidden width of a block, in multiples of the stage's width.
        shift_fraction: part of a block's channels that is read from the latent frame before.
    """

    latent_channels: int = 16
    encoder_channels: tuple[int, int] = (96, 192)
    encoder_blocks: tuple[int, int] = (2, 4)
    decoder_channels: tuple[int, int] = (128, 256)
    decoder_blocks: tuple[int, int] = (4, 6)
    expansion: int = 2
    shift_fraction: float = 0.25

    def __post_init__(self) -> None:
        limit = 3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2
        if not 1 <= self.latent_channels <= limit:
            raise ValueError(f"latent_channels {self.latent_channels} must lie in 1..{limit}")
        for name in ("encoder_channels", "decoder_channels", "encoder_blocks", "decoder_blocks"):
            pair = getattr(self, name)
            if len(pair) != 2 or min(pair) < 1:
                raise ValueError(f"{name} {pair} must be two positive numbers: quarter and eighth resolution")
        if self.expansion < 1:
            raise ValueError(f"expansion {self.expansion} must be at least 1")
        if not 0.0 <= self.shift_fraction < 1.0:
            raise ValueError(f"shift_fraction {self.shift_fraction} must lie in [0, 1)")

    @classmethod
    def tiny(cls) -> VaeConfig:
        """The sizes that tests use: a real network that runs in milliseconds."""
        return cls(
            encoder_channels=(8, 16),
            encoder_blocks=(1, 1),
            decoder_channels=(8, 16),
            decoder_blocks=(1, 1),
            expansion=2,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVaeConfig:
    """Which parts of Wan 2.1's video auto-encoder a world uses; their sizes lie beside their weights.

    Attributes:
        kind: tells this configuration from the tiny auto-encoder's.
        latent_channels: channels of a latent cell.
        decoder: `wan`, the auto-encoder's own, or `taehv`, a tiny decoder of the same latents.
    """

    kind: VaeKind = "wan"
    latent_channels: int = 16
    decoder: WanDecoder = "taehv"

    def __post_init__(self) -> None:
        if self.kind not in typing.get_args(VaeKind):
            raise ValueError(f"VAE kind {self.kind!r} is not one of {typing.get_args(VaeKind)}")
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels {self.latent_channels} must be at least 1")
        if self.decoder not in typing.get_args(WanDecoder):
            raise ValueError(f"VAE decoder {self.decoder!r} is not one of {typing.get_args(WanDecoder)}")
