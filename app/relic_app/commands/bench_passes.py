"""`relic bench passes`: a block's network time beside its matrix products, and beside plainly written ways."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench passes`."""
    parser.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    parser.add_argument("--seconds", type=float, default=20.0, help="history before the block")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice when left out")
    parser.add_argument("--repeats", type=int, default=15, help="blocks each way; medians are printed")


def run(options: argparse.Namespace) -> int:
    """Measure and print a Markdown table.

    Raises:
        ValueError: a bad number.
        FileNotFoundError: no such weights.
    """
    import torch

    from relic.benchmarks.passes import format_pass_times, pass_times
    from relic.world import World

    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads is {options.threads}: give at least 1")
        torch.set_num_threads(options.threads)
    world = World.load(options.weights)
    print(format_pass_times(pass_times(world, world.config.memory, options.seconds, options.repeats)))
    return 0
