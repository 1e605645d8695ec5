"""`relic distill release`: make trained checkpoints a weights folder that plays."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill release`."""
    parser.add_argument(
        "--world",
        type=Path,
        required=True,
        help="exported world weights, or the folder of a run: its best by validation",
    )
    parser.add_argument("--vae", type=Path, required=True, help="the VAE it was trained on")
    parser.add_argument("--depth", type=Path, help="the depth network, for a world with reprojection")
    parser.add_argument("--out", type=Path, required=True, help="weights folder")
    parser.add_argument("--steps", type=int, help="denoising steps a block in play; the training's when left out")
    parser.add_argument(
        "--prefer",
        choices=("latest", "remembered"),
        help="view that paints first; the training's when left out",
    )
    parser.add_argument(
        "--average-with",
        type=Path,
        metavar="FILE",
        help="weights that the training began from, averaged with the world's",
    )
    parser.add_argument("--share", type=float, default=0.5, help="of the world's own weights in that average")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=VALUE", help="provenance for the manifest")


def run(options: argparse.Namespace) -> int:
    """Write the folder.

    Raises:
        ValueError: a note without a value, a file that is no checkpoint, or one that is too large.
        FileNotFoundError: no such checkpoint.
    """
    from relic_distill.release import release

    notes = dict(note.partition("=")[::2] for note in options.note)
    if not all(notes.values()):
        raise ValueError(f"--note must be KEY=VALUE, got {options.note}")
    manifest = release(
        options.world,
        options.vae,
        options.out,
        notes,
        depth=options.depth,
        steps=options.steps,
        prefer=options.prefer,
        average_with=options.average_with,
        share=options.share,
    )
    print(f"wrote {', '.join(str(options.out / name) for name in manifest.files)}")
    return 0
