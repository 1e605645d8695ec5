"""Loss and gradient norm of a run as a picture, read from its log."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from relic_distill.images import save_picture

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 28, 24
_INK, _GRID, _CURVE, _SMOOTH = (40, 40, 40), (225, 225, 225), (170, 195, 225), (30, 90, 170)
_PANELS = (
    ("loss", "loss", True),
    ("grad_norm", "gradient norm", True),
    ("lr", "learning rate, share of its peak", False),
)
"""Key of the log, title, and whether a smoothed curve lies over the raw one."""

Points = Sequence[tuple[float, float]]


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
        if points:
            panels.append(_panel(points, title, noisy=noisy))
    if panels:
        save_picture(target, np.concatenate(panels))


def smoothed(values: NDArray[np.float64], share: float = 0.1) -> NDArray[np.float64]:
    """Exponential mean whose memory is a share of the points, without the start's bias; `(N,)` -> `(N,)`."""
    keep = 1.0 - 1.0 / max(1.0, share * len(values))
    mean, weight, out = 0.0, 0.0, np.empty_like(values)
    for index, value in enumerate(values):
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out[index] = mean / weight
    return out


def _panel(points: Points, title: str, *, noisy: bool) -> NDArray[np.uint8]:
    steps, values = np.array(points, dtype=np.float64).T
    low, high = _range(values)
    picture = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    last = max(1.0, float(steps[-1]))

    def place(step: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.int32]:
        x = _LEFT + step / last * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return np.stack([x, y.clip(_TOP, _HEIGHT - _BOTTOM)], axis=1).round().astype(np.int32)

    for mark in np.linspace(low, high, 5):
        y = int(place(np.zeros(1), np.array([mark]))[0, 1])
        cv2.line(picture, (_LEFT, y), (_WIDTH - _RIGHT, y), _GRID)
        _write(picture, f"{mark:.3g}", (6, y + 4))
    curves = [(values, _CURVE, 1), (smoothed(values), _SMOOTH, 2)] if noisy else [(values, _SMOOTH, 2)]
    for curve, colour, width in curves:
        cv2.polylines(
            picture, [place(steps, curve)], isClosed=False, color=colour, thickness=width, lineType=cv2.LINE_AA
        )
    _write(picture, title, (_LEFT, 18))
    _write(picture, f"step {last:.0f}", (_WIDTH - 100, _HEIGHT - 8))
    return picture


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Lowest and highest value shown; a few outliers at the start do not flatten the rest."""
    low, high = float(values.min()), float(np.quantile(values, 0.98))
    margin = 0.05 * (high - low) or max(1e-6, 0.05 * abs(high))
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin if math.isfinite(high) else low + 1


def _write(picture: NDArray[np.uint8], text: str, corner: tuple[int, int]) -> None:
    cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
