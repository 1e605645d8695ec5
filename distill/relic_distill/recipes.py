"""Named runs: functions that return a complete configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from relic.config import MemoryConfig, ModelConfig, RelicConfig, SamplerConfig, mini
from relic.reprojection.config import DepthConfig, ReprojectionConfig
from relic.vae.config import VaeConfig
from relic_distill.loop import LoopConfig
from relic_distill.stage_causal import CausalTrainConfig
from relic_distill.stage_depth import DepthTrainConfig
from relic_distill.stage_vae import VaeTrainConfig
from relic_distill.training_guide import GuideConfig
from relic_distill.world_stage import Phase


def mini_vae(minutes: float) -> VaeTrainConfig:
    """The mini world's video auto-encoder."""
    return VaeTrainConfig(vae=mini().vae, loop=LoopConfig(minutes=minutes, warmup=50, checkpoint_minutes=5))


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
            Phase(until_step=800, frames=21, batch=2),
            Phase(until_step=12000, frames=41, batch=1),
            Phase(until_step=24000, frames=81, batch=1),
        ),
    )


def mini_causal_longer(minutes: float) -> CausalTrainConfig:
    """The mini world trained on from weights that walk: gentler steps, runs of 5 and then 10 seconds."""
    return dataclasses.replace(
        mini_causal(minutes),
        loop=LoopConfig(minutes=minutes, warmup=30, decay=0.6, checkpoint_minutes=10),
        phases=(Phase(until_step=400, frames=21, batch=2), Phase(until_step=12000, frames=41, batch=1)),
        guide=GuideConfig(swap_chance=0.75),
        lr_muon=3e-3,
        lr_adamw=6e-4,
        ema_decay=0.995,
    )


def tiny_causal(steps: int) -> CausalTrainConfig:
    """A causal run of seconds, for tests: the real stage at toy sizes."""
    return CausalTrainConfig(
        world=RelicConfig(
            preset="tiny",
            model=ModelConfig(
                dim=32, num_layers=2, num_heads=2, ffn_dim=64, text_tokens=4, freq_dim=16, guide_channels=24
            ),
            memory=MemoryConfig(window=2, max_frames=40),
            vae=VaeConfig.tiny(),
            sampler=SamplerConfig(steps=2),
            reprojection=ReprojectionConfig(depth=DepthConfig.tiny()),
        ),
        loop=LoopConfig(steps=steps, warmup=2, checkpoint_minutes=60, log_every=2),
        phases=(Phase(until_step=steps, frames=4, batch=2),),
        sample_runs=2,
        sample_frames=11,
    )


CAUSAL_RECIPES: Mapping[str, Callable[[float], CausalTrainConfig]] = {
    "mini": mini_causal,
    "mini-longer": mini_causal_longer,
}
DEPTH_RECIPES: Mapping[str, Callable[[float], DepthTrainConfig]] = {"mini": mini_depth}
VAE_RECIPES: Mapping[str, Callable[[float], VaeTrainConfig]] = {"mini": mini_vae}
