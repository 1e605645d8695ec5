"""Timing of blocks against the length of what is remembered, and of the parts of one block."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from relic.actions import static_actions
from relic.benchmarks.timing import medians_s
from relic.benchmarks.walks import forward_and_left
from relic.camera import CameraPath, CameraPose, continue_path
from relic.config import MemoryPolicy
from relic.engine import WorldEngine
from relic.memory.backends import make_memory
from relic.memory.context import MemoryContext
from relic.model.conditioning import camera_conditioning
from relic.rollout import commit_block, denoise_block
from relic.world import World

_BLOCKS_AROUND = 5


@dataclass(frozen=True, kw_only=True)
class BlockTimes:
    """Median time of a block under one memory policy.

    Attributes:
        policy: of the memory.
        seconds: history before the block.
        milliseconds: median time of a block at each history, decoding included.
        tokens: memory tokens at each history.
        megabytes: of keys and values at each history.
    """

    policy: MemoryPolicy
    seconds: tuple[float, ...]
    milliseconds: tuple[float, ...]
    tokens: tuple[int, ...]
    megabytes: tuple[float, ...]


def block_times(world: World, policy: MemoryPolicy, seconds: Sequence[float], repeats: int) -> BlockTimes:
    """Time blocks of a walk through noise at several lengths of history.

    Args:
        world: whose sampler and sizes count; its memory policy is replaced.
        policy: memory policy to time.
        seconds: histories, at least 0.25 s each.
        repeats: walks; the medians are over the blocks around each history in all of them.

    Raises:
        ValueError: for no repeat or a history that is too short or longer than the memory's bound.
    """
    config = world.config
    longest = config.memory.max_frames * config.model.frames_per_latent / config.fps
    if repeats < 1 or not seconds or min(seconds) < 0.25 or max(seconds) > longest:
        raise ValueError(f"repeats {repeats} must be at least 1 and seconds {seconds} lie in [0.25, {longest:g}]")
    memory = dataclasses.replace(config.memory, policy=policy)
    policed = world.with_config(dataclasses.replace(config, memory=memory))
    marks = [round(moment * config.fps / config.model.frames_per_latent) for moment in seconds]
    times: list[list[float]] = [[] for _ in marks]
    tokens, megabytes = [0] * len(marks), [0.0] * len(marks)
    picture = np.random.default_rng(0).integers(0, 256, (config.height, config.width, 3), dtype=np.uint8)
    walk = forward_and_left()
    for repeat in range(repeats):
        engine = WorldEngine(policed)
        engine.start(picture, "a room", repeat)
        for block in range(max(marks) + _BLOCKS_AROUND):
            result = engine.step(walk)
            for index, mark in enumerate(marks):
                if mark <= block < mark + _BLOCKS_AROUND:
                    times[index].append(result.seconds * 1e3)
                if block + 1 == mark:
                    stats = engine.stats()
                    tokens[index], megabytes[index] = stats.memory_tokens, stats.memory_bytes / 1e6
    return BlockTimes(
        policy=policy,
        seconds=tuple(seconds),
        milliseconds=tuple(statistics.median(values) for values in times),
        tokens=tuple(tokens),
        megabytes=tuple(megabytes),
    )


def format_block_times(rows: Sequence[BlockTimes]) -> str:
    """A Markdown table; the last column is the longest history's time over the shortest's."""
    head = " | ".join(f"{moment:g} s" for moment in rows[0].seconds)
    lines = [f"| memory | {head} | last / first | tokens | MB |", "|---" * (4 + len(rows[0].seconds)) + "|"]
    for row in rows:
        times = " | ".join(f"{value:.0f} ms" for value in row.milliseconds)
        ratio = row.milliseconds[-1] / row.milliseconds[0]
        lines.append(f"| {row.policy} | {times} | {ratio:.2f} | {row.tokens[-1]} | {row.megabytes[-1]:.1f} |")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class PartTimes:
    """Median milliseconds of what a block is made of, and the auto-encoder's speed.

    Attributes:
        guide: warping and encoding earlier views.
        denoise: all denoising passes.
        commit: the pass that writes memory.
        show: decoding, and seeing the depth of what was decoded.
        decode_fps: frames a second of streaming decode, one block at a time.
        encode_fps: the same of streaming encode.
    """

    guide: float
    denoise: float
    commit: float
    show: float
    decode_fps: float
    encode_fps: float


@torch.inference_mode()
def part_times(world: World, seconds: float, repeats: int) -> PartTimes:
    """Time the parts of a block that has `seconds` of history, over `repeats` blocks.

    Raises:
        ValueError: for no repeat or a negative history.
    """
    if repeats < 1 or seconds < 0:
        raise ValueError(f"repeats {repeats} must be at least 1 and seconds {seconds:g} not negative")
    config, model = world.config, world.model
    size, pixel = config.sampler.block_frames, config.model.frames_per_latent
    before = round(seconds * config.fps / (size * pixel))
    walk = np.tile(forward_and_left(), (size * pixel, 1))
    memory, screen = make_memory(config.memory, config.model), world.screen()
    text = model.encode_text(world.text_encoder.encode(["a room"]))
    shape = (1, config.model.in_channels, size, config.model.latent_height, config.model.latent_width)
    latents, pose = torch.randn(shape)[:, :, :1], CameraPose.identity()
    camera = camera_conditioning(static_actions(1), CameraPath.identity(), pixel)
    commit_block(model, memory, model.encode_control(camera), text, latents)
    pixels = screen.show(latents, camera)
    parts: list[list[float]] = []
    for _ in range(before + repeats):
        path = continue_path(pose, walk)
        pose, camera = path[len(path) - 1], camera_conditioning(walk, path, pixel)
        moments = [time.perf_counter()]
        control = model.encode_control(camera, screen.guide(camera))
        moments.append(time.perf_counter())
        context = MemoryContext(memory, config.model, size)
        latents = denoise_block(model, context, control, text, torch.randn(shape), config.sampler)
        moments.append(time.perf_counter())
        commit_block(model, memory, control, text, latents, config.sampler.commit_sigma, context)
        moments.append(time.perf_counter())
        pixels = screen.show(latents, camera)
        moments.append(time.perf_counter())
        parts.append([(end - begin) * 1e3 for begin, end in itertools.pairwise(moments)])
    guide, denoise, commit, show = (statistics.median(column) for column in zip(*parts[before:], strict=True))
    decoder, encoder = screen.state.decoder, world.vae.encode_step(pixels[:, :, :1], world.vae.encoder_state(1))[1]
    decode_s, encode_s = medians_s(
        (lambda: world.vae.decode_step(latents, decoder), lambda: world.vae.encode_step(pixels, encoder)), repeats
    )
    return PartTimes(
        guide=guide,
        denoise=denoise,
        commit=commit,
        show=show,
        decode_fps=size * pixel / decode_s,
        encode_fps=size * pixel / encode_s,
    )


def format_part_times(times: PartTimes) -> str:
    """A Markdown table."""
    parts = (times.guide, times.denoise, times.commit, times.show)
    cells = [f"{value:.0f} ms" for value in (*parts, sum(parts))]
    cells += [f"{value:.0f} frames/s" for value in (times.decode_fps, times.encode_fps)]
    head = ("guide", "denoise", "commit", "show", "block", "streaming decode", "streaming encode")
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", f"| {' | '.join(cells)} |"])
