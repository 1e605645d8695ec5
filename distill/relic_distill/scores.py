"""Two ways to score a generated video: as a whole, or each block given the video's own past.

`video` is the paper's: bidirectional networks guided by the start picture alone see drift that no causal one can.
`causal` asks networks trained by teacher forcing, with the guides that the student had; a causal teacher knows what a
bidirectional one of the same size must still learn (Causal Forcing, arXiv 2602.02214).

Axes: B batch, C latent channels, T latent frames, h, w latent cells, G guide channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from relic.config import RelicConfig
from relic.model.transformer import RelicTransformer
from relic_distill.bidirectional import noised_video, video_loss, video_x0
from relic_distill.causal_loss import ClipBatch, NoiseConfig, causal_x0, teacher_forcing_loss

ScoreKind = Literal["video", "causal"]


class Score(Protocol):
    """What a network that scores videos is asked."""

    def predict(
        self,
        model: RelicTransformer,
        batch: ClipBatch,
        noise: Tensor,
        sigma: Tensor,
        guide: Tensor | None,
        null_text: Tensor,
        guidance: float,
    ) -> Tensor:
        """Clean latents `(B, C, T, h, w)` as predicted from the batch's noised to `sigma` `(B,)`; frame 0 is kept."""
        ...

    def loss(
        self,
        model: RelicTransformer,
        batch: ClipBatch,
        noise: NoiseConfig,
        generator: torch.Generator,
        guide: Tensor | None,
    ) -> Tensor:
        """Flow-matching loss that makes the network the score of the batch's latents."""
        ...


@dataclass(frozen=True, kw_only=True)
class VideoScore:
    """Bidirectional networks over the whole video at one noise level.

    Attributes:
        trained_frames: see `relic.model.attention.BidirectionalContext`.
    """

    trained_frames: int

    def predict(
        self,
        model: RelicTransformer,
        batch: ClipBatch,
        noise: Tensor,
        sigma: Tensor,
        guide: Tensor | None,
        null_text: Tensor,
        guidance: float,
    ) -> Tensor:
        """See `Score.predict`."""
        return video_x0(
            model,
            noised_video(batch.latents, noise, sigma),
            sigma,
            batch,
            guide,
            null_text=null_text,
            guidance=guidance,
            trained_frames=self.trained_frames,
        )

    def loss(
        self,
        model: RelicTransformer,
        batch: ClipBatch,
        noise: NoiseConfig,
        generator: torch.Generator,
        guide: Tensor | None,
    ) -> Tensor:
        """See `Score.loss`."""
        return video_loss(model, batch, noise, generator, guide, self.trained_frames)


@dataclass(frozen=True, kw_only=True)
class CausalScore:
    """Causal networks over every block beside its clean past, which is the video's own.

    Attributes:
        world: memory and block length.
    """

    world: RelicConfig

    def predict(
        self,
        model: RelicTransformer,
        batch: ClipBatch,
        noise: Tensor,
        sigma: Tensor,
        guide: Tensor | None,
        null_text: Tensor,
        guidance: float,
    ) -> Tensor:
        """See `Score.predict`."""
        return causal_x0(
            model,
            batch,
            noised_video(batch.latents, noise, sigma),
            sigma,
            self.world.memory,
            self.world.sampler.block_frames,
            guide,
            null_text=null_text,
            guidance=guidance,
        )

    def loss(
        self,
        model: RelicTransformer,
        batch: ClipBatch,
        noise: NoiseConfig,
        generator: torch.Generator,
        guide: Tensor | None,
    ) -> Tensor:
        """See `Score.loss`; the past is left clean, as the teacher sees it."""
        size = self.world.sampler.block_frames
        clean = replace(noise, context_max=0.0)
        return teacher_forcing_loss(model, batch, self.world.memory, size, clean, generator, guide)
