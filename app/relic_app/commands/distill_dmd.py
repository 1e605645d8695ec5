"""`relic distill dmd`: distribution matching by self-forcing, with replayed back-propagation."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import add_run_arguments, exit_status, files_of, lengthened, print_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill dmd`."""
    add_run_arguments(parser, minutes=60.0)
    parser.add_argument("--student", type=Path, required=True, help="weights to distil, such as `init`'s")
    parser.add_argument(
        "--teacher",
        type=Path,
        required=True,
        help="weights that score: a teacher's, or a causal world's for --score causal",
    )
    parser.add_argument(
        "--score", choices=("video", "causal"), help="how videos are scored; the recipe's when left out"
    )
    parser.add_argument(
        "--anchor",
        type=float,
        metavar="WEIGHT",
        help="of the recorded video beside the scores, on surfaces that the start picture shows; 0 for scores alone, "
        "the recipe's when left out",
    )


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; SIGINT and SIGTERM save a checkpoint first.

    Raises:
        ValueError: an unknown recipe, data, weights and configuration that do not fit together, or a teacher of the
            other kind than the score asks for.
        FileNotFoundError: no such data or weights.
    """
    import dataclasses

    from relic_distill.recipes import DMD_RECIPES, find_recipe
    from relic_distill.runs import train_dmd

    config = lengthened(find_recipe(DMD_RECIPES, options.recipe, options.minutes), options)
    if options.score is not None:
        config = dataclasses.replace(config, score=options.score)
    if options.anchor is not None:
        config = dataclasses.replace(config, anchor=options.anchor)
    if options.dry_run:
        return print_plan("dmd", config)
    outcome = train_dmd(config, files_of(options), options.out, student=options.student, teacher=options.teacher)
    return exit_status(outcome)
