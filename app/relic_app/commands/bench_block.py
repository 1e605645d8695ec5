"""`relic bench block`: time of a block as history grows, for each memory policy."""

from __future__ import annotations

import argparse

from relic_app.bench_options import add_world_arguments, load_world


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench block`."""
    add_world_arguments(parser)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 5.0, 20.0], help="history before the block")
    parser.add_argument("--memory", nargs="+", default=["compressed", "full", "window"], help="memory policies")
    parser.add_argument("--repeats", type=int, default=5, help="rollouts; medians over them are printed")


def run(options: argparse.Namespace) -> int:
    """Measure and print a Markdown table.

    Raises:
        ValueError: a bad number or an unknown policy.
        FileNotFoundError: no such weights.
    """
    from relic.benchmarks.blocks import block_times, format_block_times

    world = load_world(options)
    rows = [block_times(world, policy, tuple(options.seconds), options.repeats) for policy in options.memory]
    print(format_block_times(rows))
    return 0
