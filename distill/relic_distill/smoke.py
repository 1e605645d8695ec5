"""The whole circle at toy sizes: every stage real, the whole in a few minutes, nothing to look at."""

from __future__ import annotations

from relic.config import MemoryConfig, ModelConfig, RelicConfig, SamplerConfig
from relic.reprojection.config import DepthConfig, ReprojectionConfig
from relic.vae.config import VaeConfig
from relic_distill.circle import Circle, RenderConfig
from relic_distill.loop import LoopConfig
from relic_distill.stage_causal import CausalTrainConfig
from relic_distill.stage_depth import DepthTrainConfig
from relic_distill.stage_dmd import DmdTrainConfig
from relic_distill.stage_init import InitTrainConfig
from relic_distill.stage_teacher import TeacherTrainConfig
from relic_distill.stage_vae import VaeTrainConfig
from relic_distill.trajectories import TrajectoryConfig
from relic_distill.world_stage import Phase


def tiny_world() -> RelicConfig:
    """A toy world of the mini world's picture size."""
    return RelicConfig(
        preset="tiny",
        model=ModelConfig(dim=32, num_layers=2, num_heads=2, ffn_dim=64, text_tokens=4, freq_dim=16, guide_channels=24),
        memory=MemoryConfig(window=2, max_frames=40),
        vae=VaeConfig.tiny(),
        sampler=SamplerConfig(steps=2),
        reprojection=ReprojectionConfig(depth=DepthConfig.tiny()),
    )


def tiny_loop(steps: int) -> LoopConfig:
    """A run of a few steps."""
    return LoopConfig(steps=steps, warmup=2, checkpoint_minutes=60, log_every=2)


def tiny_causal(steps: int) -> CausalTrainConfig:
    """A causal run of seconds."""
    return CausalTrainConfig(
        world=tiny_world(),
        loop=tiny_loop(steps),
        phases=(Phase(until_step=steps, frames=4, batch=2),),
        sample_runs=2,
        sample_frames=11,
    )


def tiny_smoke() -> Circle:
    """The circle that `relic distill all --recipe tiny-smoke` runs."""
    world, steps = tiny_world(), 8
    loop = tiny_loop(steps)
    phases = (Phase(until_step=4, frames=4, batch=2), Phase(until_step=steps, frames=7, batch=1))
    return Circle(
        render=RenderConfig(scenes=4, seconds=3.0, seed=7, workers=1),
        vae=VaeTrainConfig(vae=VaeConfig.tiny(), loop=tiny_loop(20)),
        depth=DepthTrainConfig(depth=DepthConfig.tiny(), loop=tiny_loop(10), batch=4),
        causal=tiny_causal(steps),
        teacher=TeacherTrainConfig(
            world=world, loop=loop, phases=phases, sample_runs=2, sample_frames=7, sample_steps=2
        ),
        trajectories=TrajectoryConfig(count=4, frames=5, batch=2, steps=4, student_steps=2),
        init=InitTrainConfig(world=world, loop=loop, phases=phases[:1], sample_runs=2, sample_frames=7),
        dmd=DmdTrainConfig(world=world, loop=loop, phases=phases, sample_runs=2, sample_frames=7, critic_updates=1),
    )
