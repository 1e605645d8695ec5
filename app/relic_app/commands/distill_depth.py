"""`relic distill depth`: train the depth network that guides the world's blocks."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import exit_status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill depth`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data render` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same call goes on in it")
    parser.add_argument("--recipe", default="mini", help="named configuration (relic_distill.recipes)")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time")
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps instead of --minutes")
    parser.add_argument("--start-from", type=Path, help="depth weights to go on from")


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; SIGINT and SIGTERM save a checkpoint first.

    Raises:
        ValueError: an unknown recipe, no training clips, or a folder with a run of another configuration.
    """
    import dataclasses

    from relic_distill.recipes import DEPTH_RECIPES, find_recipe
    from relic_distill.stage_depth import train_depth

    config = find_recipe(DEPTH_RECIPES, options.recipe, options.minutes)
    config = dataclasses.replace(config, start_from=options.start_from)
    if options.steps:
        config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=options.steps))
    return exit_status(train_depth(config, options.data, options.out))
