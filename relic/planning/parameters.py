"""Parameters of a world's networks, counted on torch's meta device: nothing is allocated.

The text encoders come as files of others; theirs are counted from their published sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from relic.config import RelicConfig
from relic.model.transformer import RelicTransformer
from relic.world import world_intrinsics


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCounts:
    """Parameters of a transformer.

    Attributes:
        backbone: what it shares with Wan.
        action_encoder: of the relative actions.
        pose_encoder: of the absolute poses.
        guide: of the guide's two projections; 0 without.
    """

    backbone: int
    action_encoder: int
    pose_encoder: int
    guide: int

    @property
    def control(self) -> int:
        """What RELIC adds to Wan."""
        return self.action_encoder + self.pose_encoder + self.guide

    @property
    def total(self) -> int:
        """All parameters."""
        return self.backbone + self.control


def meta_transformer(config: RelicConfig) -> RelicTransformer:
    """The real network without storage."""
    with torch.device("meta"):
        return RelicTransformer(config.model, world_intrinsics(config)).eval()


@lru_cache
def count_parameters(config: RelicConfig) -> ParameterCounts:
    """Parameters of a world's transformer, the control encoders told apart."""
    model = meta_transformer(config)
    action, pose = parameters_of(model.action_encoder), parameters_of(model.pose_encoder)
    guide = sum(parameter.numel() for name, parameter in model.named_parameters() if name.startswith("guide_"))
    return ParameterCounts(
        backbone=parameters_of(model) - action - pose - guide, action_encoder=action, pose_encoder=pose, guide=guide
    )


def parameters_of(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderSize:
    """A text encoder that a world loads beside its own weights.

    Attributes:
        name: as people call it.
        parameters: of the encoder.
        always_fp32: whether it runs in float32 whatever the world's precision.
    """

    name: str
    parameters: int
    always_fp32: bool


_MINILM_WIDTH = 384


def text_encoder_size(text_dim: int) -> TextEncoderSize:
    """The encoder whose tokens are `text_dim` wide.

    Raises:
        ValueError: for a width that no known encoder has.
    """
    if text_dim == _MINILM_WIDTH:
        return TextEncoderSize(name="MiniLM", parameters=_minilm_parameters(), always_fp32=True)
    if text_dim == _UMT5_WIDTH:
        return TextEncoderSize(name="umT5-xxl", parameters=_umt5_parameters(), always_fp32=False)
    raise ValueError(f"no known text encoder has tokens {text_dim} wide: {_MINILM_WIDTH} is MiniLM, {_UMT5_WIDTH} umT5")


def _minilm_parameters() -> int:
    """all-MiniLM-L6-v2: BERT of 6 layers, 384 wide, 30,522 words, 512 places, two segments, a pooler."""
    width, hidden = _MINILM_WIDTH, 4 * _MINILM_WIDTH
    embeddings = (30_522 + 512 + 2) * width + 2 * width
    layer = 4 * (width + 1) * width + (width + 1) * hidden + (hidden + 1) * width + 4 * width
    return embeddings + 6 * layer + (width + 1) * width


_UMT5_WIDTH = 4096


def _umt5_parameters() -> int:
    """umT5-xxl's encoder: 24 layers, 64 heads of 64, a gated hidden width of 10,240, 256,384 words.

    Every layer has position biases of its own: 32 for each head.
    """
    width, hidden = _UMT5_WIDTH, 10_240
    layer = 4 * width * width + 3 * width * hidden + 32 * 64 + 2 * width
    return 256_384 * width + 24 * layer + width
