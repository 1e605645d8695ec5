"""`relic data gallery`: choose start pictures for the page from held-out clips."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic data gallery`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data render` wrote")
    parser.add_argument("--out", type=Path, required=True, help="gallery folder, such as weights/gallery")
    parser.add_argument("picks", nargs="+", metavar="CLIP=TITLE", help="test clips and their titles, in order")


def run(options: argparse.Namespace) -> int:
    """Write the gallery.

    Raises:
        ValueError: a pick without a title, an unknown clip, or one that is not of the test split.
    """
    from relic_data.gallery import make_gallery

    picks = dict(pick.partition("=")[::2] for pick in options.picks)
    make_gallery(options.data, picks, options.out)
    return 0
