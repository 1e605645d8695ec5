"""`relic distill init`: make the many-step network a few-step causal student."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import add_run_arguments, exit_status, files_of, lengthened, print_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill init`."""
    add_run_arguments(parser, minutes=15.0)
    parser.add_argument(
        "--teacher",
        type=Path,
        required=True,
        help="weights to start from; for consistency distillation a causal world's, whose flow is followed",
    )
    parser.add_argument("--paths", type=Path, help="folder that `relic distill trajectories` wrote")
    parser.add_argument(
        "--forcing",
        choices=("hybrid", "teacher", "diffusion", "consistency"),
        help="what the student's past looks like; the recipe's when left out",
    )


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; SIGINT and SIGTERM save a checkpoint first.

    Raises:
        ValueError: an unknown recipe, or data, weights, paths and configuration that do not fit together.
        FileNotFoundError: no such data, weights or paths.
    """
    import dataclasses

    from relic_distill.recipes import INIT_RECIPES, find_recipe
    from relic_distill.runs import train_init

    config = lengthened(find_recipe(INIT_RECIPES, options.recipe, options.minutes), options)
    if options.forcing is not None:
        config = dataclasses.replace(config, forcing=options.forcing)
    if config.forcing == "consistency" and options.paths is not None:
        raise ValueError(
            f"--forcing consistency follows a network and reads no paths: leave --paths {options.paths} out"
        )
    if options.dry_run:
        return print_plan("init", config)
    if config.forcing != "consistency" and options.paths is None:
        raise ValueError(f"--forcing {config.forcing} regresses trajectories: name their folder with --paths")
    outcome = train_init(config, files_of(options), options.out, teacher=options.teacher, paths=options.paths)
    return exit_status(outcome)
