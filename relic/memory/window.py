"""What streaming video models usually ship: only the last frames are remembered."""

from __future__ import annotations

from relic.memory.entries import FrameEntry
from relic.memory.kv_cache import KVMemory


class WindowMemory(KVMemory):
    """Keeps the window and forgets the rest."""

    def settle(self, entries: tuple[FrameEntry, ...], num_frames: int) -> tuple[FrameEntry, ...]:
        """The last `window` entries."""
        return entries[-self.config.window :]
