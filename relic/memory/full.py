"""The upper bound: every token of every latent frame is kept."""

from __future__ import annotations

from relic.memory.entries import FrameEntry
from relic.memory.kv_cache import KVMemory


class FullMemory(KVMemory):
    """Keeps everything uncompressed."""

    def settle(self, entries: tuple[FrameEntry, ...], num_frames: int) -> tuple[FrameEntry, ...]:
        """All entries."""
        return entries
