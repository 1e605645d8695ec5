"""`relic distill trajectories`: the teacher's paths from noise to video, kept where the student will stand."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import files_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill trajectories`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data encode` wrote")
    parser.add_argument("--vae", type=Path, required=True, help="VAE weights the data was encoded with")
    parser.add_argument("--depth", type=Path, help="depth network of a world with reprojection, such as mini")
    parser.add_argument("--teacher", type=Path, required=True, help="weights that `relic distill teacher` exported")
    parser.add_argument("--out", type=Path, required=True, help="folder of paths; the same call goes on in it")
    parser.add_argument("--recipe", default="mini", help="named configuration (relic_distill.recipes)")
    parser.add_argument("--count", type=int, help="paths; the recipe's when left out")


def run(options: argparse.Namespace) -> int:
    """Sample, or go on sampling.

    Raises:
        ValueError: an unknown recipe, a network that is no teacher, or a folder with paths of another one.
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
    draw_trajectories(sampling, teacher, files_of(options), options.teacher, options.out)
    return 0
