"""`relic bench parts`: what a block's time is spent on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench parts`."""
    parser.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    parser.add_argument("--seconds", type=float, default=5.0, help="history before the block")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice when left out")
    parser.add_argument("--repeats", type=int, default=40, help="blocks; medians over them are printed")


def run(options: argparse.Namespace) -> int:
    """Measure and print a Markdown table.

    Raises:
        ValueError: a bad number.
        FileNotFoundError: no such weights.
    """
    import torch

    from relic.benchmarks.blocks import format_part_times, part_times
    from relic.world import World

    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads is {options.threads}: give at least 1")
        torch.set_num_threads(options.threads)
    print(format_part_times(part_times(World.load(options.weights), options.seconds, options.repeats)))
    return 0
