"""Pictures of training: contact sheets, written atomically."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GAP = 2


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Rows of equally sized (H, W, 3) pictures as one; a short row is filled with white.

    Raises:
        ValueError: when there is no picture, or sizes differ.
    """
    shapes = {picture.shape for row in rows for picture in row}
    if len(shapes) != 1:
        raise ValueError(f"a contact sheet needs pictures of one size, got {sorted(shapes) or 'none'}")
    height, width, _ = shapes.pop()
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = r * (height + _GAP), c * (width + _GAP)
            sheet[y : y + height, x : x + width] = picture
    return sheet


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a (H, W, 3) picture as PNG, atomically."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    Image.fromarray(picture).save(partial, format="PNG")
    os.replace(partial, path)
