"""Options that measurements of a world share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from relic_app.world_options import add_precision_argument

if TYPE_CHECKING:
    from relic.world import World


def add_world_arguments(parser: argparse.ArgumentParser) -> None:
    """Which world is measured, and with how many threads."""
    parser.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    add_computing_arguments(parser)


def add_computing_arguments(parser: argparse.ArgumentParser) -> None:
    """With how many threads and how finely a processor computes."""
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice when left out")
    add_precision_argument(parser)


def set_threads(options: argparse.Namespace) -> None:
    """Tell torch its threads.

    Raises:
        ValueError: fewer than one.
    """
    import torch

    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads is {options.threads}: give at least 1")
        torch.set_num_threads(options.threads)


def load_world(options: argparse.Namespace) -> World:
    """The world that the options name, after torch has been told its threads.

    Raises:
        ValueError: fewer threads than one.
        FileNotFoundError: no such weights.
    """
    from relic.world import World

    set_threads(options)
    return World.load(options.weights, precision=options.precision)
