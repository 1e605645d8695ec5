"""`relic bench start`: where the time goes from a new process to the first frames."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench start`."""
    parser.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    parser.add_argument("--repeats", type=int, default=3, help="new processes; medians are printed")


def run(options: argparse.Namespace) -> int:
    """Measure and print a Markdown table.

    Raises:
        ValueError: no repeat, or a world that does not start.
    """
    from relic.benchmarks.walks import start_up

    if options.repeats < 1:
        raise ValueError(f"--repeats is {options.repeats}: give at least 1")
    runs = [start_up(options.weights) for _ in range(options.repeats)]
    medians = {stage: statistics.median(one[stage] for one in runs) for stage in runs[0]}
    print("| stage | time |\n|---|---|")
    for stage, seconds in medians.items():
        print(f"| {stage} | {seconds:.2f} s |")
    print(f"| all | {sum(medians.values()):.2f} s |")
    return 0
