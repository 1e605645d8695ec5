"""The block loop: draw a block from noise against a read-only memory, then commit it.

Playing, evaluation and training all run this loop; there is no second one.

Axes: B batch, C latent channels, F latent frames of a block, h, w latent cells.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from relic.config import SamplerConfig
from relic.flow_matching import add_noise, euler_step, sampling_sigmas, x0_from_velocity
from relic.memory.context import MemoryContext
from relic.memory.kv_cache import KVMemory
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import Control, RelicTransformer, TextKV
from relic.screen import Screen


def denoise_block(
    model: RelicTransformer,
    context: MemoryContext,
    control: Control,
    text: TextKV,
    noise: Tensor,
    sampler: SamplerConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the next block's clean latents; memory is only read.

    Args:
        model: the network.
        context: the committed past, and the block itself.
        control: embedded camera control of the block.
        text: embedded prompt.
        noise: `(B, C, F, h, w)` unit Gaussian.
        sampler: steps and schedule.
        generator: source of the fresh noise of the `renoise` sampler.

    Returns:
        `(B, C, F, h, w)` clean latents.
    """
    sigmas = sampling_sigmas(sampler.steps, sampler.shift).to(noise)
    x = noise
    for sigma, next_sigma in itertools.pairwise(sigmas):
        velocity = model(x, sigma.expand(noise.shape[0], noise.shape[2]), control, text, context)
        if sampler.kind == "euler":
            x = euler_step(x, velocity, sigma, next_sigma)
        else:
            x0 = x0_from_velocity(x, velocity, sigma)
            fresh = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
            x = add_noise(x0, fresh, next_sigma) if next_sigma > 0 else x0
    return x


def commit_block(
    model: RelicTransformer,
    memory: KVMemory,
    control: Control,
    text: TextKV,
    latents: Tensor,
    sigma: float = 0.0,
) -> None:
    """Write a block of clean latents `(B, C, F, h, w)` into memory (one pass without guide, noise level `sigma`)."""
    context = MemoryContext(memory, model.config, latents.shape[2])
    level = latents.new_full((latents.shape[0], latents.shape[2]), sigma)
    model(latents, level, dataclasses.replace(control, guide=None), text, context)
    memory.append(*context.own_kv)


def generate_block(
    model: RelicTransformer,
    memory: KVMemory,
    control: Control,
    text: TextKV,
    noise: Tensor,
    sampler: SamplerConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a block and commit it, by a clean pass or with the keys and values of the last denoising pass.

    Arguments and result as `denoise_block`; `memory` is written.
    """
    context = MemoryContext(memory, model.config, noise.shape[2])
    latents = denoise_block(model, context, control, text, noise, sampler, generator)
    if sampler.commit == "clean":
        commit_block(model, memory, control, text, latents, sampler.commit_sigma)
    else:
        memory.append(*context.own_kv)
    return latents


def rollout(
    model: RelicTransformer,
    memory: KVMemory,
    first_latent: Tensor,
    camera: CameraConditioning,
    text: TextKV,
    sampler: SamplerConfig,
    generator: torch.Generator,
    screen: Screen | None = None,
) -> Iterator[Tensor]:
    """Commit the first latent frame, then draw and commit block after block.

    Args:
        model: the network.
        memory: an empty memory.
        first_latent: `(B, C, 1, h, w)`, the start picture.
        camera: control of the start picture's latent frame and all that follow; their number after the first is a
            multiple of `sampler.block_frames`.
        text: embedded prompt.
        sampler: steps, schedule and block length.
        generator: source of all noise.
        screen: a fresh one of as many streams, for a network that is guided by what it has shown.

    Yields:
        The clean latents `(B, C, F, h, w)` of each generated block.

    Raises:
        ValueError: when the control does not fill whole blocks.
    """
    size = sampler.block_frames
    if (camera.num_frames - 1) % size:
        raise ValueError(
            f"{camera.num_frames - 1} latent frames after the first do not fill blocks of {size}: pad the control"
        )
    commit_block(model, memory, model.encode_control(camera[:1]), text, first_latent)
    if screen is not None:
        screen.show(first_latent, camera[:1])
    for start in range(1, camera.num_frames, size):
        block_camera = camera[start : start + size]
        control = model.encode_control(block_camera, None if screen is None else screen.guide(block_camera))
        shape = (*first_latent.shape[:2], size, *first_latent.shape[3:])
        noise = torch.randn(shape, generator=generator, dtype=first_latent.dtype, device=first_latent.device)
        latents = generate_block(model, memory, control, text, noise, sampler, generator)
        if screen is not None:
            screen.show(latents, block_camera)
        yield latents
