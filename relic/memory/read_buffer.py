"""Rotated keys and values laid out so that a block reads its whole memory without copying it.

The buffer holds `[own | tail | settled]`: slots for the block that reads, the frames that may still change (the
window), and the frames that will not. Attention does not mind the order, so the tokens in use are always one slice, and
a frame of the tail stays in its slot (its number modulo the window) until the newest takes its place. Frames are
rotated once there, and once when they settle; only those older than `max_age` turn again, every few blocks.

Axes: B batch, K tokens, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import pooled_positions
from relic.memory.entries import MemoryEntry
from relic.memory.layers import Layers, joined
from relic.memory.placing import oldest_time, places
from relic.model.rope import grid_positions, rotate, rotation

_GROWTH_TOKENS = 1024


class ReadBuffer:
    """The reading side of one memory; starts anew whenever the entries are not a continuation of what it last saw."""

    def __init__(self, memory: MemoryConfig, model: ModelConfig) -> None:
        self._memory, self._model = memory, model
        self._space = grid_positions(model.grid)
        self._settled: list[MemoryEntry] = []
        self._times: list[int] = []
        self._slots: list[tuple[MemoryEntry, int]] = []
        self._start = 0
        self._k: Layers | None = None
        self._v: Layers | None = None

    def fill(self, entries: Sequence[MemoryEntry], num_frames: int, own_tokens: int) -> tuple[Layers, Layers]:
        """Bring the buffer up to date.

        Args:
            entries: all of memory, oldest first; at least one.
            num_frames: latent frames committed, which is where the reading block stands.
            own_tokens: slots to reserve at the front.

        Returns:
            Keys after RoPE and values, `(B, own_tokens + K, H, D)` of each layer. They are slices of the buffer and
            stay valid until the next call.
        """
        border = num_frames - self._memory.window
        settled = [entry for entry in entries if entry.frame < border]
        tail = sorted((entry for entry in entries if entry.frame >= border), key=self._slot)
        start = own_tokens + _tokens(tail)
        known = len(self._settled)
        continues = known <= len(settled) and all(a is b for a, b in zip(self._settled, settled[:known], strict=True))
        if start != self._start or not continues or (self._k is not None and self._k.batch != entries[-1].k.batch):
            self._settled, self._times, self._slots, self._start, known = [], [], [], start, 0
        k, v = self._reserve(start + _tokens(settled), entries[-1])
        oldest = oldest_time(self._memory, num_frames)
        times = [max(entry.frame, oldest) for entry in settled]
        moved = max((i + 1 for i, time in enumerate(self._times) if time != times[i]), default=0)
        self._write(settled[:moved], times[:moved], start)
        self._write(settled[known:], times[known:], start + _tokens(settled[:known]))
        self._write_tail([(entry, max(entry.frame, oldest)) for entry in tail], own_tokens)
        self._settled, self._times = settled, times
        end = start + _tokens(settled)
        return k.first(end), v.first(end)

    def _write_tail(self, slots: list[tuple[MemoryEntry, int]], offset: int) -> None:
        """Write the tail's entries with their times; those that lie in their slot already stay there."""
        held = self._slots if len(self._slots) == len(slots) else [None] * len(slots)
        for one, before in zip(slots, held, strict=True):
            if before is None or one[0] is not before[0] or one[1] != before[1]:
                self._write([one[0]], [one[1]], offset)
            offset += one[0].num_tokens
        self._slots = slots

    def _slot(self, entry: MemoryEntry) -> int:
        return entry.frame % self._memory.window

    def _reserve(self, tokens: int, like: MemoryEntry) -> tuple[Layers, Layers]:
        """Room for `tokens`; what is written already is kept."""
        if self._k is None or self._v is None or self._k.tokens < tokens or self._k.batch != like.k.batch:
            grown_k, grown_v = like.k.room(tokens + _GROWTH_TOKENS), like.v.room(tokens + _GROWTH_TOKENS)
            held = self._start + _tokens(self._settled)
            if (self._settled or self._slots) and self._k is not None and self._v is not None:
                grown_k.write(0, self._k.first(held))
                grown_v.write(0, self._v.first(held))
            self._k, self._v = grown_k, grown_v
        return self._k, self._v

    def _write(self, entries: Sequence[MemoryEntry], times: Sequence[int], offset: int) -> None:
        if not entries or self._k is None or self._v is None:
            return
        time, space = places(
            times, [pooled_positions(self._space, self._model.grid, entry.factor) for entry in entries]
        )
        turn = rotation(time, space, self._model.head_dim, self._model.rope_theta)
        self._k.write(
            offset, joined([entry.k for entry in entries]).map(lambda keys: rotate(keys, turn.to(keys.device)))
        )
        self._v.write(offset, joined([entry.v for entry in entries]))


def _tokens(entries: Sequence[MemoryEntry]) -> int:
    return sum(entry.num_tokens for entry in entries)
