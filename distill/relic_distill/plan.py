"""What a training will take, told before it starts: parameters, tokens, memory, operations, time.

Nothing is computed: the network runs on torch's meta device, where operations and saved tensors can be counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from relic.config import ModelConfig, RelicConfig
from relic.model.attention import BidirectionalContext
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import RelicTransformer
from relic.planning.hardware import Device, Dtype, measured_flops
from relic.planning.parameters import meta_transformer
from relic.planning.training import StateBytes, TrainingPlan, plan_training_step, whole_blocks
from relic.world import world_intrinsics
from relic_distill.circle import Circle
from relic_distill.forcing import TeacherForcingContext
from relic_distill.loop import LoopConfig
from relic_distill.stage_dmd import DmdTrainConfig
from relic_distill.stage_teacher import TeacherTrainConfig
from relic_distill.world_stage import Phase, WorldTrainConfig, split_parameters

_BYTES = 4
_BACKWARD = 2.0
"""Operations of a backward pass, in forward passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassCost:
    """What one training pass takes.

    Attributes:
        tokens: of the pass, all runs together.
        flops: of the forward pass.
        saved_bytes: what autograd keeps for the backward pass.
    """

    tokens: int
    flops: float
    saved_bytes: int


def cost_of_pass(config: WorldTrainConfig, phase: Phase) -> PassCost:
    """Count a forward pass of a phase, on the meta device."""
    world = config.world
    model_config, frames, batch = world.model, phase.frames, phase.batch
    model = RelicTransformer(model_config, world_intrinsics(world)).to("meta")
    if isinstance(config, TeacherTrainConfig):
        context: BidirectionalContext | TeacherForcingContext = BidirectionalContext(model_config, frames)
        held = frames
    else:
        context = TeacherForcingContext(model_config, world.memory, frames, world.sampler.block_frames)
        held = len(context.frame_indices)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(batch, *shape, device="meta")

    camera = CameraConditioning(
        actions=zeros(held, model_config.frames_per_latent, model_config.num_actions),
        rotations_w2c=zeros(held, model_config.frames_per_latent, 3, 3),
        positions=zeros(held, model_config.frames_per_latent, 3),
    )
    cells = (held, model_config.latent_height, model_config.latent_width)
    guide = zeros(model_config.guide_channels, *cells) if model_config.guide_channels else None
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not _is_attention_matrix(tensor, batch, model_config):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        control = model.encode_control(camera, guide)
        text = model.encode_text(zeros(model_config.text_tokens, model_config.text_dim))
        model(zeros(model_config.in_channels, *cells), zeros(held), control, text, context)
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    tokens = batch * held * model_config.tokens_per_frame
    outputs = 2 * model_config.num_layers * tokens * model_config.dim * _BYTES
    return PassCost(
        tokens=tokens,
        flops=float(counter.get_total_flops()),
        saved_bytes=outputs + sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own),
    )


def _is_attention_matrix(tensor: Tensor, batch: int, config: ModelConfig) -> bool:
    """Whether a tensor holds weights of attention: the meta device keeps them, fused kernels keep their outputs."""
    heads, width, shape = config.num_heads, config.head_dim, tuple(tensor.shape)
    leading = shape[:2] == (batch, heads) if len(shape) == 4 else len(shape) == 3 and shape[0] == batch * heads
    return leading and width not in shape[-2:]


def step_flops(config: WorldTrainConfig, phase: Phase, cost: PassCost) -> float:
    """Operations of one optimiser step, guides and sampling not counted.

    A distillation step draws a video, one block at a time; four of five then train the critic on it, one asks teacher
    (with and without prompt) and critic and replays the video.
    """
    trained = (1 + _BACKWARD) * cost.flops
    if not isinstance(config, DmdTrainConfig):
        return trained
    by_frame = cost.flops / (2 * phase.frames)
    drawn = (config.world.sampler.steps + 1) * phase.frames * by_frame
    student = 3 * cost.flops + (1 + _BACKWARD) * phase.frames * by_frame + drawn
    return drawn + (config.critic_updates * trained + student) / (config.critic_updates + 1)


def state_bytes(config: WorldTrainConfig) -> tuple[int, int]:
    """Parameters of the network, and bytes of weights, gradients, optimiser and average."""
    parameters, state = training_state(config)
    return parameters, state.total


def training_state(config: WorldTrainConfig) -> tuple[int, StateBytes]:
    """Parameters of the network, and what its training holds between steps, all in float32."""
    model = meta_transformer(config.world)
    matrices, others = split_parameters(model)
    muon, adamw = (sum(parameter.numel() for parameter in group) for group in (matrices, others))
    weights, optimizer = _BYTES * (muon + adamw), _BYTES * (muon + 2 * adamw)
    distilled = isinstance(config, DmdTrainConfig)
    return muon + adamw, StateBytes(
        weights=weights,
        gradients=weights,
        optimizer=optimizer,
        average=weights,
        critic=2 * weights + optimizer if distilled else 0,
        teacher=weights if distilled else 0,
    )


def plan_distillation(world: RelicConfig, device: Device, *, gpus: int, seconds: float, dtype: Dtype) -> TrainingPlan:
    """The last stage of a world's training at any size; see `relic.planning.training`.

    Raises:
        ValueError: as `relic.planning.training.plan_training_step`.
    """
    frames = whole_blocks(world, seconds)
    phase = Phase(until_step=1, frames=frames, batch=1)
    config = DmdTrainConfig(world=world, loop=LoopConfig(steps=1), phases=(phase,), sample_frames=frames)
    return plan_training_step(
        world,
        device,
        training_state(config)[1],
        critic_updates=config.critic_updates,
        gpus=gpus,
        seconds=seconds,
        dtype=dtype,
    )


def plan_training(name: str, config: WorldTrainConfig, rate: float | None = None) -> list[str]:
    """Lines that tell what a training will take.

    Args:
        name: of the stage.
        config: complete.
        rate: operations a second; measured when left out.
    """
    rate = rate or measured_flops()
    parameters, state = state_bytes(config)
    lines = [
        f"{name}: {config.world.preset}, {parameters / 1e6:.1f} million parameters, {_length(config.loop)}",
        f"  weights, gradients, optimiser, average: {state / 1e6:.0f} MB",
    ]
    for phase, cost, flops in _phases(config):
        lines.append(
            f"  until step {phase.until_step}: {phase.batch} runs of {phase.frames} latent frames, "
            f"{cost.tokens} tokens, {cost.saved_bytes / 1e6:.0f} MB kept for backward, "
            f"{flops / 1e12:.2f} TFLOP a step, at least {flops / rate:.1f} s at {rate / 1e9:.0f} GFLOP/s"
        )
    if config.loop.steps:
        lines.append(f"  at least {_duration(_least_seconds(config, rate))} in all; guides and samples come on top")
    return lines


def plan_circle(circle: Circle) -> list[str]:
    """Lines that tell what a whole circle will take."""
    render, rate = circle.render, measured_flops()
    frames = round(16 * render.seconds) * render.scenes * render.clips_per_scene
    lines = [
        f"render: {render.scenes} scenes x {render.clips_per_scene} clips of {render.seconds:g} s, {frames} frames",
        f"vae: {_length(circle.vae.loop)}, {circle.vae.batch} windows of {circle.vae.window_frames} frames a step",
        f"depth: {_length(circle.depth.loop)}, {circle.depth.batch} pictures a step",
        f"encode: {1 + circle.palindromes} versions of each clip",
    ]
    sampling = circle.trajectories
    lines += plan_training("causal", circle.causal, rate) + plan_training("teacher", circle.teacher, rate)
    lines.append(
        f"trajectories: {sampling.count} videos of {sampling.frames} latent frames, {sampling.steps} steps each"
    )
    lines += plan_training("init", circle.init, rate) + plan_training("dmd", circle.dmd, rate)
    return [*lines, "release: weights, manifest, model card"]


def _phases(config: WorldTrainConfig) -> Iterator[tuple[Phase, PassCost, float]]:
    for phase in config.reached_phases:
        cost = cost_of_pass(config, phase)
        yield phase, cost, step_flops(config, phase, cost)


def _least_seconds(config: WorldTrainConfig, rate: float) -> float:
    seconds, begin = 0.0, 0
    phases = list(_phases(config))
    for phase, _, flops in phases:
        end = config.loop.steps if phase is phases[-1][0] else min(phase.until_step, config.loop.steps)
        seconds += max(0, end - begin) * flops / rate
        begin = end
    return seconds


def _length(loop: LoopConfig) -> str:
    return f"{loop.steps} steps" if loop.steps else f"{loop.minutes:.0f} minutes"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
