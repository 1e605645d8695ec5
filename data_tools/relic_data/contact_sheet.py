"""A contact sheet: frames of many clips in one picture, to look at a data set with one's own eyes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from relic_data.clips import Clip, ClipDataset


def contact_sheet(
    clips: Sequence[Clip], out: Path, *, columns: int = 6, first: int = 0, stop: int | None = None
) -> Path:
    """Write ``out``: one row per clip, ``columns`` frames evenly spread from frame ``first`` to ``stop``.

    Raises:
        ValueError: no clips, or no columns.
    """
    if not clips or columns < 1:
        raise ValueError(f"contact sheet of {len(clips)} clips in {columns} columns: give at least one of each")
    rows = []
    for clip in clips:
        frames = clip.frames
        pick = np.linspace(first, (stop or len(frames)) - 1, columns).round().astype(int)
        rows.append(np.concatenate([frames[i] for i in pick], axis=1))
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, axis=0)).save(out)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: ``python -m relic_data.contact_sheet DIR``."""
    parser = argparse.ArgumentParser(prog="relic_data.contact_sheet", description=main.__doc__)
    parser.add_argument("root", type=Path, help="data set folder")
    parser.add_argument("--out", type=Path, help="picture to write (default: DIR/contact_sheet.png)")
    parser.add_argument("--split", default=None, help="train, validation or test (default: all)")
    parser.add_argument("--clips", type=int, default=12, help="rows")
    parser.add_argument("--columns", type=int, default=6, help="frames a clip")
    args = parser.parse_args(argv)
    data = ClipDataset(args.root, args.split, validate=False)
    step = max(1, len(data) // max(1, args.clips))
    clips = [data[i] for i in range(0, len(data), step)][: args.clips]
    contact_sheet(clips, args.out or args.root / "contact_sheet.png", columns=args.columns)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
