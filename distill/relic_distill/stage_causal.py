"""First training of the world model: flow matching with teacher forcing on encoded clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from relic_distill.causal_loss import ClipBatch, teacher_forcing_loss
from relic_distill.world_stage import Ingredients, WorldStage, WorldTrainConfig, new_network


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalTrainConfig(WorldTrainConfig):
    """A complete run of the causal stage."""


class CausalStage(WorldStage):
    """The world model's causal training for the harness (`relic_distill.loop.Stage`)."""

    def __init__(self, config: CausalTrainConfig, given: Ingredients, init: Path | None = None) -> None:
        super().__init__(config, given, new_network(config, init))

    def loss(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Teacher forcing, each block with the guide its past gives it."""
        world = self.config.world
        guide = self.causal_guide(batch, generator)
        return teacher_forcing_loss(
            self.model, batch, world.memory, world.sampler.block_frames, self.config.noise, generator, guide
        )
