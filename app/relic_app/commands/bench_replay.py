"""`relic bench replay`: memory and time of replayed back-propagation beside one graph over the whole rollout."""

from __future__ import annotations

import argparse
from pathlib import Path

SECONDS_PER_LATENT = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench replay`."""
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[5.0, 10.0, 20.0], help="lengths of the rollouts, ascending"
    )
    parser.add_argument("--repeats", type=int, default=3, help="times each is measured")
    parser.add_argument("--plot", type=Path, help="PNG to draw the memory curves into")


def run(options: argparse.Namespace) -> int:
    """Measure and print a table.

    Raises:
        ValueError: for lengths that are not ascending or not positive.
    """
    from relic_distill.curves import draw_comparison
    from relic_distill.replay_benchmark import KINDS, measure_apart

    lengths = options.seconds
    if min(lengths) < 2 * SECONDS_PER_LATENT or lengths != sorted(set(lengths)):
        raise ValueError(f"--seconds {lengths} must be ascending and at least {2 * SECONDS_PER_LATENT:g}")
    found = measure_apart([1 + round(seconds / SECONDS_PER_LATENT) for seconds in lengths], options.repeats)
    print("| length | replay | plain | replay | plain | time, replay / plain |")
    print("|---|---|---|---|---|---|")
    for index, seconds in enumerate(lengths):
        replayed, plain = found[2 * index : 2 * index + 2]
        print(
            f"| {seconds:g} s | {replayed.peak_mb:.0f} MB | {plain.peak_mb:.0f} MB | {replayed.seconds:.2f} s | "
            f"{plain.seconds:.2f} s | {replayed.seconds / plain.seconds:.2f} |"
        )
    first, last = found[:2], found[-2:]
    for kind, short, long in zip(KINDS, first, last, strict=True):
        growth = long.peak_mb / max(short.peak_mb, 1e-9)
        print(f"{kind}: peak memory at {lengths[-1]:g} s is {growth:.2f} times that at {lengths[0]:g} s")
    if options.plot is not None:
        series: dict[str, list[tuple[float, float]]] = {
            kind: [(seconds, found[2 * index + row].peak_mb) for index, seconds in enumerate(lengths)]
            for row, kind in enumerate(KINDS)
        }
        draw_comparison(series, "peak memory of back-propagation, MB", "s", options.plot)
    return 0
