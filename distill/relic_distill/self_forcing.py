"""Self-forcing with replayed back-propagation (paper, section 4.4 and eq. 5).

A rollout is drawn without gradients through the block loop that play runs; its gradient with respect to the latents is
found elsewhere; then each block is drawn again from the same noise and memory, this time with gradients, and its
share is propagated at once. No more than one block's graph ever exists.

Axes: B batch, C latent channels, T latent frames, F latent frames of a block, h, w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relic.config import MemoryConfig, SamplerConfig
from relic.memory.backends import make_memory
from relic.memory.kv_cache import KVMemory
from relic.model.transformer import RelicTransformer
from relic.rollout import Block, commit_block, draw_block, rollout
from relic.screen import Screen
from relic_distill.causal_loss import ClipBatch


@dataclass(frozen=True, kw_only=True)
class SelfRollout:
    """A video that a student has drawn from its own past.

    Attributes:
        batch: what it was begun from: first latents, camera and text.
        blocks: what was drawn, and from what.
    """

    batch: ClipBatch
    blocks: tuple[Block, ...]

    @property
    def latents(self) -> Tensor:
        """`(B, C, T, h, w)`, the start picture's included."""
        return torch.cat([self.batch.latents[:, :, :1], *(block.latents for block in self.blocks)], dim=2)

    @property
    def guide(self) -> Tensor | None:
        """`(B, G, T - 1, h, w)` what guided its blocks; None without."""
        guides = [block.draw.guide for block in self.blocks]
        known = [guide for guide in guides if guide is not None]
        return torch.cat(known, dim=2) if len(known) == len(guides) else None


@torch.no_grad()
def roll_out(
    model: RelicTransformer,
    batch: ClipBatch,
    memory: MemoryConfig,
    sampler: SamplerConfig,
    generator: torch.Generator,
    screen: Screen | None = None,
    exit_step: int | None = None,
) -> SelfRollout:
    """Draw a whole video without gradients.

    Args:
        model: the student.
        batch: first latent frame, camera of all, text; the other latents are not looked at.
        memory: policy of its memory.
        sampler: its steps.
        generator: of all noise.
        screen: a fresh one, for a student with a guide.
        exit_step: see `relic.rollout.denoise_block`.
    """
    blocks = rollout(
        model,
        make_memory(memory, model.config),
        batch.latents[:, :, :1],
        batch.camera,
        model.encode_text(batch.text),
        sampler,
        generator,
        screen,
        exit_step,
    )
    return SelfRollout(batch=batch, blocks=tuple(blocks))


def replay(
    model: RelicTransformer,
    drawn: SelfRollout,
    gradients: Tensor,
    memory: MemoryConfig,
    sampler: SamplerConfig,
) -> None:
    """Add to the parameters' gradients what `gradients` of the drawn latents imply, one block's graph at a time.

    Args:
        model: the student, unchanged since it drew.
        drawn: its video.
        gradients: `(B, C, T - 1, h, w)` with respect to the latents after the first.
        memory: as it was drawn.
        sampler: as it was drawn.

    Raises:
        ValueError: when there are not as many gradients as latents.
    """
    frames = drawn.latents.shape[2] - 1
    if gradients.shape[2] != frames:
        raise ValueError(f"gradients of {gradients.shape[2]} latent frames for a rollout of {frames}")
    past = _begin(model, drawn, memory)
    for block, gradient in zip(drawn.blocks, gradients.split(sampler.block_frames, dim=2), strict=True):
        latents = draw_block(model, past, block.draw, model.encode_text(drawn.batch.text), sampler)
        latents.backward(gradient)


def redraw(
    model: RelicTransformer, drawn: SelfRollout, memory: MemoryConfig, sampler: SamplerConfig
) -> Sequence[Tensor]:
    """The blocks' latents again, in one graph over the whole rollout: the reference for `replay`."""
    past = _begin(model, drawn, memory)
    text = model.encode_text(drawn.batch.text)
    return [draw_block(model, past, block.draw, text, sampler) for block in drawn.blocks]


@torch.no_grad()
def _begin(model: RelicTransformer, drawn: SelfRollout, memory: MemoryConfig) -> KVMemory:
    batch = drawn.batch
    past = make_memory(memory, model.config)
    control = model.encode_control(batch.camera[:1])
    commit_block(model, past, control, model.encode_text(batch.text), batch.latents[:, :, :1])
    return past
