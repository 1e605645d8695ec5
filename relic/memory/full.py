"""The upper bound: every token of every latent frame is kept."""

from __future__ import annotations

from relic.memory.entries import MemoryEntry
from relic.memory.kv_cache import KVMemory


class FullMemory(KVMemory):
    """Keeps everything uncompressed."""

    def settle(self, entries: tuple[MemoryEntry, ...], num_frames: int) -> tuple[MemoryEntry, ...]:
        """All entries, at full resolution."""
        return self.aged(entries, num_frames, lambda frame: 1)
