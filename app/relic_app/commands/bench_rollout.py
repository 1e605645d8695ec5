"""`relic bench rollout`: frames a second of a walk without a page, pixels included."""

from __future__ import annotations

import argparse

from relic_app.bench_options import add_world_arguments, load_world


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench rollout`."""
    add_world_arguments(parser)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the walk")
    parser.add_argument("--steps", type=int, nargs="+", default=[4], help="denoising passes a block")


def run(options: argparse.Namespace) -> int:
    """Measure and print a line for each number of steps.

    Raises:
        ValueError: a bad number.
        FileNotFoundError: no such weights.
    """
    from relic.benchmarks.walks import walk_speed

    world = load_world(options)
    for steps in options.steps:
        speed = walk_speed(world, options.seconds, steps)
        print(f"{steps} steps: {speed.fps:.1f} frames/s ({speed.frames} frames in {speed.seconds:.1f} s)", flush=True)
    return 0
