"""Pieces of camera motion as a person at the keyboard makes them: keys held, eased in and out, mixed.

A motion is an array (n, 6) per frame: x right, y down, z forward in metres, pan right, tilt up, roll clockwise
in radians, all in the camera's own axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from relic_data.mesh import F64
from relic_data.palette import Rng

FPS = 16
X, Y, Z, PAN, TILT, ROLL = range(6)

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "dolly_in": 3.0, "dolly_out": 1.6, "truck_left": 1.5, "truck_right": 1.5, "pedestal_up": 0.8,
        "pedestal_down": 0.8, "tilt_up": 0.7, "tilt_down": 0.8, "pan_left": 2.4, "pan_right": 2.4, "roll_cw": 0.5,
        "roll_ccw": 0.5, "dolly+pan": 3.0, "truck+pan": 1.2, "dolly+truck": 1.0, "dolly+tilt": 0.8,
        "pedestal+tilt": 0.9, "pan+tilt": 0.8, "pan+roll": 0.4, "dolly+roll": 0.4, "dolly+pedestal": 0.7,
        "any two": 1.0, "any three": 0.7, "orbit": 1.8, "look away": 1.3, "loop": 0.6, "approach": 1.8,
        "static": 0.9,
    }
)  # fmt: skip

SINGLE: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "dolly_in": (Z, 1), "dolly_out": (Z, -1), "truck_left": (X, -1), "truck_right": (X, 1),
        "pedestal_up": (Y, -1), "pedestal_down": (Y, 1), "tilt_up": (TILT, 1), "tilt_down": (TILT, -1),
        "pan_left": (PAN, -1), "pan_right": (PAN, 1), "roll_cw": (ROLL, 1), "roll_ccw": (ROLL, -1),
    }
)  # fmt: skip

_AXIS = MappingProxyType({"dolly": Z, "truck": X, "pedestal": Y, "pan": PAN, "tilt": TILT, "roll": ROLL})
_SLOWER = (1.0, 0.6, 1.0, 1.0, 0.55, 0.45)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """How one clip's visitor moves: metres a second, radians a second."""

    speed: float
    turn: float

    @classmethod
    def sample(cls, rng: Rng) -> Hand:
        """Speeds round the page's defaults, 0.2 to 1.2 m/s and 10 to 80 degrees a second."""
        speed = float(np.clip(0.72 * np.exp(0.3 * rng.standard_normal()), 0.25, 1.15))
        turn = float(np.clip(40.0 * np.exp(0.32 * rng.standard_normal()), 14.0, 76.0))
        return cls(speed=speed, turn=float(np.radians(turn)))

    def rate(self, axis: int) -> float:
        """Metres or radians a frame along ``axis``."""
        return (self.speed if axis < 3 else self.turn) * _SLOWER[axis] / FPS


def eased(frames: int, ramp: int) -> F64:
    """A key held for ``frames``: 1 with short ramps at both ends, (frames,)."""
    t = np.arange(frames) + 0.5
    return np.minimum(1.0, np.minimum(t, frames - t) / max(ramp, 1))


def _held(rng: Rng, hand: Hand, frames: int, axes: list[tuple[int, float]], *, overlay: bool) -> F64:
    motion = np.zeros((frames, 6))
    gain = float(rng.uniform(0.85, 1.15)) if rng.random() < 0.7 else float(rng.uniform(0.5, 1.0))
    ramp = int(rng.integers(1, 5))
    for k, (axis, sign) in enumerate(axes):
        start, stop = 0, frames
        if overlay and k and frames >= 12:
            start = int(rng.integers(0, frames // 2))
            stop = int(rng.integers(start + 6, frames + 1))
        motion[start:stop, axis] += sign * gain * hand.rate(axis) * eased(stop - start, ramp)
    return motion


def _sign(rng: Rng) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def make(kind: str, rng: Rng, hand: Hand, frames: int, *, distance: float, bearing: tuple[float, float]) -> F64:
    """A motion of ``kind`` (see `WEIGHTS`) of about ``frames`` frames.

    Args:
        kind: one of the keys of `WEIGHTS`.
        rng: random numbers.
        hand: speeds.
        frames: wished length; compound kinds may be a little longer.
        distance: metres to what the camera looks at, for orbits and approaches.
        bearing: pan and tilt in radians towards a thing worth seeing.

    Returns:
        (n, 6) motion per frame.
    """
    if kind == "static":
        return np.zeros((int(rng.integers(4, 17)), 6))
    if kind in SINGLE:
        axis, sign = SINGLE[kind]
        return _held(rng, hand, frames, [(axis, sign)], overlay=False)
    if kind == "orbit":
        return _orbit(rng, hand, frames, distance)
    if kind == "look away":
        return _look_away(rng, hand, frames)
    if kind == "loop":
        return _loop(rng, hand, frames)
    if kind == "approach":
        return _approach(rng, hand, frames, distance, bearing)
    if kind.startswith("any"):
        axes = rng.permutation(6)[: 2 if kind == "any two" else 3]
        pairs = [(int(a), _sign(rng)) for a in axes]
    else:
        pairs = [
            (_AXIS[name], 1.0 if name == "dolly" and rng.random() < 0.75 else _sign(rng)) for name in kind.split("+")
        ]
    return _held(rng, hand, frames, pairs, overlay=bool(rng.random() < 0.45))


def _orbit(rng: Rng, hand: Hand, frames: int, distance: float) -> F64:
    sign, reach = _sign(rng), float(np.clip(distance, 0.8, 3.0))
    rate = min(hand.rate(X), hand.rate(PAN) * reach)
    motion = np.zeros((frames + 8, 6))
    shape = eased(frames + 8, 3)
    motion[:, X] = sign * rate * shape
    motion[:, PAN] = -sign * rate / reach * shape
    return motion


def _look_away(rng: Rng, hand: Hand, frames: int) -> F64:
    half = _held(rng, hand, max(8, frames // 2 + 4), [(PAN, _sign(rng))], overlay=False)
    if rng.random() < 0.3:
        half[:, TILT] = _sign(rng) * 0.3 * half[:, PAN]
    hold = np.zeros((int(rng.integers(0, 8)), 6))
    return np.concatenate([half, hold, -half[::-1]])


def _loop(rng: Rng, hand: Hand, frames: int) -> F64:
    side = max(6, frames // 2)
    a, b = _sign(rng), _sign(rng)
    legs = [_held(rng, hand, side, [(axis, sign)], overlay=False) for axis, sign in ((X, a), (Z, b))]
    return np.concatenate([legs[0], legs[1], -legs[0][::-1], -legs[1][::-1]])


def _approach(rng: Rng, hand: Hand, frames: int, distance: float, bearing: tuple[float, float]) -> F64:
    pan, tilt = bearing
    turn = max(5, int(np.ceil(abs(pan) / (hand.rate(PAN)))) + 2)
    shape = eased(turn, 2)
    first = np.zeros((turn, 6))
    first[:, PAN] = pan * shape / shape.sum()
    if abs(tilt) > 0.1 and rng.random() < 0.6:
        first[:, TILT] = tilt * shape / shape.sum()
    far = max(6, min(frames, int((distance - 1.1) / hand.rate(Z))))
    return np.concatenate([first, _held(rng, hand, far, [(Z, 1)], overlay=False)])


def full_turn(rng: Rng, hand: Hand, frames: int) -> F64:
    """A turn of exactly 360 degrees in ``frames`` frames at most (faster than the hand where it must be)."""
    rate = hand.rate(PAN)
    wanted = int(np.ceil(2 * np.pi / rate)) + 3
    shape = eased(min(frames, wanted), 3)
    motion = np.zeros((len(shape), 6))
    motion[:, PAN] = _sign(rng) * 2 * np.pi * shape / shape.sum()
    return motion
