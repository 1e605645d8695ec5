"""Memory policies by name."""

from __future__ import annotations

from relic.config import MemoryConfig, MemoryPolicy, ModelConfig
from relic.memory.compressed import CompressedMemory
from relic.memory.full import FullMemory
from relic.memory.kv_cache import KVMemory
from relic.memory.window import WindowMemory

POLICIES: dict[MemoryPolicy, type[KVMemory]] = {
    "compressed": CompressedMemory,
    "full": FullMemory,
    "window": WindowMemory,
}


def make_memory(memory: MemoryConfig, model: ModelConfig) -> KVMemory:
    """An empty memory of the configured policy."""
    return POLICIES[memory.policy](memory, model)
