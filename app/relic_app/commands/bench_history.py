"""`relic bench history`: time and bytes of a block at histories up to minutes, for each memory and storage."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench history`."""
    parser.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[1.0, 5.0, 20.0, 60.0, 300.0], help="histories before the block"
    )
    parser.add_argument("--repeats", type=int, default=5, help="blocks each; medians are printed")
    parser.add_argument("--plot", type=Path, help="PNG to draw the times into")


def run(options: argparse.Namespace) -> int:
    """Measure and print a Markdown table.

    Raises:
        ValueError: a bad number.
        FileNotFoundError: no such weights.
    """
    from dataclasses import replace

    from relic.benchmarks.histories import format_history_costs, history_costs
    from relic.world import World

    world = World.load(options.weights)
    base = world.config.memory
    memories = [
        replace(base, policy="full"),
        replace(base, policy="compressed"),
        replace(base, policy="compressed", storage="fp8"),
        replace(base, policy="window"),
    ]
    costs = history_costs(world, memories, options.seconds, options.repeats)
    print(format_history_costs(costs))
    if options.plot is not None:
        from relic_distill.curves import draw_comparison

        series = {
            f"{memory.policy}, {memory.storage}": [(c.seconds, c.milliseconds) for c in costs if c.memory == memory]
            for memory in memories
        }
        draw_comparison(series, "network time of a block, ms", "s of history", options.plot)
    return 0
