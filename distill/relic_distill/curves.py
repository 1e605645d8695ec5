"""Curves as pictures: loss and gradient norm of a run, read from its log, and measurements side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from relic_distill.images import save_picture

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 28, 24
_INK, _GRID, _PALE, _BLUE, _RED = (40, 40, 40), (225, 225, 225), (170, 195, 225), (30, 90, 170), (190, 60, 40)
_GREEN = (40, 140, 70)
_PANELS = (
    ("loss", "loss", True),
    ("grad_norm", "gradient norm", True),
    ("lr", "learning rate, share of its peak", False),
)
"""Key of the log, title, and whether a smoothed curve lies over the raw one."""

Points = Sequence[tuple[float, float]]
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Curve:
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    colour: Colour
    width: int = 2


def draw_curves(log: Path, target: Path) -> None:
    """Draw every curve of a run's log, one panel each; nothing is written while the log holds no figures.

    Args:
        log: `log.jsonl` of a run.
        target: PNG to write.
    """
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    panels = []
    for key, title, noisy in _PANELS:
        points = [(float(line["step"]), float(line[key])) for line in lines if key in line and "event" not in line]
        if not points:
            continue
        steps, values = np.array(points, dtype=np.float64).T
        curves = [_Curve(x=steps, y=values, colour=_BLUE)]
        if noisy:
            curves = [
                _Curve(x=steps, y=values, colour=_PALE, width=1),
                _Curve(x=steps, y=smoothed(values), colour=_BLUE),
            ]
        high = float(np.quantile(values, 0.98))  # a few outliers at the start do not flatten the rest
        panels.append(_panel(curves, title, f"step {steps[-1]:.0f}", float(values.min()), high))
    if panels:
        save_picture(target, np.concatenate(panels))


def draw_comparison(series: Mapping[str, Points], title: str, unit: str, target: Path) -> None:
    """Draw up to four measurements over one axis, from zero.

    Args:
        series: points (x, y) by name.
        title: what is measured.
        unit: of the horizontal axis, written at its end.
        target: PNG to write.

    Raises:
        ValueError: for more measurements than there are colours.
    """
    colours = (_BLUE, _RED, _INK, _GREEN)
    if len(series) > len(colours):
        raise ValueError(f"{len(series)} measurements in one picture: draw at most {len(colours)}")
    curves, top = [], 0.0
    for points, colour in zip(series.values(), colours, strict=False):
        x, y = np.array(points, dtype=np.float64).T
        curves.append(_Curve(x=x, y=y, colour=colour))
        top = max(top, float(y.max()))
    longest = max(float(curve.x.max()) for curve in curves)
    picture = _panel(curves, title, f"{longest:g} {unit}", 0.0, top)
    for row, (name, curve) in enumerate(zip(series, curves, strict=True)):
        _write(picture, name, (_LEFT + 12, _TOP + 16 + 16 * row), curve.colour)
    save_picture(target, picture)


def smoothed(values: NDArray[np.float64], share: float = 0.1) -> NDArray[np.float64]:
    """Exponential mean whose memory is a share of the points, without the start's bias; `(N,)` -> `(N,)`."""
    keep = 1.0 - 1.0 / max(1.0, share * len(values))
    mean, weight, out = 0.0, 0.0, np.empty_like(values)
    for index, value in enumerate(values):
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out[index] = mean / weight
    return out


def _panel(curves: Sequence[_Curve], title: str, end: str, low: float, high: float) -> NDArray[np.uint8]:
    margin = 0.05 * (high - low) or max(1e-6, 0.05 * abs(high))
    low, high = (max(0.0, low - margin) if low >= 0 else low - margin), high + margin
    picture = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    last = max(1.0, *(float(curve.x[-1]) for curve in curves))

    def place(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int32]:
        across = _LEFT + x / last * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return np.stack([across, down.clip(_TOP, _HEIGHT - _BOTTOM)], axis=1).round().astype(np.int32)

    for mark in np.linspace(low, high, 5):
        y = int(place(np.zeros(1), np.array([mark]))[0, 1])
        cv2.line(picture, (_LEFT, y), (_WIDTH - _RIGHT, y), _GRID)
        _write(picture, f"{mark:.3g}", (6, y + 4))
    for curve in curves:
        line = place(curve.x, curve.y)
        cv2.polylines(picture, [line], isClosed=False, color=curve.colour, thickness=curve.width, lineType=cv2.LINE_AA)
    _write(picture, title, (_LEFT, 18))
    _write(picture, end, (_WIDTH - 100, _HEIGHT - 8))
    return picture


def _write(picture: NDArray[np.uint8], text: str, corner: tuple[int, int], colour: Colour = _INK) -> None:
    cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
