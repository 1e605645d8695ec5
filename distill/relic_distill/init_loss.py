"""Losses that make a many-step network a few-step causal student, before distribution matching (paper, section 4.4).

Three regress stored ODE paths of the teacher and differ in what the student's past looks like; the fourth, causal
consistency distillation, needs no stored paths.

Axes: B batch, C latent channels, T latent frames, h, w latent cells, G guide channels, K noise levels of the student.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from relic.config import RelicConfig
from relic.flow_matching import add_noise, euler_step, sampling_sigmas, x0_from_velocity
from relic.model.transformer import RelicTransformer
from relic_distill.causal_loss import ClipBatch
from relic_distill.forcing import CausalPass, HybridForcingContext, TeacherForcingContext
from relic_distill.trajectories import TrajectoryBatch

Forcing = Literal["hybrid", "teacher", "diffusion"]


def path_loss(
    model: RelicTransformer,
    paths: TrajectoryBatch,
    world: RelicConfig,
    forcing: Forcing,
    noisy_blocks: int,
    generator: torch.Generator,
    guide: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the clean latents, predicted from states of the teacher's path.

    Every block stands at a noise level of its own among the student's.

    Args:
        model: the student.
        paths: stored states and clean ends.
        world: memory, sampler and block length that the student will be played with.
        forcing: `hybrid`, the last `noisy_blocks` noisy and before them clean frames, pooled beyond the window;
            `diffusion`, all blocks noisy; `teacher`, every block noisy beside its clean past.
        noisy_blocks: see `forcing`; no more than there are.
        generator: of the noise levels.
        guide: `(B, G, T - 1, h, w)`; clean frames are read without.

    Returns:
        Scalar loss over the noisy frames.
    """
    latents = paths.clip.latents
    count, _, frames = latents.shape[:3]
    size = world.sampler.block_frames
    levels = torch.randint(len(paths.states), (count, (frames - 1) // size), generator=generator)
    levels = torch.cat([torch.zeros((count, 1), dtype=torch.long), levels.repeat_interleave(size, dim=1)], dim=1)
    noisy = paths.states[levels, torch.arange(count).unsqueeze(1), :, torch.arange(frames)].transpose(1, 2)
    sigma = sampling_sigmas(len(paths.states), world.sampler.shift)[levels]
    if forcing == "teacher":
        context: CausalPass = TeacherForcingContext(model.config, world.memory, frames, size)
        clean = context.num_past
        pass_latents = torch.cat([latents[:, :, :clean], noisy[:, :, 1:]], dim=2)
        pass_sigma = torch.cat([torch.zeros(count, clean), sigma[:, 1:]], dim=1)
    else:
        context = HybridForcingContext(model.config, world.memory, frames, size)
        clean = 1 if forcing == "diffusion" else max(1, frames - size * noisy_blocks)
        pass_latents = torch.cat([latents[:, :, :clean], noisy[:, :, clean:]], dim=2)
        pass_sigma = torch.cat([torch.zeros(count, clean), sigma[:, clean:]], dim=1)
        if guide is not None:
            guide = torch.cat([torch.zeros_like(guide[:, :, : clean - 1]), guide[:, :, clean - 1 :]], dim=2)
    control = model.encode_control(context.pass_camera(paths.clip.camera), context.pass_guide(guide))
    velocity = model(pass_latents, pass_sigma, control, model.encode_text(paths.clip.text), context)
    predicted = _x0(pass_latents, velocity, pass_sigma)[:, :, clean:]
    return (predicted - latents[:, :, frames - predicted.shape[2] :]).square().mean()


def consistency_loss(
    student: RelicTransformer,
    average: RelicTransformer,
    teacher: RelicTransformer,
    batch: ClipBatch,
    world: RelicConfig,
    levels: int,
    generator: torch.Generator,
    guide: Tensor | None = None,
) -> Tensor:
    """Causal consistency distillation: neighbours on the teacher's path have one clean end (Song et al. 2023, eq. 8).

    Every block is noised to a level of its own beside its clean past, the teacher takes one Euler step of the flow
    from there, and the student's prediction before the step follows its average's after it.

    Args:
        student: trained.
        average: its exponential average; constant.
        teacher: a causal network of many steps; constant.
        batch: clips.
        world: memory, sampler and block length.
        levels: noise levels of the discretised flow.
        generator: of levels and noise.
        guide: `(B, G, T - 1, h, w)`; the clean past is read without.
    """
    latents = batch.latents
    count, _, frames = latents.shape[:3]
    size = world.sampler.block_frames
    context = TeacherForcingContext(student.config, world.memory, frames, size)
    clean = context.num_past
    sigmas = sampling_sigmas(levels, world.sampler.shift)
    chosen = torch.randint(levels, (count, (frames - 1) // size), generator=generator).repeat_interleave(size, dim=1)
    before, after = sigmas[chosen], sigmas[chosen + 1]
    eps = torch.randn(latents[:, :, 1:].shape, generator=generator)
    noisy = add_noise(latents[:, :, 1:].transpose(1, 2), eps.transpose(1, 2), before).transpose(1, 2)
    camera, pass_guide = context.pass_camera(batch.camera), context.pass_guide(guide)

    def predict(model: RelicTransformer, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Velocity of the noisy frames."""
        pass_latents = torch.cat([latents[:, :, :clean], noisy], dim=2)
        pass_sigma = torch.cat([torch.zeros(count, clean), sigma], dim=1)
        control = model.encode_control(camera, pass_guide)
        return model(pass_latents, pass_sigma, control, model.encode_text(batch.text), context)[:, :, clean:]

    with torch.no_grad():
        flow = predict(teacher, noisy, before).transpose(1, 2)
        stepped = euler_step(noisy.transpose(1, 2), flow, before, after).transpose(1, 2)
        target = _x0(stepped, predict(average, stepped, after), after)
    return (_x0(noisy, predict(student, noisy, before), before) - target).square().mean()


def _x0(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Clean latents `(B, C, F, h, w)` with a noise level `(B, F)` for each frame."""
    return x0_from_velocity(latents.transpose(1, 2), velocity.transpose(1, 2), sigma).transpose(1, 2)
