"""Named runs of the mini world: functions that return a complete configuration.

Each takes the training time in minutes. `relic_distill.smoke` holds the toy sizes of the same stages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from relic.config import RelicConfig, SamplerConfig, mini
from relic_distill.causal_loss import NoiseConfig
from relic_distill.circle import Circle, RenderConfig
from relic_distill.loop import LoopConfig
from relic_distill.smoke import tiny_smoke
from relic_distill.stage_causal import CausalTrainConfig
from relic_distill.stage_depth import DepthTrainConfig
from relic_distill.stage_dmd import DmdTrainConfig
from relic_distill.stage_init import InitTrainConfig
from relic_distill.stage_teacher import TeacherTrainConfig
from relic_distill.stage_vae import VaeTrainConfig
from relic_distill.training_guide import GuideConfig
from relic_distill.trajectories import TrajectoryConfig
from relic_distill.world_stage import Phase

_Config = TypeVar("_Config")
Recipes = Mapping[str, Callable[[float], _Config]]

FIVE_SECONDS, TEN_SECONDS, TWENTY_SECONDS = 21, 41, 81
"""Latent frames of runs of those lengths."""

STUDENT_SAMPLER = SamplerConfig(kind="renoise", steps=4)
"""How the distilled world is played: four predictions of the clean block, each noised again but the last."""


def _curriculum(first: int, second: int, batch: int = 2) -> tuple[Phase, ...]:
    """Runs of 5, 10 and 20 seconds (paper, section 4.4), about as many seconds a step."""
    return (
        Phase(until_step=first, frames=FIVE_SECONDS, batch=batch),
        Phase(until_step=second, frames=TEN_SECONDS, batch=max(1, batch // 2)),
        Phase(until_step=10**6, frames=TWENTY_SECONDS, batch=max(1, batch // 4)),
    )


def mini_vae(minutes: float) -> VaeTrainConfig:
    """The mini world's video auto-encoder."""
    return VaeTrainConfig(vae=mini().tiny_vae, loop=LoopConfig(minutes=minutes, warmup=50, checkpoint_minutes=5))


def mini_depth(minutes: float) -> DepthTrainConfig:
    """The mini world's depth network."""
    return DepthTrainConfig(loop=LoopConfig(minutes=minutes, warmup=50, checkpoint_minutes=5))


def mini_causal(minutes: float) -> CausalTrainConfig:
    """The mini world's first training; run lengths grow from 2 to 5, 10 and 20 seconds."""
    return CausalTrainConfig(
        world=mini(),
        loop=LoopConfig(minutes=minutes, warmup=100, decay=0.4, checkpoint_minutes=8),
        phases=(
            Phase(until_step=500, frames=9, batch=4),
            Phase(until_step=800, frames=FIVE_SECONDS, batch=2),
            Phase(until_step=12000, frames=TEN_SECONDS, batch=1),
            Phase(until_step=24000, frames=TWENTY_SECONDS, batch=1),
        ),
    )


def mini_causal_longer(minutes: float) -> CausalTrainConfig:
    """The mini world trained on from weights that walk: gentler steps, runs of 5, 10 and 20 seconds."""
    return dataclasses.replace(
        mini_causal(minutes),
        loop=LoopConfig(minutes=minutes, warmup=30, decay=0.6, checkpoint_minutes=10),
        phases=(
            Phase(until_step=80, frames=FIVE_SECONDS, batch=2),
            Phase(until_step=160, frames=TEN_SECONDS, batch=1),
            Phase(until_step=10**6, frames=TWENTY_SECONDS, batch=1),
        ),
        guide=GuideConfig(swap_chance=0.75),
        lr_muon=3e-3,
        lr_adamw=6e-4,
        ema_decay=0.995,
    )


def mini_causal_gpu(minutes: float) -> CausalTrainConfig:
    """The mini world's training on a GPU with 40 GB or more: larger batches, runs of 5, 10 and 20 seconds."""
    return dataclasses.replace(
        mini_causal(minutes),
        loop=LoopConfig(minutes=minutes, warmup=50, decay=0.7, checkpoint_minutes=30),
        phases=_curriculum(200, 300, batch=64),
        guide=GuideConfig(swap_chance=0.75),
        ema_decay=0.995,
    )


def mini_teacher(minutes: float) -> TeacherTrainConfig:
    """The mini world's bidirectional teacher, begun from the causal network."""
    return TeacherTrainConfig(
        world=mini(),
        loop=LoopConfig(minutes=minutes, warmup=50, checkpoint_minutes=10),
        phases=_curriculum(600, 900),
        lr_muon=3e-3,
        lr_adamw=6e-4,
    )


def mini_teacher_gpu(minutes: float) -> TeacherTrainConfig:
    """The bidirectional teacher on a GPU."""
    return dataclasses.replace(
        mini_teacher(minutes),
        loop=LoopConfig(minutes=minutes, warmup=20, checkpoint_minutes=30),
        phases=_curriculum(120, 180, batch=32),
        ema_decay=0.99,
    )


def mini_trajectories() -> TrajectoryConfig:
    """The teacher's paths of 5 seconds at the student's four noise levels."""
    return TrajectoryConfig(count=128, frames=FIVE_SECONDS, student_steps=STUDENT_SAMPLER.steps)


def _student() -> RelicConfig:
    return dataclasses.replace(mini(), sampler=STUDENT_SAMPLER)


def mini_init(minutes: float) -> InitTrainConfig:
    """The four-step student's initialisation."""
    return InitTrainConfig(
        world=_student(),
        loop=LoopConfig(minutes=minutes, warmup=20, checkpoint_minutes=10),
        phases=(Phase(until_step=10**6, frames=FIVE_SECONDS, batch=2),),
        lr_muon=2e-3,
        lr_adamw=4e-4,
        ema_decay=0.995,
    )


def mini_dmd(minutes: float) -> DmdTrainConfig:
    """The four-step student's distillation; runs of 2 seconds come before those of 5, 10 and 20."""
    return DmdTrainConfig(
        world=_student(),
        loop=LoopConfig(minutes=minutes, warmup=20, checkpoint_minutes=10),
        phases=(Phase(until_step=300, frames=9, batch=4), *_curriculum(900, 1200)),
        critic_updates=2,
        shared_rollouts=True,
        lr_muon=5e-4,
        lr_adamw=1e-4,
        ema_decay=0.99,
    )


def mini_dmd_two_steps(minutes: float) -> DmdTrainConfig:
    """The two-step student, which two processor cores can play.

    It is scored by the causal network that it starts from, and held to what the start picture shows.
    """
    return dataclasses.replace(
        mini_dmd(minutes),
        world=dataclasses.replace(mini(), sampler=dataclasses.replace(STUDENT_SAMPLER, steps=2)),
        phases=(Phase(until_step=100, frames=9, batch=4), *_curriculum(240, 340)),
        score="causal",
        score_noise=NoiseConfig(shift=2.0, context_max=0.0),
        guidance=1.0,
        anchor=0.5,
        critic_updates=3,
        critic_lr=2.0,
        lr_muon=7e-4,
        lr_adamw=1.4e-4,
        ema_decay=0.97,
    )


def mini_dmd_four_steps(minutes: float) -> DmdTrainConfig:
    """The four-step student (the paper's number), distilled as the two-step one is."""
    return dataclasses.replace(mini_dmd_two_steps(minutes), world=_student())


def mini_circle(minutes: float) -> Circle:
    """The whole way to the mini world; the time goes to the trainings, rendering and sampling come on top."""
    return Circle(
        render=RenderConfig(scenes=320, seconds=20.0, seed=1, workers=2),
        vae=mini_vae(0.2 * minutes),
        depth=mini_depth(0.1 * minutes),
        causal=mini_causal(0.3 * minutes),
        teacher=mini_teacher(0.15 * minutes),
        trajectories=mini_trajectories(),
        init=mini_init(0.05 * minutes),
        dmd=mini_dmd(0.2 * minutes),
    )


VAE_RECIPES: Recipes[VaeTrainConfig] = {"mini": mini_vae, "tiny-smoke": lambda _: tiny_smoke().vae}
DEPTH_RECIPES: Recipes[DepthTrainConfig] = {"mini": mini_depth, "tiny-smoke": lambda _: tiny_smoke().depth}
CAUSAL_RECIPES: Recipes[CausalTrainConfig] = {
    "mini": mini_causal,
    "mini-longer": mini_causal_longer,
    "mini-gpu": mini_causal_gpu,
    "tiny-smoke": lambda _: tiny_smoke().causal,
}
TEACHER_RECIPES: Recipes[TeacherTrainConfig] = {"mini": mini_teacher, "tiny-smoke": lambda _: tiny_smoke().teacher}
TRAJECTORY_RECIPES: Recipes[TrajectoryConfig] = {
    "mini": lambda _: mini_trajectories(),
    "tiny-smoke": lambda _: tiny_smoke().trajectories,
}
INIT_RECIPES: Recipes[InitTrainConfig] = {"mini": mini_init, "tiny-smoke": lambda _: tiny_smoke().init}
DMD_RECIPES: Recipes[DmdTrainConfig] = {
    "mini": mini_dmd,
    "mini-two-steps": mini_dmd_two_steps,
    "mini-four-steps": mini_dmd_four_steps,
    "tiny-smoke": lambda _: tiny_smoke().dmd,
}
CIRCLE_RECIPES: Recipes[Circle] = {"mini": mini_circle, "tiny-smoke": lambda _: tiny_smoke()}


def find_recipe(table: Recipes[_Config], name: str, minutes: float) -> _Config:
    """The configuration that a recipe's name stands for.

    Args:
        table: recipes of a stage.
        name: one of them.
        minutes: training time; recipes of a fixed number of steps do not look at it.

    Raises:
        ValueError: for an unknown name; it lists the known ones.
    """
    if name not in table:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(sorted(table))}")
    return table[name](minutes)
