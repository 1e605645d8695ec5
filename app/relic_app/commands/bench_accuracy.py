"""`relic bench accuracy`: how far each precision's frames lie from float32's."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench accuracy`."""
    parser.add_argument("--weights", type=Path, help="weights folder with its gallery; the shipped one when left out")
    parser.add_argument("--steps", type=int, help="denoising steps a block (its own)")
    parser.add_argument("--pictures", type=int, default=6, help="of the gallery, each the start of a walk")
    parser.add_argument("--seconds", type=int, default=3, help="length of each walk")


def run(options: argparse.Namespace) -> int:
    """Measure and print a Markdown table.

    Raises:
        ValueError: a bad number.
        FileNotFoundError: no such weights.
    """
    from PIL import Image

    from relic.benchmarks.accuracy import Start, format_frame_accuracies, frame_accuracies
    from relic.precision import Precision, suits_bfloat16
    from relic.weights import default_weights_dir
    from relic.world import World
    from relic_app.gallery import Gallery
    from relic_kernels.native import why_not_bytes

    if options.pictures < 1:
        raise ValueError(f"--pictures is {options.pictures}: give at least 1")
    folder = options.weights or default_weights_dir()
    starts = []
    for entry in Gallery.load(folder).pictures[: options.pictures]:
        with Image.open(entry.path) as picture:
            starts.append(Start(picture=picture.convert("RGB"), prompt=entry.prompt))
    possible: dict[Precision, bool] = {
        "float32": True,
        "bfloat16": suits_bfloat16(),
        "int8": why_not_bytes() is None,
    }
    precisions = [precision for precision, can_be in possible.items() if can_be]

    def load(precision: Precision) -> World:
        return World.load(folder, precision=precision).with_steps(options.steps)

    print(format_frame_accuracies(frame_accuracies(load, precisions, starts, options.seconds)))
    return 0
