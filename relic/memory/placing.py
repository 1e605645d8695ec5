"""Where the tokens of a memory stand for the rotary embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relic.config import MemoryConfig, ModelConfig
from relic.model.rope import inverse_frequencies
from relic_kernels.memory_attention import Turns


def oldest_time(memory: MemoryConfig, num_frames: int) -> int:
    """Where frames older than `max_age` stand once `num_frames` are committed.

    Never older than that, and moving in strides: only when it moves need they be rotated anew.
    """
    stride = max(1, memory.max_age // 4)
    return -(-(num_frames - memory.max_age) // stride) * stride


def places(times: Sequence[int], positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Places of all tokens of some frames.

    Args:
        times: latent-frame index of each frame.
        positions: `(L, 2)` row and column of each frame's tokens.

    Returns:
        `(K,)` time and `(K, 2)` row and column.
    """
    time = torch.cat([place.new_full((len(place),), float(at)) for place, at in zip(positions, times, strict=True)])
    return time, torch.cat(list(positions))


def axis_turns(time: Tensor, space: Tensor, model: ModelConfig) -> Turns:
    """What `relic.model.rope.rotation` says of `(K,)` times and `(K, 2)` rows and columns, as tables of the axes."""
    axes = torch.cat([time[:, None].float(), space.float()], dim=1)
    return Turns.at(axes, inverse_frequencies(model.head_dim, model.rope_theta))
