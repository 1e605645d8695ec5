"""A contact sheet: frames of a video at even times, in rows, with their times."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

UInt8Array = NDArray[np.uint8]
COLUMNS = 4
MAX_TILES = 16
_TILE_WIDTH = 320
_GAP = 6
_BACKGROUND = (14, 15, 18)


def contact_sheet(frames: UInt8Array, fps: float) -> Image.Image:
    """Lay out up to `MAX_TILES` evenly spaced frames, the first and the last among them.

    Args:
        frames: (T, H, W, 3) uint8, T >= 1.
        fps: frames a second.
    """
    count = min(len(frames), MAX_TILES)
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    height, width = frames.shape[1:3]
    tile = (_TILE_WIDTH, round(_TILE_WIDTH * height / width))
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (tile[0] + _GAP) + _GAP, rows * (tile[1] + _GAP) + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for place, index in enumerate(chosen):
        x = _GAP + place % columns * (tile[0] + _GAP)
        y = _GAP + place // columns * (tile[1] + _GAP)
        sheet.paste(Image.fromarray(frames[index]).resize(tile, Image.Resampling.LANCZOS), (x, y))
        draw.text((x + 8, y + 6), f"{index / fps:.1f} s", "white", font, stroke_width=1, stroke_fill="black")
    return sheet


def save_contact_sheet(path: Path, frames: UInt8Array, fps: float) -> None:
    """Write the sheet as a PNG, atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        contact_sheet(frames, fps).save(temporary, "PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
