"""The paper's memory: a window of full latent frames, older frames spatially pooled (section 4.3)."""

from __future__ import annotations

from relic.memory.compression import frame_factor
from relic.memory.entries import FrameEntry
from relic.memory.kv_cache import KVMemory


class CompressedMemory(KVMemory):
    """Keeps every latent frame; those before the window at the schedule's resolution."""

    def settle(self, entries: tuple[FrameEntry, ...], num_frames: int) -> tuple[FrameEntry, ...]:
        """Pool the frames that have left the window."""
        window_start = num_frames - self.config.window
        return tuple(self._aged(entry) if entry.frame < window_start else entry for entry in entries)

    def _aged(self, entry: FrameEntry) -> FrameEntry:
        factor = frame_factor(entry.frame, self.config.schedule)
        return entry if entry.factor == factor else self.pooled(entry, factor)
