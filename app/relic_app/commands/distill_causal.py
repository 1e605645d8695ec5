"""`relic distill causal`: the world model's first training, on encoded clips."""

from __future__ import annotations

import argparse
from pathlib import Path

INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill causal`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data encode` wrote")
    parser.add_argument("--vae", type=Path, required=True, help="VAE weights the data was encoded with")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same call goes on in it")
    parser.add_argument("--recipe", default="mini", help="named configuration (relic_distill.recipes)")
    parser.add_argument("--minutes", type=float, default=120.0, help="training time")
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps instead of --minutes")
    parser.add_argument("--depth", type=Path, help="depth network of a world with reprojection, such as mini")
    parser.add_argument("--init", type=Path, help="world weights to start from")


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; SIGINT and SIGTERM save a checkpoint first.

    Raises:
        ValueError: an unknown recipe, or data, weights and configuration that do not fit together.
        FileNotFoundError: no such data or weights.
    """
    import dataclasses

    from relic_distill.recipes import CAUSAL_RECIPES
    from relic_distill.runs import Files, train_causal

    if options.recipe not in CAUSAL_RECIPES:
        raise ValueError(f"unknown recipe {options.recipe!r}: choose one of {', '.join(sorted(CAUSAL_RECIPES))}")
    config = CAUSAL_RECIPES[options.recipe](options.minutes)
    if options.steps:
        config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=options.steps))
    files = Files(data=options.data, vae=options.vae, depth=options.depth)
    outcome = train_causal(config, files, options.out, init=options.init)
    return 0 if outcome == "finished" else INTERRUPTED
