"""How far the frames of a walk lie from those of the same walk by torch's operators in float32."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from relic.benchmarks.walks import forward_and_left
from relic.engine import WorldEngine
from relic.precision import Precision
from relic.world import World
from relic_kernels.dispatch import force

_LARGEST = 255.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a walk begins: a picture and its prompt."""

    picture: Image.Image
    prompt: str


@dataclass(frozen=True, kw_only=True)
class FrameAccuracy:
    """Peak signal-to-noise ratio of frames beside float32's.

    Attributes:
        precision: of the walks.
        decibels: of each whole second, one number a start; infinite where no pixel differs.
    """

    precision: Precision
    decibels: tuple[tuple[float, ...], ...]


def frame_accuracies(
    load: Callable[[Precision], World], precisions: Sequence[Precision], starts: Sequence[Start], seconds: int
) -> list[FrameAccuracy]:
    """Walk from each start, forward and to the left, with the same noise in every precision.

    Args:
        load: the world in a precision.
        precisions: to compare with float32 by torch's operators.
        starts: at least one.
        seconds: of each walk, at least 1.

    Raises:
        ValueError: for no start or no second, or a precision in which the processor cannot compute.
    """
    if not starts or seconds < 1:
        raise ValueError(f"{len(starts)} starts of {seconds} s: give at least one of 1 s")
    with force("reference"):
        exact = _walks(load("float32"), starts, seconds)
    return [
        FrameAccuracy(precision=precision, decibels=_decibels(_walks(load(precision), starts, seconds), exact))
        for precision in precisions
    ]


def _walks(world: World, starts: Sequence[Start], seconds: int) -> NDArray[np.float64]:
    """`(starts, seconds, frames a second, H, W, 3)`."""
    engine = WorldEngine(world)
    blocks = seconds * world.config.fps // engine.frames_per_block
    walk = forward_and_left()
    films = []
    for start in starts:
        engine.start(start.picture, start.prompt, seed=0)
        film = np.concatenate([engine.step(walk).frames for _ in range(blocks)])
        films.append(film.reshape(seconds, -1, *film.shape[1:]))
    return np.stack(films).astype(np.float64)


def _decibels(films: NDArray[np.float64], exact: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    errors = ((films - exact) ** 2).mean(axis=(2, 3, 4, 5))
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(_LARGEST**2 / errors)
    return tuple(tuple(map(float, column)) for column in decibels.T)


def format_frame_accuracies(rows: Sequence[FrameAccuracy]) -> str:
    """A Markdown table: the median over the starts and, in brackets, the lowest."""
    seconds = range(1, len(rows[0].decibels) + 1)
    lines = [
        f"| precision | {' | '.join(f'second {second}' for second in seconds)} |",
        "|---" * (1 + len(seconds)) + "|",
    ]
    for row in rows:
        cells = (f"{statistics.median(values):.1f} ({min(values):.1f}) dB" for values in row.decibels)
        lines.append(f"| {row.precision} | {' | '.join(cells)} |")
    return "\n".join(lines)
