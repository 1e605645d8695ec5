"""Rotated keys and values laid out so that a block reads its whole memory without copying it.

The buffer holds `[own | tail | settled]`: slots for the block that reads, the frames that may still change (the
window), and the frames that will not. Attention does not mind the order, so the tokens in use are always one slice, and
a frame of the tail stays in its slot (its number modulo the window) until the newest takes its place. Frames are
rotated once there, and once when they settle; only those older than `max_age` turn again, every few blocks.

Axes: B batch, K tokens, H heads, D head width.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

import torch

from relic.config import MemoryConfig
from relic.memory.entries import MemoryEntry
from relic.memory.layers import Layers
from relic.memory.placing import FrameRotations, oldest_time
from relic.model.rope import rotate
from relic_kernels.memory_frames import write_frame, writes_natively

_GROWTH_TOKENS = 1024
_FRAME = attrgetter("frame")


class ReadBuffer:
    """The reading side of one memory; starts anew whenever the entries are not a continuation of what it last saw."""

    def __init__(self, memory: MemoryConfig, rotations: FrameRotations) -> None:
        self._memory, self._rotations = memory, rotations
        self._settled: tuple[MemoryEntry, ...] = ()
        self._slots: list[tuple[MemoryEntry, int]] = []
        self._start = self._end = self._oldest = 0
        self._k: Layers | None = None
        self._v: Layers | None = None

    def fill(self, entries: tuple[MemoryEntry, ...], num_frames: int, own_tokens: int) -> tuple[Layers, Layers]:
        """Bring the buffer up to date; what is done grows with what is new.

        Args:
            entries: all of memory, oldest first; at least one.
            num_frames: latent frames committed, which is where the reading block stands.
            own_tokens: slots to reserve at the front.

        Returns:
            Keys after RoPE and values, `(B, own_tokens + K, H, D)` of each layer. They are slices of the buffer and
            stay valid until the next call.
        """
        border = bisect_left(entries, num_frames - self._memory.window, key=_FRAME)
        settled, tail = entries[:border], sorted(entries[border:], key=self._slot)
        start, known = own_tokens + _tokens(tail), len(self._settled)
        continues = self._settled == settled[:known] and (self._k is None or self._k.batch == entries[-1].k.batch)
        if start != self._start or not continues:
            self._settled, self._slots, self._start, self._end, known = (), [], start, start, 0
        end = self._end + _tokens(settled[known:])
        k, v = self._reserve(end, entries[-1])
        oldest = oldest_time(self._memory, num_frames)
        moved = 0 if oldest == self._oldest else bisect_left(settled[:known], max(oldest, self._oldest), key=_FRAME)
        self._write(settled[:moved], oldest, start)
        self._write(settled[known:], oldest, self._end)
        self._write_tail([(entry, max(entry.frame, oldest)) for entry in tail], own_tokens)
        self._settled, self._end, self._oldest = settled, end, oldest
        return k.first(end), v.first(end)

    def _write_tail(self, slots: list[tuple[MemoryEntry, int]], offset: int) -> None:
        """Write the tail's entries with their times; those that lie in their slot already stay there."""
        held = self._slots if len(self._slots) == len(slots) else [None] * len(slots)
        for one, before in zip(slots, held, strict=True):
            if before is None or one[0] is not before[0] or one[1] != before[1]:
                self._write([one[0]], one[1], offset)
            offset += one[0].num_tokens
        self._slots = slots

    def _slot(self, entry: MemoryEntry) -> int:
        return entry.frame % self._memory.window

    def _reserve(self, tokens: int, like: MemoryEntry) -> tuple[Layers, Layers]:
        """Room for `tokens`; what is written already is kept."""
        if self._k is None or self._v is None or self._k.tokens < tokens or self._k.batch != like.k.batch:
            grown_k, grown_v = like.k.room(tokens + _GROWTH_TOKENS), like.v.room(tokens + _GROWTH_TOKENS)
            if (self._settled or self._slots) and self._k is not None and self._v is not None:
                grown_k.write(0, self._k.first(self._end))
                grown_v.write(0, self._v.first(self._end))
            self._k, self._v = grown_k, grown_v
        return self._k, self._v

    def _write(self, entries: Sequence[MemoryEntry], oldest: int, begin: int) -> None:
        """Put entries one after the other, each where it stands; none before `oldest`."""
        assert self._k is not None
        assert self._v is not None
        for entry in entries:
            turn = self._rotations.of(max(entry.frame, oldest), entry.factor)
            end = begin + entry.num_tokens
            targets = zip(self._k.stacks, self._v.stacks, strict=True)
            for k, v, (keys, values) in zip(entry.k.stacks, entry.v.stacks, targets, strict=True):
                if writes_natively(k, v, keys, values):
                    write_frame(k, v, turn, keys, values, begin, torch.get_num_threads())
                else:
                    keys[:, :, begin:end], values[:, :, begin:end] = rotate(k, turn.to(k.device)), v
            begin = end


def _tokens(entries: Sequence[MemoryEntry]) -> int:
    return sum(entry.num_tokens for entry in entries)
