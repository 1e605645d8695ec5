"""`relic distill causal`: the world model's first training, on encoded clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import add_run_arguments, exit_status, files_of, lengthened, print_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill causal`."""
    add_run_arguments(parser, minutes=120.0)
    parser.add_argument("--init", type=Path, help="world weights to start from")
    parser.add_argument(
        "--pose-encoding",
        choices=("frame", "ray"),
        help="of the camera: one vector a latent frame (the paper's) or one a token; the recipe's when left out",
    )


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; SIGINT and SIGTERM save a checkpoint first.

    Raises:
        ValueError: an unknown recipe, or data, weights and configuration that do not fit together.
        FileNotFoundError: no such data or weights.
    """
    import dataclasses

    from relic_distill.recipes import CAUSAL_RECIPES, find_recipe
    from relic_distill.runs import train_causal

    config = lengthened(find_recipe(CAUSAL_RECIPES, options.recipe, options.minutes), options)
    if options.pose_encoding is not None:
        model = dataclasses.replace(config.world.model, pose_encoding=options.pose_encoding)
        config = dataclasses.replace(config, world=dataclasses.replace(config.world, model=model))
    if options.dry_run:
        return print_plan("causal", config)
    return exit_status(train_causal(config, files_of(options), options.out, init=options.init))
