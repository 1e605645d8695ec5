"""`relic distill depth`: train the depth network that guides the world's blocks."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import add_session_arguments, exit_status, lengthened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill depth`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data render` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same call goes on in it")
    parser.add_argument("--recipe", default="mini", help="named configuration (relic_distill.recipes)")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time")
    add_session_arguments(parser)
    parser.add_argument("--start-from", type=Path, help="depth weights to go on from")


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; SIGINT and SIGTERM save a checkpoint first.

    Raises:
        ValueError: an unknown recipe, no training clips, or a folder with a run of another configuration.
    """
    import dataclasses

    from relic_distill.recipes import DEPTH_RECIPES, find_recipe
    from relic_distill.stage_depth import train_depth

    config = lengthened(find_recipe(DEPTH_RECIPES, options.recipe, options.minutes), options)
    config = dataclasses.replace(config, start_from=options.start_from)
    return exit_status(train_depth(config, options.data, options.out))
