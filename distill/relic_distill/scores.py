"""Two ways to score a generated video: as a whole, or each block given the video's own past.

`video` is the paper's: bidirectional networks guided by the start picture alone see drift that no causal one can.
`causal` asks networks trained by teacher forcing, with the guides that the student had; a causal teacher knows what a
bidirectional one of the same size must still learn (Causal Forcing, arXiv 2602.02214).

Axes: B batch, C latent channels, T latent frames, h, w latent cells, G guide channels, S text tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from relic.config import RelicConfig
from relic.model.transformer import RelicTransformer
from relic_distill.bidirectional import video_loss, video_x0
from relic_distill.causal_loss import ClipBatch, NoiseConfig, causal_x0, teacher_forcing_loss

ScoreKind = Literal["video", "causal"]


@dataclass(frozen=True, kw_only=True)
class NoisedVideo:
    """Generated videos at one noise level each, as networks are asked about them.

    Attributes:
        batch: the clean videos, their camera and text.
        noisy: `(B, C, T, h, w)`; frame 0, the start picture, is clean.
        sigma: `(B,)` noise level of all other frames.
        guide: `(B, G, T - 1, h, w)` of the frames after the first; None without.
    """

    batch: ClipBatch
    noisy: Tensor
    sigma: Tensor
    guide: Tensor | None


class Score(ABC):
    """A way to ask networks about videos, and to train one to answer."""

    @abstractmethod
    def x0(self, model: RelicTransformer, video: NoisedVideo, null_text: Tensor, guidance: float) -> Tensor:
        """Clean latents `(B, C, T, h, w)` as predicted; frame 0 is kept.

        Args:
            model: asked.
            video: about which.
            null_text: `(S, D)` of the empty prompt.
            guidance: classifier-free guidance scale; 1 for none.
        """

    @abstractmethod
    def loss(
        self,
        model: RelicTransformer,
        batch: ClipBatch,
        noise: NoiseConfig,
        generator: torch.Generator,
        guide: Tensor | None,
    ) -> Tensor:
        """Flow-matching loss that makes the network the score of the batch's latents."""


@dataclass(frozen=True, kw_only=True)
class VideoScore(Score):
    """Bidirectional networks over the whole video.

    Attributes:
        trained_frames: see `relic.model.attention.BidirectionalContext`.
    """

    trained_frames: int

    def x0(self, model: RelicTransformer, video: NoisedVideo, null_text: Tensor, guidance: float) -> Tensor:
        """See `Score.x0`."""
        return video_x0(
            model,
            video.noisy,
            video.sigma,
            video.batch,
            video.guide,
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
class CausalScore(Score):
    """Causal networks over every block beside its clean past, which is the video's own.

    Attributes:
        world: memory and block length.
    """

    world: RelicConfig

    def x0(self, model: RelicTransformer, video: NoisedVideo, null_text: Tensor, guidance: float) -> Tensor:
        """See `Score.x0`."""
        return causal_x0(
            model,
            video.batch,
            video.noisy,
            video.sigma,
            self.world.memory,
            self.world.sampler.block_frames,
            video.guide,
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
