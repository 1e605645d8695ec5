"""Keys and values laid out for the attention kernel, which dequantises and rotates them as it reads.

Two stretches, neither ever copied: a ring of the window's frames, and the frames that have left it, in order. A block
costs memory only the writing of its newest frames; places are tables of their own, made anew for each block. What has
left the window lies nowhere else: its entries become views of the stretch. Only the window is there twice, since its
ring is written over, which a snapshot must not see.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch

from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import pooled_positions
from relic.memory.entries import FrameEntry, MemoryEntry, QuantisedEntry
from relic.memory.layers import Layers
from relic.memory.placing import axis_turns, oldest_time, places
from relic.model.rope import grid_positions
from relic_kernels.memory_attention import Part, Turns

_GROWTH_TOKENS = 1024


class Stretch:
    """Room for entries of one kind; tokens keep their places when it grows."""

    def __init__(self) -> None:
        self._tensors: tuple[Layers, ...] = ()
        self._turns: dict[torch.device, Turns] = {}

    def write(self, entry: MemoryEntry, begin: int, capacity: int) -> bool:
        """Put an entry's tokens at `begin`; what was written before is kept. Whether everything has moved."""
        sources = _tensors_of(entry)
        grows = not self._tensors or self._tensors[0].tokens < begin + entry.num_tokens
        if grows:
            grown = tuple(source.room(max(capacity, begin + entry.num_tokens)) for source in sources)
            for new, old in zip(grown, self._tensors, strict=False):
                new.write(0, old.first(begin))
            self._tensors = grown
        for target, source in zip(self._tensors, sources, strict=True):
            target.write(begin, source)
        return grows

    def held(self, entry: MemoryEntry, begin: int) -> MemoryEntry:
        """An entry that was written at `begin`, as it lies here; nothing is copied."""
        here = tuple(tensor.tokens_from(begin, entry.num_tokens) for tensor in self._tensors)
        if isinstance(entry, QuantisedEntry):
            k_codes, v_codes, k_scale, v_scale = here
            return replace(entry, k_codes=k_codes, v_codes=v_codes, k_scale=k_scale, v_scale=v_scale)
        k, v = here
        return replace(entry, k=k, v=v)

    def turn(self, turns: Turns | None) -> None:
        """Say where the first tokens stand, which are those that are read; None for no token."""
        self._turns = {}
        if turns is not None:
            devices = {stack.device for stack in self._tensors[0].stacks}
            self._turns = {device: turns.to(device) for device in devices}

    def part(self, layer: int) -> Part | None:
        """As many of the first tokens as have turns, as one layer's attention reads them; None without any."""
        if not self._turns:
            return None
        k, v, *scales = (tensor[layer] for tensor in self._tensors)
        turns = self._turns[k.device]
        k, v, *scales = (tensor[:, : turns.tokens] for tensor in (k, v, *scales))
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

    def fill(self, entries: Sequence[MemoryEntry], num_frames: int) -> tuple[MemoryEntry, ...]:
        """Bring the buffer up to date with all of memory, oldest first, as a block after `num_frames` reads it.

        Returns:
            The same entries; those that have left the window are views of the buffer, never written over.
        """
        border = num_frames - self._memory.window
        settled = [entry for entry in entries if entry.frame < border]
        known = len(self._settled)
        if known > len(settled) or any(a is not b for a, b in zip(self._settled, settled[:known], strict=True)):
            self._pooled, known = Stretch(), 0
        self._settled = settled = self._placed(settled, known)
        recent = {entry.frame % self._memory.window: entry for entry in entries if entry.frame >= border}
        size = self._model.tokens_per_frame
        for slot, entry in recent.items():
            if self._recent.get(slot) is not entry:
                self._window.write(entry, slot * size, self._memory.window * size)
        self._recent = recent
        oldest = oldest_time(self._memory, num_frames)
        self._pooled.turn(self._turns_of(settled, oldest))
        self._window.turn(self._turns_of([recent[slot] for slot in sorted(recent)], oldest))
        return (*settled, *(entry for entry in entries if entry.frame >= border))

    def _placed(self, settled: list[MemoryEntry], known: int) -> list[MemoryEntry]:
        """Entries that have left the window, of which the first `known` lie here already, as they lie here."""
        begins = list(itertools.accumulate((entry.num_tokens for entry in settled), initial=0))
        for entry, begin in zip(settled[known:], begins[known:], strict=False):
            if self._pooled.write(entry, begin, begins[-1] + _GROWTH_TOKENS):
                known = 0
        moved = [self._pooled.held(*pair) for pair in zip(settled[known:], begins[known:], strict=False)]
        return settled[:known] + moved

    def parts(self, layer: int) -> tuple[Part | None, Part | None]:
        """What left the window, and the window."""
        return self._pooled.part(layer), self._window.part(layer)

    def _turns_of(self, entries: Sequence[MemoryEntry], oldest: int) -> Turns | None:
        """Of every token's place."""
        if not entries:
            return None
        time, space = places(
            [max(entry.frame, oldest) for entry in entries],
            [pooled_positions(self._space, self._model.grid, entry.factor) for entry in entries],
        )
        return axis_turns(time, space, self._model)


def _tensors_of(entry: MemoryEntry) -> tuple[Layers, ...]:
    if isinstance(entry, QuantisedEntry):
        return entry.k_codes, entry.v_codes, entry.k_scale, entry.v_scale
    assert isinstance(entry, FrameEntry)
    return entry.k, entry.v
