"""Causal training in one pass, with exactly the memory that play sees.

Teacher forcing: a pass holds clean latent frames `0 .. C-1` followed by noisy latent frames `1 .. T-1`, and the past of
a block of either kind are the clean frames before it. Diffusion and hybrid forcing: a pass holds each frame once, some
of them clean, and a block's past is whatever the pass holds before it. In all of them, a block attends to its own
frames and to memory as it stands before the block: the last `window` frames at full resolution and older ones pooled
by the schedule, keys pooled before RoPE (paper, sections 4.3 and 4.4). Attention is called on exact key sets, block by
block, so nothing masked is computed.

Axes: B batch, F frames of the pass, L tokens of a frame, K memory tokens, H heads, D head width.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import frame_factor, pool_tokens, pooled_positions, pooled_tokens
from relic.model.conditioning import CameraConditioning
from relic.model.rope import grid_positions, rotate, rotation
from relic_distill.blockwise_attention import Read, blockwise_attention


class CausalPass:
    """Attention of a pass whose blocks see what the pass holds before them.

    Args:
        model: network sizes.
        memory: policy, window and schedule; the same object that play uses.
        num_frames: latent frames T of the clip, the first included.
        block_frames: latent frames generated together; divides T - 1.
        num_past: frames of the pass that are the past of others; T, or fewer when copies of the frames follow.

    Raises:
        ValueError: when the clip does not fill whole blocks.
    """

    def __init__(
        self, model: ModelConfig, memory: MemoryConfig, num_frames: int, block_frames: int, num_past: int
    ) -> None:
        if num_frames < 1 + block_frames or (num_frames - 1) % block_frames:
            raise ValueError(f"{num_frames} latent frames are not one and whole blocks of {block_frames}")
        self.num_frames = num_frames
        self.block_frames = block_frames
        self.num_past = num_past
        self._model, self._memory = model, memory
        self._space = grid_positions(model.grid)
        self._pass_rotation = self._rotation(self.frame_indices, 1)
        self._reads = self._plan()

    @property
    def frame_indices(self) -> list[int]:
        """Latent frame of the clip behind each frame of the pass."""
        copies = range(1, self.num_frames) if self.num_past < self.num_frames else range(0)
        return [*range(self.num_past), *copies]

    def pass_camera(self, camera: CameraConditioning) -> CameraConditioning:
        """Control of the clip's T frames laid out as the pass."""
        index = self.frame_indices
        return CameraConditioning(
            actions=camera.actions[:, index],
            rotations_w2c=camera.rotations_w2c[:, index],
            positions=camera.positions[:, index],
        )

    def pass_guide(self, guide: Tensor | None) -> Tensor | None:
        """Guides `(B, G, T - 1, h, w)` laid out as the pass: copies have theirs, what stands before them has none."""
        if guide is None:
            return None
        bare = self.num_past if self.num_past < self.num_frames else 1
        return torch.cat([guide.new_zeros((*guide.shape[:2], bare, *guide.shape[3:])), guide], dim=2)

    def query_rotation(self, device: torch.device) -> Tensor:
        """See `relic.model.attention.AttentionContext.query_rotation`; F is the number of `frame_indices`."""
        self._pass_rotation = self._pass_rotation.to(device)
        return self._pass_rotation

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `relic.model.attention.AttentionContext.attend`; F is the number of `frame_indices`."""
        turned = rotate(k.flatten(1, 2), self.query_rotation(k.device)).reshape(k.shape)
        pooled_k, pooled_v = self._pooled(k[:, : self.num_past], v[:, : self.num_past])
        return blockwise_attention(q, turned, v, pooled_k, pooled_v, self._reads)

    def _plan(self) -> tuple[Read, ...]:
        """What each block of the pass attends to."""
        reads = []
        size, offset = self.block_frames, self.num_past - 1
        sizes = (
            pooled_tokens(self._model.grid, frame_factor(i, self._memory.schedule)) for i in range(self.num_frames)
        )
        pooled_before = list(itertools.accumulate(sizes, initial=0))
        for start in [0, *range(1, self.num_frames, size)]:
            stop = start + (size if start else 1)
            recent = slice(self._window_start(start, full=True), start)
            pooled = pooled_before[self._window_start(start)]
            if start < self.num_past:
                reads.append(Read(own=slice(start, stop), pooled=pooled, recent=recent))
            if start and self.num_past < self.num_frames:
                reads.append(Read(own=slice(start + offset, stop + offset), pooled=pooled, recent=recent))
        return tuple(reads)

    def _window_start(self, start: int, *, full: bool = False) -> int:
        """First frame kept in full before block `start`; with `full`=False, how many pooled frames it sees."""
        match self._memory.policy:
            case "full":
                return 0
            case "window":
                return max(0, start - self._memory.window) if full else 0
            case "compressed":
                return max(0, start - self._memory.window)

    def _pooled(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled, rotated keys and pooled values of every clean frame that some block sees pooled, frame by frame."""
        count = self._window_start(self.num_frames - self.block_frames)
        if not count:
            return k[:, :0].flatten(1, 2), v[:, :0].flatten(1, 2)
        keys: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        factors = [frame_factor(frame, self._memory.schedule) for frame in range(count)]
        for factor in sorted(set(factors)):
            frames = [frame for frame in range(count) if factors[frame] == factor]
            pooled = pool_tokens(k[:, frames], self._model.grid, factor)
            turn = self._rotation(frames, factor).to(k.device)
            turned = rotate(pooled.flatten(1, 2), turn).reshape(pooled.shape)
            keys.update(zip(frames, turned.unbind(1), strict=True))
            values.update(zip(frames, pool_tokens(v[:, frames], self._model.grid, factor).unbind(1), strict=True))
        joined = (torch.cat([by_frame[frame] for frame in range(count)], dim=1) for by_frame in (keys, values))
        return next(joined), next(joined)

    def _rotation(self, frames: list[int], factor: int) -> Tensor:
        place = pooled_positions(self._space, self._model.grid, factor)
        time = torch.tensor(frames, dtype=torch.float32).repeat_interleave(len(place))
        return rotation(time, place.repeat(len(frames), 1), self._model.head_dim, self._model.rope_theta)


class TeacherForcingContext(CausalPass):
    """A [clean | noisy] pass: every block of the clip is a target, and its past is clean."""

    def __init__(self, model: ModelConfig, memory: MemoryConfig, num_frames: int, block_frames: int) -> None:
        super().__init__(model, memory, num_frames, block_frames, num_frames - block_frames)


class HybridForcingContext(CausalPass):
    """A pass that holds each frame once; which of them are clean is a matter of their noise levels.

    All noisy but the first frame: diffusion forcing. The first part clean, the rest noisy: hybrid forcing (paper,
    section 4.4), where noisy blocks see earlier noisy blocks and, pooled beyond the window, the clean part.
    """

    def __init__(self, model: ModelConfig, memory: MemoryConfig, num_frames: int, block_frames: int) -> None:
        super().__init__(model, memory, num_frames, block_frames, num_frames)
