"""What streaming video models usually ship: only the last frames are remembered."""

from __future__ import annotations

from relic.memory.entries import MemoryEntry
from relic.memory.kv_cache import KVMemory


class WindowMemory(KVMemory):
    """Keeps the window and forgets the rest."""

    def settle(self, entries: tuple[MemoryEntry, ...], num_frames: int) -> tuple[MemoryEntry, ...]:
        """The last `window` entries."""
        return entries[-self.config.window :]
