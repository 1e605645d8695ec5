"""Causal training in one pass, with exactly the memory that play sees.

Teacher forcing: a pass holds clean latent frames `0 .. C-1` followed by noisy latent frames `1 .. T-1`, and the past of
a block of either kind are the clean frames before it. Diffusion and hybrid forcing: a pass holds each frame once, some
of them clean, and a block's past is whatever the pass holds before it. In all of them, a block attends to its own
frames and to memory as it stands before the block: the last `window` frames at full resolution and older ones pooled
by the schedule, keys pooled before RoPE (paper, sections 4.3 and 4.4). The loop over blocks calls attention on exact
key sets, so nothing masked is computed.

Axes: B batch, F frames of the pass, L tokens of a frame, K memory tokens, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import frame_factor, pool_tokens, pooled_positions
from relic.model.attention import scaled_dot_product
from relic.model.conditioning import CameraConditioning
from relic.model.rope import grid_positions, rotate, rotation

Frames = list[Tensor]


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
        q_frames = q.unbind(1)
        k_frames = rotate(k.flatten(1, 2), self.query_rotation(k.device)).reshape(k.shape).unbind(1)
        v_frames = v.unbind(1)
        pooled_k, pooled_v = self._pooled(k[:, : self.num_past], v[:, : self.num_past])
        clean: Frames = []
        noisy: Frames = []
        size, offset = self.block_frames, self.num_past - 1
        for start in [0, *range(1, self.num_frames, size)]:
            stop = start + (size if start else 1)
            before = [
                *pooled_k[: self._window_start(start)],
                *k_frames[self._window_start(start, full=True) : start],
            ]
            before_v = [
                *pooled_v[: self._window_start(start)],
                *v_frames[self._window_start(start, full=True) : start],
            ]
            if start < self.num_past:
                own = slice(start, stop)
                clean += self._block(q_frames[own], [*before, *k_frames[own]], [*before_v, *v_frames[own]])
            if start and self.num_past < self.num_frames:
                own = slice(start + offset, stop + offset)
                noisy += self._block(q_frames[own], [*before, *k_frames[own]], [*before_v, *v_frames[own]])
        return torch.stack([*clean, *noisy], dim=1)

    def _window_start(self, start: int, *, full: bool = False) -> int:
        """First frame kept in full before block `start`; with `full`=False, how many pooled frames it sees."""
        match self._memory.policy:
            case "full":
                return 0
            case "window":
                return max(0, start - self._memory.window) if full else 0
            case "compressed":
                return max(0, start - self._memory.window)

    def _block(self, q: tuple[Tensor, ...], k: Frames, v: Frames) -> Frames:
        out = scaled_dot_product(torch.cat(q, dim=1), torch.cat(k, dim=1), torch.cat(v, dim=1))
        return list(out.split(q[0].shape[1], dim=1))

    def _pooled(self, k: Tensor, v: Tensor) -> tuple[Frames, Frames]:
        """Pooled, rotated keys and pooled values of every clean frame that some block sees pooled."""
        count = self._window_start(self.num_frames - self.block_frames)
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
        return [keys[frame] for frame in range(count)], [values[frame] for frame in range(count)]

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
