"""Whole walks through a world: frames a second without a page, and the time from nothing to the first frames."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relic.actions import Speeds, action_from_keys
from relic.engine import WorldEngine
from relic.world import World


@dataclass(frozen=True, kw_only=True)
class WalkSpeed:
    """How fast a walk was drawn.

    Attributes:
        frames: pixel frames drawn after the start picture.
        seconds: they took.
    """

    frames: int
    seconds: float

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.frames / self.seconds


def forward_and_left() -> NDArray[np.float64]:
    """The action `(13,)` that every measured walk holds."""
    return action_from_keys(("KeyW", "ArrowLeft"), Speeds())


def walk_speed(world: World, seconds: float, steps: int | None = None) -> WalkSpeed:
    """Draw a walk of `seconds` through noise, decoding included, after two blocks to warm up.

    Args:
        world: to walk in.
        seconds: of video.
        steps: denoising passes a block; the world's own when left out.

    Raises:
        ValueError: for less than a block, or no step.
    """
    world = world.with_steps(steps)
    engine = started_engine(world)
    blocks = round(seconds * world.config.fps / engine.frames_per_block)
    if blocks < 1:
        raise ValueError(f"{seconds:g} s is less than a block of {engine.frames_per_block / world.config.fps:g} s")
    walk = forward_and_left()
    for _ in range(2):
        engine.step(walk)
    engine = started_engine(world)
    began = time.perf_counter()
    for _ in range(blocks):
        engine.step(walk)
    return WalkSpeed(frames=blocks * engine.frames_per_block, seconds=time.perf_counter() - began)


def started_engine(world: World) -> WorldEngine:
    """An engine that stands in a picture of noise."""
    engine = WorldEngine(world)
    shape = (world.config.height, world.config.width, 3)
    engine.start(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), "a room", 0)
    return engine


def start_up(weights: Path | None) -> dict[str, float]:
    """Seconds of each stage from a new process to the second block, in order.

    Raises:
        ValueError: when the process fails; it tells with what.
    """
    command = [sys.executable, "-m", "relic.benchmarks.walks", *([] if weights is None else [str(weights)])]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"starting a world failed: {done.stderr.strip().splitlines()[-1:]}")
    moments: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    before, stages = began, {}
    for name, moment in moments.items():
        stages[name], before = moment - before, moment
    return stages


def _stages(weights: Path | None) -> Iterator[str]:
    yield "Python, torch and RELIC imported"
    world = World.load(weights)
    yield "weights read and their digests checked"
    world.text_encoder.encode(["a room"])
    yield "text encoder loaded, a prompt encoded"
    engine = started_engine(world)
    yield "picture encoded and committed"
    engine.step(forward_and_left())
    yield "first block"
    engine.step(forward_and_left())
    yield "second block"


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    sys.stdout.write(json.dumps({stage: time.time() for stage in _stages(given)}) + "\n")
