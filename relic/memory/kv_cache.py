"""The KV memory of a rollout: append, read, snapshot, restore.

Keys are kept after QK-norm and before RoPE, and rotated when they are read. A frame's keys and values of all layers
form one immutable entry, so a snapshot is a copy of references. Each layer's stay on the device where it computed them.

Axes: B batch, F latent frames, L tokens of a frame, H heads, D head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import attrgetter

import torch
from torch import Tensor

from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import pool_tokens
from relic.memory.entries import FrameEntry, MemoryEntry, MemorySnapshot, MemoryView, QuantisedEntry
from relic.memory.layers import Layers
from relic.memory.parts_buffer import PartsBuffer
from relic.memory.placing import FrameRotations
from relic.memory.read_buffer import ReadBuffer


class KVMemory(ABC):
    """Base of every memory policy; a policy decides what becomes of the entries as the rollout goes on.

    Attributes:
        config: of the memory.
        model_config: of the network.
        rotations: of the network's latent frames, for this memory and the blocks that read it.
    """

    def __init__(self, memory: MemoryConfig, model: ModelConfig) -> None:
        self.config = memory
        self.model_config = model
        self.rotations = FrameRotations(model)
        self._buffer = ReadBuffer(memory, self.rotations)
        self._parts = PartsBuffer(memory, model)
        self._parts_are_current = False
        self._entries: tuple[MemoryEntry, ...] = ()
        self._aged_before: tuple[MemoryEntry, ...] = ()
        self._num_frames = 0
        self._view: MemoryView | None = None

    @abstractmethod
    def settle(self, entries: tuple[MemoryEntry, ...], num_frames: int) -> tuple[MemoryEntry, ...]:
        """Entries to keep once `num_frames` latent frames are committed."""

    @property
    def num_frames(self) -> int:
        """Latent frames committed since the start."""
        return self._num_frames

    @property
    def num_tokens(self) -> int:
        """Tokens that a block attends to."""
        return sum(entry.num_tokens for entry in self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored keys and values."""
        return sum(entry.nbytes for entry in self._entries)

    @property
    def entries(self) -> tuple[MemoryEntry, ...]:
        """What is stored, oldest first."""
        return self._entries

    def append(self, k: Sequence[Tensor], v: Sequence[Tensor]) -> None:
        """Commit a block; memory is constant to gradients (paper, eq. 5).

        Args:
            k: `(B, F, L, H, D)` of each layer, after QK-norm, before RoPE.
            v: `(B, F, L, H, D)` of each layer.
        """
        fresh = tuple(
            FrameEntry(frame=frame, factor=1, k=k_of_frame, v=v_of_frame)
            for frame, (k_of_frame, v_of_frame) in enumerate(zip(_frames(k), _frames(v), strict=True), self._num_frames)
        )
        self._num_frames += len(fresh)
        self._entries = self._bounded(self.settle((*self._entries, *fresh), self._num_frames))
        self._view, self._parts_are_current = None, False

    def parts(self) -> PartsBuffer:
        """Memory for the attention kernel, which rotates and dequantises by itself; `view` is for everyone else."""
        if not self._parts_are_current and self._entries:
            self._entries = self._parts.fill(self._entries, self._num_frames)
            self._parts_are_current, self._aged_before = True, ()
        return self._parts

    def view(self, own_tokens: int) -> MemoryView:
        """Memory for the next block, keys rotated to their frames' places.

        A frame older than `max_age` stands at `max_age` at most, so that rollouts may be longer than the training's.
        The view is made once a block and stays valid until the memory is written.

        Args:
            own_tokens: slots to reserve for the block's own tokens.
        """
        if self._view is None or self._view.own_tokens != own_tokens:
            k, v = self._buffer.fill(self._entries, self._num_frames, own_tokens) if self._entries else (None, None)
            self._view = MemoryView(k=k, v=v, own_tokens=own_tokens, next_frame=self._num_frames)
        return self._view

    def snapshot(self) -> MemorySnapshot:
        """The state now; cheap, nothing is copied."""
        return MemorySnapshot(entries=self._entries, num_frames=self._num_frames)

    def restore(self, snapshot: MemorySnapshot) -> None:
        """Go back to a snapshot."""
        self._entries, self._num_frames = snapshot.entries, snapshot.num_frames
        self._view, self._parts_are_current = None, False

    def aged(
        self, entries: tuple[MemoryEntry, ...], num_frames: int, factor_of: Callable[[int], int]
    ) -> tuple[MemoryEntry, ...]:
        """Entries with those that have left the window pooled and stored as configured.

        Those that the last call gave back are known by who they are, and not looked at again.

        Args:
            entries: oldest first.
            num_frames: latent frames committed.
            factor_of: a frame's cells a side that become one.
        """
        known, border = len(self._aged_before), num_frames - self.config.window
        if entries[:known] != self._aged_before:
            known = 0
        settled = bisect_left(entries, border, lo=known, key=attrgetter("frame"))
        fresh = (self._aged(entry, factor_of(entry.frame)) for entry in entries[known:settled])
        self._aged_before = (*entries[:known], *fresh)
        return (*self._aged_before, *entries[settled:])

    def _aged(self, entry: MemoryEntry, factor: int) -> MemoryEntry:
        if isinstance(entry, QuantisedEntry):
            return entry
        grid = self.model_config.grid
        if self.config.storage == "fp8":
            return QuantisedEntry.of(entry, grid, factor)
        if entry.factor == factor:
            return entry
        k, v = (x.map(lambda stack: pool_tokens(stack, grid, factor)) for x in (entry.k, entry.v))
        return FrameEntry(frame=entry.frame, factor=factor, k=k, v=v)

    def _bounded(self, entries: tuple[MemoryEntry, ...]) -> tuple[MemoryEntry, ...]:
        """Drop the oldest but the first, several at once, so that what is read is rarely laid out anew."""
        surplus = len(entries) - self.config.max_frames
        if surplus <= 0:
            return entries
        drop = max(surplus, min(self.config.max_frames // 8, len(entries) - 1 - self.config.window))
        return (entries[0], *entries[1 + drop :])


def _frames(layers: Sequence[Tensor]) -> list[Layers]:
    """Copies of the frames of `(B, F, L, H, D)` of each layer, without their gradients."""
    with torch.no_grad():
        blocks = Layers.of(layers)
    return [blocks.map(lambda stack, i=i: stack[:, :, i].contiguous()) for i in range(layers[0].shape[1])]
