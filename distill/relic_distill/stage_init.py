"""Initialisation of the few-step causal student (paper, section 4.4: ODE regression with hybrid forcing).

Four ways, one of them chosen by `InitTrainConfig.forcing`: see `relic_distill.init_loss`.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from relic.model.transformer import RelicTransformer
from relic.reprojection.warp import Views
from relic_distill.causal_loss import ClipBatch
from relic_distill.devices import moved, on_processor
from relic_distill.init_loss import consistency_loss, path_loss
from relic_distill.loop import step_generator, torch_generator
from relic_distill.trajectories import TrajectoryBatch, TrajectoryDataset, straight_paths
from relic_distill.world_stage import Ingredients, WorldStage, WorldTrainConfig, new_network

InitForcing = Literal["hybrid", "teacher", "diffusion", "consistency"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InitTrainConfig(WorldTrainConfig):
    """A complete run of the initialisation.

    Attributes:
        forcing: `hybrid` (the paper's), `teacher` or `diffusion` regress stored paths; `consistency` needs none.
        most_noisy_blocks: of hybrid forcing; each step draws a number up to it.
        levels: noise levels of consistency distillation.
    """

    forcing: InitForcing = "hybrid"
    most_noisy_blocks: int = 6
    levels: int = 32

    def __post_init__(self) -> None:
        WorldTrainConfig.__post_init__(self)
        if self.forcing not in typing.get_args(InitForcing):
            raise ValueError(f"forcing {self.forcing!r} is not one of {typing.get_args(InitForcing)}")
        if self.most_noisy_blocks < 1 or self.levels < 2:
            raise ValueError(
                f"most_noisy_blocks {self.most_noisy_blocks} must be at least 1 and levels {self.levels} at least 2"
            )


class InitStage(WorldStage):
    """The student's initialisation for the harness.

    Args:
        config: the complete run.
        given: data and frozen networks.
        teacher: exported weights; the student starts from them, and consistency distillation follows their flow.
        paths: stored trajectories, for every forcing but `consistency`.

    Raises:
        ValueError: when paths are missing, or were sampled at other noise levels than the student's.
    """

    def __init__(
        self, config: InitTrainConfig, given: Ingredients, teacher: Path, paths: TrajectoryDataset | None = None
    ) -> None:
        super().__init__(config, given, new_network(config, teacher))
        self.init, self.paths = config, paths
        self._teacher: RelicTransformer | None = None
        sampler = config.world.sampler
        if config.forcing == "consistency":
            self._teacher, self._average = (new_network(config, teacher).requires_grad_(False) for _ in range(2))
            self.frozen = {**self.frozen, "teacher": self._teacher, "average": self._average}
        elif paths is None:
            raise ValueError(f"forcing {config.forcing} regresses trajectories: name their folder")
        elif (paths.student_steps, paths.shift) != (sampler.steps, sampler.shift):
            raise ValueError(
                f"{paths.root} was sampled for {paths.student_steps} steps at shift {paths.shift:g}, the student takes "
                f"{sampler.steps} at {sampler.shift:g}: sample new ones"
            )

    def backward(self, step: int, part: int = 0) -> dict[str, float]:
        """A part of one step on stored paths, or on clips for consistency distillation."""
        if self.paths is None or self.init.forcing == "consistency":
            return super().backward(step, part)
        phase = self.config.phases[0]
        generator = torch_generator(self.config.seed, step, 1, part)
        with on_processor():
            paths = self.paths.draw(phase.batch, step_generator(self.config.seed, step, 0, part))
        loss = self.paths_loss(moved(paths, self.device), generator)
        loss.backward()
        self._longest = max(self._longest, self.paths.frames)
        return {"loss": float(loss.detach()), "frames": float(self.paths.frames)}

    def loss(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Loss of clips: consistency, or for the others that of paths whose noise is drawn at random."""
        if self._teacher is not None:
            self._average.load_state_dict(self.averages["model"].state_dict())
            guide = self.causal_guide(batch, generator)
            return consistency_loss(
                self.model, self._average, self._teacher, batch, self.config.world, self.init.levels, generator, guide
            )
        return self.paths_loss(straight_paths(batch, self.config.world.sampler, generator), generator)

    def paths_loss(self, paths: TrajectoryBatch, generator: torch.Generator) -> Tensor:
        """Loss of stored paths under the configured forcing."""
        world, forcing = self.config.world, self.init.forcing
        assert forcing != "consistency"
        if self.reprojector is not None and paths.clip.views is None:
            paths = replace(paths, clip=replace(paths.clip, views=self._views(paths.clip)))
        blocks = (paths.clip.latents.shape[2] - 1) // world.sampler.block_frames
        noisy = int(torch.randint(1, min(self.init.most_noisy_blocks, blocks) + 1, (), generator=generator))
        guide = self.causal_guide(paths.clip, generator)
        return path_loss(self.model, paths, world, forcing, noisy, generator, guide)

    @torch.no_grad()
    def _views(self, clip: ClipBatch) -> Views:
        """What the video shows at the end of each latent frame."""
        assert self.reprojector is not None
        pictures = self.shown(clip.latents)
        depth = self.reprojector.see_depth(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
        return Views(
            pictures=pictures,
            depth=depth,
            rotations_w2c=clip.camera.rotations_w2c[:, :, -1],
            positions=clip.camera.positions[:, :, -1],
        )
