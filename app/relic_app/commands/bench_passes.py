"""`relic bench passes`: a block's network time beside its matrix products, and beside plainly written ways."""

from __future__ import annotations

import argparse

from relic_app.bench_options import add_world_arguments, load_world


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench passes`."""
    add_world_arguments(parser)
    parser.add_argument("--seconds", type=float, default=20.0, help="history before the block")
    parser.add_argument("--repeats", type=int, default=15, help="blocks each way; medians are printed")


def run(options: argparse.Namespace) -> int:
    """Measure and print a Markdown table.

    Raises:
        ValueError: a bad number.
        FileNotFoundError: no such weights.
    """
    from relic.benchmarks.passes import format_pass_times, pass_times

    world = load_world(options)
    print(format_pass_times(pass_times(world, world.config.memory, options.seconds, options.repeats)))
    return 0
