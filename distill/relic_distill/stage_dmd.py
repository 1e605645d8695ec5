"""Distribution matching distillation by self-forcing, with replayed back-propagation (paper, section 4.4).

The student draws whole videos from its own past, as in play. Some steps teach the critic to score them; every few
steps the map `s_data - s_gen` of a video is found with teacher and critic, and replayed into the student.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from relic.checkpoint import read_metadata
from relic.config import RelicConfig, from_json
from relic_distill.bidirectional import noised_video
from relic_distill.causal_loss import ClipBatch, NoiseConfig, draw_sigmas
from relic_distill.dmd import generator_gradient, known_distance, score_difference, truth_difference
from relic_distill.loop import torch_generator
from relic_distill.scores import CausalScore, NoisedVideo, Score, ScoreKind, VideoScore
from relic_distill.self_forcing import SelfRollout, replay, roll_out
from relic_distill.stage_teacher import is_bidirectional, trained_frames_of
from relic_distill.world_stage import (
    Ingredients,
    WorldStage,
    WorldTrainConfig,
    new_network,
    optimizers_of,
)

_ROLLOUT_STREAM, _EXIT_STREAM = 6, 7


@dataclass(frozen=True, kw_only=True, slots=True)
class DmdTrainConfig(WorldTrainConfig):
    """A complete run of the distillation.

    Attributes:
        score: how videos are scored, see `relic_distill.scores`.
        critic_updates: of the critic, for each of the student.
        guidance: classifier-free guidance of the teacher.
        critic_lr: learning rates of the critic, as multiples of the student's.
        shared_rollouts: whether all updates between two of the student share one rollout, scored anew at each; the
            student has not changed in between. Otherwise each update draws its own, as in the paper.
        score_noise: noise levels at which videos are scored.
        anchor: weight of the map to the recorded video, on surfaces that the start picture shows, beside the map of
            scores; 0 for distribution matching alone, as in the paper.
    """

    score: ScoreKind = "video"
    critic_updates: int = 4
    guidance: float = 1.5
    critic_lr: float = 1.0
    shared_rollouts: bool = False
    score_noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(shift=3.0, context_max=0.0))
    anchor: float = 0.0

    def __post_init__(self) -> None:
        WorldTrainConfig.__post_init__(self)
        if self.score not in typing.get_args(ScoreKind):
            raise ValueError(f"score {self.score!r} is not one of {typing.get_args(ScoreKind)}")
        if self.critic_updates < 1 or self.critic_lr <= 0:
            raise ValueError(f"critic_updates {self.critic_updates} and critic_lr {self.critic_lr} must be positive")
        if self.anchor < 0:
            raise ValueError(f"anchor {self.anchor} must not be negative: it weighs the map to the recorded video")
        if self.anchor and self.world.reprojection is None:
            raise ValueError(
                f"anchor {self.anchor} asks what the start picture shows, which only a world with reprojection finds: "
                "choose 0"
            )


def memory_age_of(student: Path) -> int:
    """How old memory gets in the world of exported weights, in latent frames; 0 for a network without memory."""
    return 0 if is_bidirectional(student) else from_json(RelicConfig, read_metadata(student)["config"]).memory.max_age


def score_of(config: DmdTrainConfig, teacher: Path) -> Score:
    """How a run's videos are scored.

    Args:
        config: the complete run.
        teacher: exported weights that score the data.

    Raises:
        FileNotFoundError: when there are no such weights.
        ValueError: when they are causal and a bidirectional network is asked for, or the other way round.
    """
    if config.score == "video":
        if not is_bidirectional(teacher):
            raise ValueError(
                f"{teacher} is a causal network, score 'video' asks a bidirectional one: name the export of "
                "`relic distill teacher`, or choose score 'causal'"
            )
        return VideoScore(trained_frames=trained_frames_of(teacher))
    if is_bidirectional(teacher):
        raise ValueError(
            f"{teacher} is a bidirectional teacher, score 'causal' asks a causal network: name the export of "
            "`relic distill causal` or a released world, or choose score 'video'"
        )
    return CausalScore(world=config.world)


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    rollout: SelfRollout
    guide: Tensor | None
    exit_step: float


class DmdStage(WorldStage):
    """Distillation for the harness.

    Args:
        config: the complete run.
        given: data and frozen networks.
        student: exported weights that the student starts from.
        teacher: exported weights of the data's score; the critic starts from them.

    Raises:
        ValueError: see `score_of`.
    """

    def __init__(self, config: DmdTrainConfig, given: Ingredients, student: Path, teacher: Path) -> None:
        self.score = score_of(config, teacher)
        super().__init__(config, given, new_network(config, student), views=config.score == "video")
        self.dmd = config
        self.known_age = memory_age_of(student)
        self.teacher, self.critic = new_network(config, teacher), new_network(config, teacher)
        self.teacher.requires_grad_(False)
        critic_config = replace(
            config, lr_muon=config.lr_muon * config.critic_lr, lr_adamw=config.lr_adamw * config.critic_lr
        )
        critic_optimizers = {f"critic_{name}": one for name, one in optimizers_of(self.critic, critic_config).items()}
        self.modules: Mapping[str, nn.Module] = {**self.modules, "critic": self.critic}
        self.optimizers: Mapping[str, Optimizer] = {**self.optimizers, **critic_optimizers}
        self.frozen = {**self.frozen, "teacher": self.teacher}
        self._kept: dict[tuple[int, int], _Drawn] = {}

    def backward(self, step: int, part: int = 0) -> dict[str, float]:
        """A part of a step of the critic, or after `critic_updates` of them one of the student."""
        generator = torch_generator(self.config.seed, step, 1, part)
        cycle = self.dmd.critic_updates + 1
        place = step % cycle
        drawn = self._drawn(step - place if self.dmd.shared_rollouts else step, part)
        rollout, guide = drawn.rollout, drawn.guide
        video = replace(rollout.batch, latents=rollout.latents)
        if place < self.dmd.critic_updates:
            loss = self.score.loss(self.critic, video, self.dmd.score_noise, generator, guide)
            loss.backward()
            return {"loss": float(loss.detach()), "critic_loss": float(loss.detach()), "exit_step": drawn.exit_step}
        difference = self.difference(video, guide, generator)
        size = float(difference.abs().mean())
        figures = {"loss": size, "score_difference": size, "exit_step": drawn.exit_step}
        if self.dmd.anchor:
            known, truth = self.known(rollout.batch), rollout.batch.latents
            difference = difference + self.dmd.anchor * truth_difference(video.latents, truth, known)
            figures["known_error"] = float(known_distance(video.latents, truth, known).mean())
        world = self.config.world
        replay(self.model, rollout, generator_gradient(difference)[:, :, 1:], world.memory, world.sampler)
        return figures

    @torch.no_grad()
    def known(self, batch: ClipBatch) -> Tensor:
        """Share `(B, 1, T, h, w)` of every cell whose surface the start picture shows; zero at that picture itself."""
        latents, camera = batch.latents, batch.camera
        screen = self.screen(len(latents))
        screen.show(latents[:, :, :1], camera[:1])
        guide = screen.guide(camera[1:])
        assert guide is not None, "the configuration asks for reprojection"
        frames, channels = self.config.world.model.frames_per_latent, latents.shape[1]
        shown = guide[:, channels : channels + frames].mean(dim=1, keepdim=True)
        return torch.cat([torch.zeros_like(shown[:, :, :1]), shown], dim=2).to(latents)

    @torch.no_grad()
    def difference(self, video: ClipBatch, guide: Tensor | None, generator: torch.Generator) -> Tensor:
        """The map `s_data - s_gen` of generated videos, `(B, C, T, h, w)`; zero at the start picture."""
        config = self.dmd
        sigma = draw_sigmas((len(video.latents),), config.score_noise, generator)
        noise = torch.randn(video.latents.shape, generator=generator)
        asked = NoisedVideo(batch=video, noisy=noised_video(video.latents, noise, sigma), sigma=sigma, guide=guide)
        data = self.score.x0(self.teacher, asked, self.null_text, config.guidance)
        generated = self.score.x0(self.critic, asked, self.null_text, 1.0)
        return score_difference(video.latents, data, generated)

    def loss(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Held-out figure: mean squared distance of rollouts from the truth, in latents."""
        return (self.show(batch, generator) - batch.latents).square().mean()

    def _drawn(self, step: int, part: int) -> _Drawn:
        """The rollout of a step: a function of the step and the student's weights, so that a resumed run has it too."""
        if (step, part) not in self._kept:
            generator = torch_generator(self.config.seed, step, _ROLLOUT_STREAM, part)
            batch, world = self.draw(step, part), self.config.world
            of_all_parts = torch_generator(self.config.seed, step, _EXIT_STREAM)
            exit_step = int(torch.randint(world.sampler.steps, (), generator=of_all_parts))
            screen = self.screen(len(batch.latents))
            rollout = roll_out(self.model, batch, world.memory, world.sampler, generator, screen, exit_step)
            guide = rollout.guide if self.dmd.score == "causal" else self.start_guide(batch, generator)
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] == step}
            self._kept[step, part] = _Drawn(rollout=rollout, guide=guide, exit_step=float(exit_step))
        return self._kept[step, part]
