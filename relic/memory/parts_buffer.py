"""Keys and values laid out for the attention kernel, which dequantises and rotates them as it reads.

Two stretches, neither ever copied: a ring of the window's frames, and the frames that have left it, in order. A block
costs memory only the writing of its newest frames; places are tables of their own, made anew for each block.

Axes: N layers, B batch, K tokens, L tokens of a frame, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import pooled_positions
from relic.memory.entries import FrameEntry, MemoryEntry, QuantisedEntry
from relic.memory.placing import axis_turns, oldest_time, places
from relic.model.rope import grid_positions
from relic_kernels.memory_attention import Part, Turns

_GROWTH_TOKENS = 1024


class Stretch:
    """Room for entries of one kind; tokens keep their places when it grows."""

    def __init__(self) -> None:
        self._tensors: tuple[Tensor, ...] = ()

    def write(self, entry: MemoryEntry, begin: int, capacity: int) -> None:
        """Put an entry's tokens at `begin`; what was written before is kept."""
        sources = _tensors_of(entry)
        if not self._tensors or self._tensors[0].shape[2] < begin + entry.num_tokens:
            size = max(capacity, begin + entry.num_tokens)
            grown = tuple(source.new_empty((*source.shape[:2], size, *source.shape[3:])) for source in sources)
            for new, old in zip(grown, self._tensors, strict=False):
                new[:, :, :begin] = old[:, :, :begin]
            self._tensors = grown
        for target, source in zip(self._tensors, sources, strict=True):
            target[:, :, begin : begin + entry.num_tokens] = source

    def part(self, layer: int, turns: Turns | None) -> Part | None:
        """As many of the first tokens as have turns, as one layer's attention reads them; None without any."""
        if turns is None:
            return None
        k, v, *scales = (tensor[layer, :, : turns.tokens] for tensor in self._tensors)
        k_scale, v_scale = scales or (None, None)
        return Part(k=k, v=v, turns=turns, k_scale=k_scale, v_scale=v_scale)


class PartsBuffer:
    """The kernel's side of one memory; starts anew whenever the entries do not continue what it last saw."""

    def __init__(self, memory: MemoryConfig, model: ModelConfig) -> None:
        self._memory, self._model = memory, model
        self._space = grid_positions(model.grid)
        self._settled: list[MemoryEntry] = []
        self._recent: dict[int, MemoryEntry] = {}
        self._pooled, self._window = Stretch(), Stretch()
        self._turns: tuple[Turns | None, Turns | None] = (None, None)

    def fill(self, entries: Sequence[MemoryEntry], num_frames: int) -> None:
        """Bring the buffer up to date with all of memory, oldest first, as a block after `num_frames` reads it."""
        border = num_frames - self._memory.window
        settled = [entry for entry in entries if entry.frame < border]
        known = len(self._settled)
        if known > len(settled) or any(a is not b for a, b in zip(self._settled, settled[:known], strict=True)):
            self._pooled, known = Stretch(), 0
        begin = sum(entry.num_tokens for entry in settled[:known])
        for entry in settled[known:]:
            self._pooled.write(entry, begin, begin + _GROWTH_TOKENS)
            begin += entry.num_tokens
        self._settled = settled
        recent = {entry.frame % self._memory.window: entry for entry in entries if entry.frame >= border}
        size = self._model.tokens_per_frame
        for slot, entry in recent.items():
            if self._recent.get(slot) is not entry:
                self._window.write(entry, slot * size, self._memory.window * size)
        self._recent = recent
        oldest = oldest_time(self._memory, num_frames)
        like = entries[-1].k
        self._turns = (
            self._turn(settled, oldest, like.device),
            self._turn([recent[slot] for slot in sorted(recent)], oldest, like.device),
        )

    def parts(self, layer: int) -> tuple[Part | None, Part | None]:
        """What left the window, and the window."""
        pooled, window = self._turns
        return self._pooled.part(layer, pooled), self._window.part(layer, window)

    def _turn(self, entries: Sequence[MemoryEntry], oldest: int, device: torch.device) -> Turns | None:
        """Of every token's place."""
        if not entries:
            return None
        time, space = places(
            [max(entry.frame, oldest) for entry in entries],
            [pooled_positions(self._space, self._model.grid, entry.factor) for entry in entries],
        )
        return axis_turns(time, space, self._model).to(device)


def _tensors_of(entry: MemoryEntry) -> tuple[Tensor, ...]:
    if isinstance(entry, QuantisedEntry):
        return entry.k_codes, entry.v_codes, entry.k_scale, entry.v_scale
    assert isinstance(entry, FrameEntry)
    return entry.k, entry.v
