"""The network's side of one session: its memory, its prompt, and the blocks that are drawn from them.

A block is drawn from a record, so this side needs no pictures: the text encoder, the auto-encoder and the views that
guide may lie in another process.

Axes: B batch, C latent channels, F latent frames of a block, h, w latent cells, S text tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from relic.config import MemoryConfig, SamplerConfig
from relic.memory.backends import make_memory
from relic.memory.entries import MemorySnapshot
from relic.memory.kv_cache import KVMemory
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import RelicTransformer, TextKV
from relic.rollout import BlockDraw, commit_block, draw_block


class Stream:
    """Begins with `start`; then blocks are drawn one after another.

    Args:
        model: the network.
        memory: policy of its memory.
        sampler: steps and schedule.
    """

    def __init__(self, model: RelicTransformer, memory: MemoryConfig, sampler: SamplerConfig) -> None:
        self._model, self._sampler = model, sampler
        self._memory = make_memory(memory, model.config)
        self._text = TextKV(layers=[])

    @property
    def memory(self) -> KVMemory:
        """What was committed; to be read only."""
        return self._memory

    def start(self, latent: Tensor, camera: CameraConditioning, text: Tensor) -> None:
        """Commit the start picture.

        Args:
            latent: `(B, C, 1, h, w)`.
            camera: control of that latent frame.
            text: `(B, S, text_dim)` tokens of the prompt.
        """
        self._text = self._model.encode_text(text)
        commit_block(self._model, self._memory, self._model.encode_control(camera), self._text, latent)

    def set_text(self, text: Tensor) -> None:
        """Change the prompt from the next block on: `(B, S, text_dim)`."""
        self._text = self._model.encode_text(text)

    def draw(self, draw: BlockDraw, show: Callable[[Tensor], object] | None = None) -> Tensor:
        """Draw and commit a block, see `relic.rollout.draw_block`: `(B, C, F, h, w)`."""
        return draw_block(self._model, self._memory, draw, self._text, self._sampler, show)

    def snapshot(self) -> MemorySnapshot:
        """The memory now; the prompt is not in it."""
        return self._memory.snapshot()

    def restore(self, snapshot: MemorySnapshot) -> None:
        """Go back to a snapshot of this stream."""
        self._memory.restore(snapshot)
