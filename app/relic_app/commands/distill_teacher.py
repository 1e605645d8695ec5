"""`relic distill teacher`: the bidirectional teacher, on encoded clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import add_run_arguments, exit_status, files_of, lengthened, print_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill teacher`."""
    add_run_arguments(parser, minutes=60.0)
    parser.add_argument("--init", type=Path, help="weights of the same network to start from, such as a causal world's")


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; SIGINT and SIGTERM save a checkpoint first.

    Raises:
        ValueError: an unknown recipe, or data, weights and configuration that do not fit together.
        FileNotFoundError: no such data or weights.
    """
    from relic_distill.recipes import TEACHER_RECIPES, find_recipe
    from relic_distill.runs import train_teacher

    config = lengthened(find_recipe(TEACHER_RECIPES, options.recipe, options.minutes), options)
    if options.dry_run:
        return print_plan("teacher", config)
    return exit_status(train_teacher(config, files_of(options), options.out, init=options.init))
