"""The KV memory of a rollout: append, read, snapshot, restore.

Keys are kept after QK-norm and before RoPE, and rotated when they are read. A frame's keys and values of all layers
form one immutable entry, so a snapshot is a copy of references.

Axes: N layers, B batch, F latent frames, L tokens of an entry, K memory tokens, H heads, D head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import pool_tokens, pooled_positions
from relic.model.attention import scaled_dot_product
from relic.model.rope import grid_positions, rotate, rotation


@dataclass(frozen=True, kw_only=True)
class FrameEntry:
    """What memory keeps of one latent frame.

    Attributes:
        frame: index of the latent frame in the rollout.
        factor: per-side pooling factor of the tokens.
        k: `(N, B, L, H, D)`, before RoPE.
        v: `(N, B, L, H, D)`.
    """

    frame: int
    factor: int
    k: Tensor
    v: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.k.nbytes + self.v.nbytes


@dataclass(frozen=True, kw_only=True)
class MemorySnapshot:
    """A memory's state at one moment; shares tensors with the memory it came from."""

    entries: tuple[FrameEntry, ...]
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class MemoryView:
    """Memory as the next block reads it: rotated keys, and where the block stands.

    Attributes:
        k: `(N, B, K, H, D)` after RoPE, or None when nothing was committed yet.
        v: `(N, B, K, H, D)`.
        next_frame: latent-frame index of the block that reads.
    """

    k: Tensor | None
    v: Tensor | None
    next_frame: int


class KVMemory(ABC):
    """Base of every memory policy; a policy decides what becomes of the entries as the rollout goes on."""

    def __init__(self, memory: MemoryConfig, model: ModelConfig) -> None:
        self.config = memory
        self.model_config = model
        self._space = grid_positions(model.grid)
        self._entries: tuple[FrameEntry, ...] = ()
        self._num_frames = 0
        self._view: MemoryView | None = None

    @abstractmethod
    def settle(self, entries: tuple[FrameEntry, ...], num_frames: int) -> tuple[FrameEntry, ...]:
        """Entries to keep once `num_frames` latent frames are committed."""

    @property
    def num_frames(self) -> int:
        """Latent frames committed since the start."""
        return self._num_frames

    @property
    def num_tokens(self) -> int:
        """Tokens that a block attends to."""
        return sum(entry.k.shape[2] for entry in self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored keys and values."""
        return sum(entry.nbytes for entry in self._entries)

    @property
    def entries(self) -> tuple[FrameEntry, ...]:
        """What is stored, oldest first."""
        return self._entries

    def append(self, k: Tensor, v: Tensor) -> None:
        """Commit a block.

        Args:
            k: `(N, B, F, L, H, D)` after QK-norm, before RoPE.
            v: `(N, B, F, L, H, D)`.
        """
        frames = range(self._num_frames, self._num_frames + k.shape[2])
        fresh = tuple(
            FrameEntry(frame=frame, factor=1, k=k[:, :, i].contiguous(), v=v[:, :, i].contiguous())
            for i, frame in enumerate(frames)
        )
        self._num_frames += k.shape[2]
        self._entries = self._bounded(self.settle(self._entries + fresh, self._num_frames))
        self._view = None

    def view(self) -> MemoryView:
        """Memory for the next block, keys rotated to their frames' places; made once a block.

        A frame older than `max_age` stands at `max_age`, so that rollouts may be longer than the training's.
        """
        if self._view is None:
            self._view = self._read()
        return self._view

    def _read(self) -> MemoryView:
        if not self._entries:
            return MemoryView(k=None, v=None, next_frame=self._num_frames)
        oldest = self._num_frames - self.config.max_age
        times, places = [], []
        for entry in self._entries:
            place = pooled_positions(self._space, self.model_config.grid, entry.factor)
            times.append(place.new_full((len(place),), float(max(entry.frame, oldest))))
            places.append(place)
        turn = rotation(
            torch.cat(times), torch.cat(places), self.model_config.head_dim, self.model_config.rope_theta
        ).to(self._entries[0].k.device)
        k = torch.cat([entry.k for entry in self._entries], dim=2)
        v = torch.cat([entry.v for entry in self._entries], dim=2)
        return MemoryView(k=rotate(k, turn), v=v, next_frame=self._num_frames)

    def snapshot(self) -> MemorySnapshot:
        """The state now; cheap, nothing is copied."""
        return MemorySnapshot(entries=self._entries, num_frames=self._num_frames)

    def restore(self, snapshot: MemorySnapshot) -> None:
        """Go back to a snapshot."""
        self._entries, self._num_frames = snapshot.entries, snapshot.num_frames
        self._view = None

    def pooled(self, entry: FrameEntry, factor: int) -> FrameEntry:
        """An uncompressed entry averaged over `factor` x `factor` cells."""
        k, v = (pool_tokens(x, self.model_config.grid, factor) for x in (entry.k, entry.v))
        return FrameEntry(frame=entry.frame, factor=factor, k=k, v=v)

    def _bounded(self, entries: tuple[FrameEntry, ...]) -> tuple[FrameEntry, ...]:
        surplus = len(entries) - self.config.max_frames
        return entries if surplus <= 0 else (entries[0], *entries[1 + surplus :])


class MemoryContext:
    """Attention of a block to a memory view and to itself; remembers the block's own keys and values."""

    def __init__(self, view: MemoryView, model: ModelConfig, num_frames: int) -> None:
        self._view = view
        space = grid_positions(model.grid)
        time = torch.arange(view.next_frame, view.next_frame + num_frames).repeat_interleave(len(space))
        self._rotation = rotation(time, space.repeat(num_frames, 1), model.head_dim, model.rope_theta)
        self._own: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`q`, `k`, `v` `(B, F, L, H, D)` before RoPE; the block sees all memory and all of itself."""
        if layer == 0:
            self._own = []
        self._own.append((k, v))
        turn = self._rotation.to(q.device)
        q_all, k_all, v_all = rotate(q.flatten(1, 2), turn), rotate(k.flatten(1, 2), turn), v.flatten(1, 2)
        if self._view.k is not None and self._view.v is not None:
            k_all = torch.cat([self._view.k[layer], k_all], dim=1)
            v_all = torch.cat([self._view.v[layer], v_all], dim=1)
        return scaled_dot_product(q_all, k_all, v_all).unflatten(1, q.shape[1:3])

    @property
    def own_kv(self) -> tuple[Tensor, Tensor]:
        """Keys (before RoPE) and values of the last pass: `(N, B, F, L, H, D)` each."""
        keys, values = zip(*self._own, strict=True)
        return torch.stack(keys), torch.stack(values)
