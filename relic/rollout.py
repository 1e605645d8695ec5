"""The block loop: draw a block from noise against a read-only memory, then commit it.

Playing, evaluation and training all run this loop; there is no second one.

Axes: B batch, C latent channels, F latent frames of a block, h, w latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from relic.config import SamplerConfig
from relic.flow_matching import SamplerStep, sampler_steps
from relic.memory.context import MemoryContext
from relic.memory.kv_cache import KVMemory
from relic.model.conditioning import CameraConditioning
from relic.model.control import Control
from relic.model.transformer import RelicTransformer, TextKV
from relic.screen import Screen
from relic.side_thread import alongside

_SEEDS = 2**62


class Spectator(Protocol):
    """Watches a rollout: every network pass, and every picture."""

    def passed(self, step: int, sigma: Tensor, latents: Tensor) -> Tensor:
        """Called after each denoising pass of a block.

        Args:
            step: number of the pass, from 0.
            sigma: noise level that the pass read.
            latents: `(B, C, F, h, w)` what the next pass is to read; clean after the last.

        Returns:
            The latents to go on with.
        """
        ...

    def shown(self, pixels: Tensor) -> None:
        """Called with `(B, 3, T, H, W)` that the screen has decoded, possibly in a second thread."""
        ...


def denoise_block(
    model: RelicTransformer,
    context: MemoryContext,
    control: Control,
    text: TextKV,
    noise: Tensor,
    sampler: SamplerConfig,
    generator: torch.Generator | None = None,
    exit_step: int | None = None,
    spectator: Spectator | None = None,
) -> Tensor:
    """Draw the next block's clean latents; memory is only read.

    Where nobody watches, C++ may run all passes in one call; the numbers are the same.

    Args:
        model: the network.
        context: the committed past, and the block itself.
        control: embedded camera control of the block.
        text: embedded prompt.
        noise: `(B, C, F, h, w)` unit Gaussian.
        sampler: steps and schedule.
        generator: source of the fresh noise of the `renoise` sampler.
        exit_step: pass, from 0, whose prediction is taken as the clean latents; only it carries gradients
            (self-forcing, Huang et al. 2025). None for all passes, each with gradients where they are enabled.
        spectator: sees every pass.

    Returns:
        `(B, C, F, h, w)` clean latents.

    Raises:
        ValueError: when there is no such pass.
    """
    if exit_step is not None and not 0 <= exit_step < sampler.steps:
        raise ValueError(f"exit_step {exit_step} is no pass of a sampler of {sampler.steps} steps")
    steps = sampler_steps(sampler.kind, sampler.steps, sampler.shift)
    fused = model.fused_for(noise, context) if exit_step is None else None
    wanted = torch.is_grad_enabled()
    x = noise
    if fused is not None and spectator is None:
        drawn = [_fresh_noise(x, step, generator) for step in steps]
        return fused.denoise(x, steps, drawn, control, text.layers, context)
    for number, step in enumerate(steps):
        level = x.new_full((x.shape[0], x.shape[2]), step.sigma)
        if fused is not None:
            x = fused.denoise(x, [step], [_fresh_noise(x, step, generator)], control, text.layers, context)
        else:
            with torch.set_grad_enabled(wanted and exit_step in (None, number)):
                velocity = model(x, level, control, text, context)
            if number == exit_step:
                return step.x0(x, velocity)
            x = step.update(x, velocity, _fresh_noise(x, step, generator))
        if spectator is not None:
            x = spectator.passed(number, level[0, 0], x)
    return x


def _fresh_noise(like: Tensor, step: SamplerStep, generator: torch.Generator | None) -> Tensor | None:
    return _unit_noise(like, like.shape, generator) if step.fresh else None


def _unit_noise(like: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Drawn where the generator lies, so that a seed gives the same noise on every device."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def commit_block(
    model: RelicTransformer,
    memory: KVMemory,
    control: Control,
    text: TextKV,
    latents: Tensor,
    sigma: float = 0.0,
    context: MemoryContext | None = None,
) -> None:
    """Write a block of clean latents into memory, by a pass without guide.

    Args:
        model: the network.
        memory: the past; written.
        control: embedded camera control of the block; its guide is left out.
        text: embedded prompt.
        latents: `(B, C, F, h, w)` clean.
        sigma: noise level named to the network.
        context: in which the block was drawn, to spare making it anew; None for a block that was not.
    """
    context = context or MemoryContext(memory, model.config, latents.shape[2])
    level = latents.new_full((latents.shape[0], latents.shape[2]), sigma)
    model.remember(latents, level, control, text, context)
    memory.append(*context.own_kv)


@dataclass(frozen=True, kw_only=True)
class BlockDraw:
    """What a block is drawn from: with the memory before it, enough to draw it again.

    Attributes:
        camera: control of the block's F latent frames.
        guide: `(B, G, F, h, w)` what earlier views show of it; None without.
        noise: `(B, C, F, h, w)` unit Gaussian.
        seed: of the fresh noise of the `renoise` sampler.
        exit_step: see `denoise_block`.
    """

    camera: CameraConditioning
    guide: Tensor | None
    noise: Tensor
    seed: int
    exit_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block that a rollout has drawn and committed.

    Attributes:
        latents: `(B, C, F, h, w)` clean.
        draw: what it was drawn from.
    """

    latents: Tensor
    draw: BlockDraw


def draw_block(
    model: RelicTransformer,
    memory: KVMemory,
    draw: BlockDraw,
    text: TextKV,
    sampler: SamplerConfig,
    show: Callable[[Tensor], object] | None = None,
    spectator: Spectator | None = None,
) -> Tensor:
    """Draw a block and commit it, by a clean pass or with the keys and values of the last denoising pass.

    Args:
        model: the network.
        memory: the past; written, and constant to gradients.
        draw: noise, control and guide.
        text: embedded prompt.
        sampler: steps and schedule.
        show: called with the clean latents, where a core is idle while they are committed.
        spectator: sees every denoising pass.

    Returns:
        `(B, C, F, h, w)` clean latents.
    """
    control = model.encode_control(draw.camera, draw.guide)
    context = MemoryContext(memory, model.config, draw.noise.shape[2])
    generator = torch.Generator("cpu").manual_seed(draw.seed)
    latents = denoise_block(model, context, control, text, draw.noise, sampler, generator, draw.exit_step, spectator)
    with alongside(lambda: None if show is None else show(latents)):
        if sampler.commit == "clean":
            commit_block(model, memory, control, text, latents, sampler.commit_sigma, context)
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
    exit_step: int | None = None,
    spectator: Spectator | None = None,
) -> Iterator[Block]:
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
        exit_step: see `denoise_block`.
        spectator: sees every denoising pass, and every picture of the screen.

    Yields:
        Each generated block.

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
        _show(first_latent, screen, camera[:1], spectator)
    shape = (*first_latent.shape[:2], size, *first_latent.shape[3:])
    for start in range(1, camera.num_frames, size):
        block_camera = camera[start : start + size]
        draw = BlockDraw(
            camera=block_camera,
            guide=None if screen is None else screen.guide(block_camera),
            noise=_unit_noise(first_latent, shape, generator),
            seed=int(torch.randint(_SEEDS, (), generator=generator, device=generator.device)),
            exit_step=exit_step,
        )
        show = None if screen is None else partial(_show, screen=screen, camera=block_camera, spectator=spectator)
        latents = draw_block(model, memory, draw, text, sampler, show, spectator)
        yield Block(latents=latents, draw=draw)


def _show(latents: Tensor, screen: Screen, camera: CameraConditioning, spectator: Spectator | None) -> None:
    pixels = screen.show(latents, camera)
    if spectator is not None:
        spectator.shown(pixels)
