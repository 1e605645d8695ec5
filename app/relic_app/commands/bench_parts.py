"""`relic bench parts`: what a block's time is spent on."""

from __future__ import annotations

import argparse

from relic_app.bench_options import add_world_arguments, load_world


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench parts`."""
    add_world_arguments(parser)
    parser.add_argument("--seconds", type=float, default=5.0, help="history before the block")
    parser.add_argument("--repeats", type=int, default=40, help="blocks; medians over them are printed")


def run(options: argparse.Namespace) -> int:
    """Measure and print a Markdown table.

    Raises:
        ValueError: a bad number.
        FileNotFoundError: no such weights.
    """
    from relic.benchmarks.blocks import format_part_times, part_times

    print(format_part_times(part_times(load_world(options), options.seconds, options.repeats)))
    return 0
