"""`relic data render`: render clips of furnished rooms, the mini world's training data."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic data render`."""
    parser.add_argument("--scenes", type=int, required=True, help="how many scenes")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a clip")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set")
    parser.add_argument("--out", type=Path, required=True, help="data set folder; the same call goes on in it")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--clips-per-scene", type=int, default=1, help="different paths through a scene")
    parser.add_argument("--first-scene", type=int, default=0, help="number of the first scene")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="scenes of this split only")


def run(options: argparse.Namespace) -> int:
    """Render, or go on rendering.

    Raises:
        ValueError: a number is out of range.
    """
    from relic_data.render import render_dataset

    render_dataset(
        options.out,
        options.scenes,
        options.seconds,
        options.seed,
        options.workers,
        clips_per_scene=options.clips_per_scene,
        first_scene=options.first_scene,
        split=options.split,
    )
    return 0
