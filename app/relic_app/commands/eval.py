"""`relic eval`: how well a world shows what is really there, on held-out scenes."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.world_options import add_precision_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic eval`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data render` wrote")
    parser.add_argument("--split", default="test", help="scenes to score on: test or validation")
    parser.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    parser.add_argument("--clips", type=int, default=64, help="clips at most")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the rollouts")
    parser.add_argument("--moments", type=float, nargs="+", default=[1.0, 2.0, 5.0], help="when to score, seconds")
    parser.add_argument("--memory", nargs="+", default=["compressed", "window"], help="memory policies to compare")
    parser.add_argument(
        "--storage",
        choices=("float", "fp8"),
        help="how memory beyond the window is kept, the world's own way when left out; fp8 is also compared with float",
    )
    parser.add_argument("--steps", type=int, help="denoising steps; the world's own number when left out")
    parser.add_argument("--batch", type=int, default=8, help="clips rolled out together")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    add_precision_argument(parser)
    parser.add_argument("--out", type=Path, help="also write the scores as JSON, and pictures beside it")


def run(options: argparse.Namespace) -> int:
    """Score and print a table.

    Raises:
        ValueError: a bad number, an unknown policy or split, or clips that are too short.
        FileNotFoundError: no such weights.
    """
    from relic_distill.evaluate import EvalConfig, evaluate_world

    config = EvalConfig(
        split=options.split,
        clips=options.clips,
        seconds=options.seconds,
        moments=tuple(options.moments),
        policies=tuple(options.memory),
        storage=options.storage,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
        precision=options.precision,
    )
    print(evaluate_world(config, options.data, options.weights, options.out))
    return 0
