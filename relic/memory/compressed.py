"""The paper's memory: a window of full latent frames, older frames spatially pooled (section 4.3)."""

from __future__ import annotations

from relic.memory.compression import frame_factor
from relic.memory.entries import MemoryEntry
from relic.memory.kv_cache import KVMemory


class CompressedMemory(KVMemory):
    """Keeps every latent frame; those before the window at the schedule's resolution."""

    def settle(self, entries: tuple[MemoryEntry, ...], num_frames: int) -> tuple[MemoryEntry, ...]:
        """Pool the frames that have left the window."""
        schedule = self.config.schedule
        return self.aged(entries, num_frames, lambda frame: frame_factor(frame, schedule))
