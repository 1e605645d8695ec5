"""`relic bench rollout`: frames a second of a walk without a page, pixels included."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench rollout`."""
    parser.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the walk")
    parser.add_argument("--steps", type=int, nargs="+", default=[4], help="denoising passes a block")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice when left out")


def run(options: argparse.Namespace) -> int:
    """Measure and print a line for each number of steps.

    Raises:
        ValueError: a bad number.
        FileNotFoundError: no such weights.
    """
    import torch

    from relic.benchmarks.walks import walk_speed
    from relic.world import World

    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads is {options.threads}: give at least 1")
        torch.set_num_threads(options.threads)
    world = World.load(options.weights)
    for steps in options.steps:
        speed = walk_speed(world, options.seconds, steps)
        print(f"{steps} steps: {speed.fps:.1f} frames/s ({speed.frames} frames in {speed.seconds:.1f} s)", flush=True)
    return 0
