"""First training of the world model: flow matching with teacher forcing on encoded clips.

A network that has only ever seen a true past blurs and fades step by step once it sees its own. So part of the steps
replace the past, and the views that guide, by what the network itself makes of the truth (self-resampling, as in
Resampling Forcing, arXiv 2512.15702): the place stays the true one, the flaws are the network's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from relic_distill.bidirectional import noised_video
from relic_distill.causal_loss import ClipBatch, causal_x0, teacher_forcing_loss
from relic_distill.loop import torch_generator
from relic_distill.world_stage import Ingredients, WorldStage, WorldTrainConfig, new_network

_RESAMPLING, _ROUNDS = 5, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ResampleConfig:
    """How often and how far the past is redrawn by the network itself.

    Attributes:
        chance: of a step to redraw the past, and of a redrawn past to be redrawn again.
        rounds: times at most.
        least: lowest noise level that the network redraws from; the highest is 1, where only the past counts.
    """

    chance: float = 0.5
    rounds: int = 2
    least: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.chance <= 1 or not 0 < self.least <= 1:
            raise ValueError(f"resample chance {self.chance} must lie in [0, 1] and least {self.least} in (0, 1]")
        if self.rounds < 0:
            raise ValueError(f"resample rounds {self.rounds} must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalTrainConfig(WorldTrainConfig):
    """A complete run of the causal stage.

    Attributes:
        resample: how the past is spoiled by the network itself.
    """

    resample: ResampleConfig = field(default_factory=ResampleConfig)


class CausalStage(WorldStage):
    """The world model's causal training for the harness (`relic_distill.loop.Stage`)."""

    def __init__(self, config: CausalTrainConfig, given: Ingredients, init: Path | None = None) -> None:
        super().__init__(config, given, new_network(config, init))
        self.resample = config.resample

    def draw(self, step: int, part: int = 0) -> ClipBatch:
        """The runs of a step's part, with the past that they are trained on."""
        batch = super().draw(step, part)
        generator = torch_generator(self.config.seed, step, _RESAMPLING, part)
        tosses = torch.rand(self.resample.rounds, generator=torch_generator(self.config.seed, step, _ROUNDS))
        for toss in tosses.tolist():  # the same for all parts, see `relic_distill.loop.Stage.backward`
            if toss >= self.resample.chance:
                break
            batch = self.with_own_past(batch, generator)
        return batch

    @torch.no_grad()
    def with_own_past(self, batch: ClipBatch, generator: torch.Generator) -> ClipBatch:
        """Runs whose past, and views of it, are what the network predicts from the noised truth and the past so far."""
        latents, world = batch.latents, self.config.world
        least = self.resample.least
        sigma = least + (1 - least) * torch.rand(len(latents), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        past = causal_x0(
            self.model,
            batch,
            noised_video(latents, noise, sigma),
            sigma,
            world.memory,
            world.sampler.block_frames,
            self.causal_guide(batch, generator),
        )
        views = batch.views
        if views is not None:
            film = self.shown(past)
            views = replace(views, pictures=torch.cat([film, views.pictures[:, film.shape[1] :]], dim=1))
        return replace(batch, past=past, views=views)

    def loss(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Teacher forcing, each block with the guide its past gives it."""
        world = self.config.world
        guide = self.causal_guide(batch, generator)
        return teacher_forcing_loss(
            self.model, batch, world.memory, world.sampler.block_frames, self.config.noise, generator, guide
        )
