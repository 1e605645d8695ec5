"""`relic distill all`: the whole circle, from rendering to a world that plays; resumed from its manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import add_precision_argument, add_refused_argument, exit_status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill all`."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the circle; the same call goes on in it")
    parser.add_argument("--recipe", default="mini", help="named configuration (relic_distill.recipes)")
    parser.add_argument("--minutes", type=float, default=720.0, help="time of all trainings together")
    parser.add_argument("--accumulate", type=int, default=1, help="batches averaged in a step of every training")
    add_precision_argument(parser)
    parser.add_argument("--tensorboard", action="store_true", help="also log for TensorBoard, in OUT/*/tensorboard")
    add_refused_argument(
        parser, "--shard", "one process renders, samples and trains; give it to the trainings, one by one"
    )
    add_refused_argument(
        parser, "--sequence-parallel", "one process renders, samples and trains; give it to the trainings, one by one"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")


def run(options: argparse.Namespace) -> int:
    """Run what is not done yet.

    Raises:
        ValueError: an unknown recipe, a folder with a circle of other settings, or several processes.
    """
    from relic_distill.circle import carried_out, run_circle
    from relic_distill.plan import plan_circle
    from relic_distill.recipes import CIRCLE_RECIPES, find_recipe
    from relic_distill.runtime import Runtime

    runtime = Runtime(mixed_precision=options.mixed_precision, tensorboard=options.tensorboard)
    circle = carried_out(find_recipe(CIRCLE_RECIPES, options.recipe, options.minutes), options.accumulate, runtime)
    if options.dry_run:
        print("\n".join(plan_circle(circle)))
        return 0
    return exit_status(run_circle(circle, options.out, lambda name: print(f"== {name}", flush=True)))
