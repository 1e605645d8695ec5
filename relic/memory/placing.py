"""Where the tokens of a memory stand for the rotary embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import pooled_positions
from relic.model.rope import axis_dims, grid_positions, inverse_frequencies, rotation
from relic_kernels.memory_attention import Turns

_ROTATIONS_KEPT = 8


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


class FrameRotations:
    """Rotations of whole latent frames, the last few of which are kept.

    All tokens of a frame share its time, and their rows and columns never change: only the time's part is made anew.
    """

    def __init__(self, model: ModelConfig) -> None:
        self._model = model
        self._time_frequencies = inverse_frequencies(model.head_dim, model.rope_theta)[
            : axis_dims(model.head_dim)[0] // 2
        ]
        self._at_start: dict[int, Tensor] = {}
        self._kept: dict[tuple[int, int], Tensor] = {}

    def of(self, time: int, factor: int) -> Tensor:
        """Those of a frame's tokens, pooled by a factor a side: what `relic.model.rope.rotation` says, to the bit.

        Args:
            time: latent-frame index where the frame stands.
            factor: at least 1.

        Returns:
            `(C, D / 2)` complex64 on the processor; not to be written to.
        """
        known = self._kept.pop((time, factor), None)
        self._kept[time, factor] = found = self._made(time, factor) if known is None else known
        if len(self._kept) > _ROTATIONS_KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    @torch.inference_mode(mode=False)
    def _made(self, time: int, factor: int) -> Tensor:
        if factor not in self._at_start:
            grid, head_dim = self._model.grid, self._model.head_dim
            space = pooled_positions(grid_positions(grid), grid, factor)
            self._at_start[factor] = rotation(torch.zeros(len(space)), space, head_dim, self._model.rope_theta)
        angle = self._time_frequencies * time
        made = self._at_start[factor].clone()
        made[:, : len(angle)] = torch.polar(torch.ones_like(angle), angle)
        return made
