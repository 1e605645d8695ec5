"""`relic bench page`: frames shown and key-to-picture latency in a real browser, on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench page`."""
    parser.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    parser.add_argument("--steps", type=int, help="denoising steps a block (the world's own)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the walk")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="browser to drive")
    parser.add_argument("--screenshot", type=Path, help="also write a picture of the page at the end")


def run(options: argparse.Namespace) -> int:
    """Serve the page, walk for a while in headless Chromium, print what the page measured.

    Raises:
        ValueError: a length or steps that are not positive.
        FileNotFoundError: no browser or no weights.
    """
    from relic_app.page_benchmark import measure_page

    print(measure_page(options.weights, options.seconds, options.chromium, options.screenshot, options.steps))
    return 0
