"""Timing of blocks against the length of what is remembered."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relic.actions import Speeds, action_from_keys
from relic.config import MemoryPolicy
from relic.engine import WorldEngine
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
    walk = action_from_keys(("KeyW", "ArrowLeft"), Speeds())
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
