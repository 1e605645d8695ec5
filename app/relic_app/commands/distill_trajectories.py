"""`relic distill trajectories`: the teacher's paths from noise to video, kept where the student will stand."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import add_precision_argument, add_refused_argument, files_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill trajectories`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data encode` wrote")
    parser.add_argument("--vae", type=Path, required=True, help="VAE weights the data was encoded with")
    parser.add_argument("--depth", type=Path, help="depth network of a world with reprojection, such as mini")
    parser.add_argument("--teacher", type=Path, required=True, help="weights that `relic distill teacher` exported")
    parser.add_argument("--out", type=Path, required=True, help="folder of paths; the same call goes on in it")
    parser.add_argument("--recipe", default="mini", help="named configuration (relic_distill.recipes)")
    parser.add_argument("--count", type=int, help="paths; the recipe's when left out")
    add_precision_argument(parser)
    add_refused_argument(parser, "--accumulate", "sampling takes no optimiser steps")
    add_refused_argument(parser, "--shard", "paths are sampled by one process")
    add_refused_argument(parser, "--sequence-parallel", "paths are sampled by one process")
    add_refused_argument(parser, "--tensorboard", "sampling has no figures to log")


def run(options: argparse.Namespace) -> int:
    """Sample, or go on sampling.

    Raises:
        ValueError: an unknown recipe, a network that is no teacher, a folder with paths of another one, or several
            processes.
        FileNotFoundError: no such data or weights.
    """
    import dataclasses

    from relic_distill.recipes import TEACHER_RECIPES, TRAJECTORY_RECIPES, find_recipe
    from relic_distill.runs import draw_trajectories
    from relic_distill.world_stage import Phase

    sampling = find_recipe(TRAJECTORY_RECIPES, options.recipe, 0.0)
    if options.count is not None:
        sampling = dataclasses.replace(sampling, count=options.count)
    phase = Phase(until_step=1, frames=sampling.frames, batch=1)
    teacher = dataclasses.replace(find_recipe(TEACHER_RECIPES, options.recipe, 1.0), phases=(phase,))
    draw_trajectories(
        sampling,
        teacher,
        files_of(options),
        options.teacher,
        options.out,
        mixed_precision=options.mixed_precision,
    )
    return 0
