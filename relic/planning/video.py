"""What the video auto-encoder of a world takes: parameters, operations and memory of a block's frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from relic.config import RelicConfig
from relic.planning.counting import count_flops, count_held_bytes, count_operators
from relic.planning.parameters import parameters_of
from relic.reprojection.config import DepthConfig
from relic.reprojection.depth import DepthNet
from relic.vae.config import SPATIAL_FACTOR, TEMPORAL_FACTOR, VaeConfig, WanVaeConfig
from relic.vae.taehv import TaehvDecoder
from relic.vae.tiny_vae import TinyVae

WAN_ENCODER_PARAMETERS = 53_596_928
"""Of `AutoencoderKLWan`'s encoding half, which encodes the start picture, at Wan 2.1's sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoWork:
    """The way from latents to pixels, and for a guided world the way back.

    Attributes:
        parameters: of encoder, decoder and depth network.
        decode: operations of decoding a block.
        guide: operations of encoding a block's guide and of seeing depth; 0 without.
        operators: that decoding and guiding start one after the other.
        held_bytes: most bytes that decoding a block holds at once, beside the weights.
    """

    parameters: int
    decode: float
    guide: float
    operators: float
    held_bytes: int


@lru_cache
def video_work(config: RelicConfig) -> VideoWork:
    """Parameters, operations and memory of a block's frames; the auto-encoders compute in float32.

    Raises:
        ValueError: for Wan's own decoder, whose time is not predicted.
    """
    frames, cells = config.sampler.block_frames, (config.model.latent_height, config.model.latent_width)
    with torch.device("meta"):
        latents = torch.zeros(1, config.vae.latent_channels, frames, *cells)
        if isinstance(config.vae, WanVaeConfig):
            if config.vae.decoder != "taehv":
                raise ValueError(f"decoder {config.vae.decoder!r} is not planned for: choose taehv, the tiny one")
            decoder = TaehvDecoder(config.vae.latent_channels)
            parameters = WAN_ENCODER_PARAMETERS + parameters_of(decoder)
            return _work(decoder, latents, parameters)
        depth = None if config.reprojection is None else config.reprojection.depth
        return _tiny_work(config.vae, depth, latents)


def _tiny_work(vae_config: VaeConfig, depth_config: DepthConfig | None, latents: Tensor) -> VideoWork:
    vae = TinyVae(vae_config)
    if depth_config is None:
        return _work(vae, latents, parameters_of(vae))
    depth = DepthNet(depth_config)
    height, width = (side * SPATIAL_FACTOR for side in latents.shape[3:])
    film = latents.new_zeros(1, 3, 1 + latents.shape[2] * TEMPORAL_FACTOR, height, width)
    parameters = parameters_of(vae) + parameters_of(depth)
    return _work(vae, latents, parameters, lambda: (vae.encode(film), depth(film[:, :, 0])))


def _work(
    decoder: TinyVae | TaehvDecoder,
    latents: Tensor,
    parameters: int,
    guide: Callable[[], object] = lambda: None,
) -> VideoWork:
    def decode() -> Tensor:
        return decoder.decode(latents)

    return VideoWork(
        parameters=parameters,
        decode=count_flops(decode),
        guide=count_flops(guide),
        operators=count_operators(decode) + count_operators(guide),
        held_bytes=count_held_bytes(decode, [latents, *decoder.parameters(), *decoder.buffers()]),
    )
