"""Actions: 13 non-negative magnitudes a pixel frame; the keys and scripts that make them (paper 3.3, 4.1.2).

An action is a vector of `NUM_ACTIONS` magnitudes in the order of `ACTION_NAMES`: metres a frame for the six
translations, radians a frame for the six rotations, and 1.0 or 0.0 for `static`. Motion is the camera's own:
x right, y down, z forward (OpenCV).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]

ACTION_NAMES: Final = (
    "dolly_in",
    "dolly_out",
    "truck_left",
    "truck_right",
    "pedestal_up",
    "pedestal_down",
    "tilt_up",
    "tilt_down",
    "pan_left",
    "pan_right",
    "roll_cw",
    "roll_ccw",
    "static",
)
NUM_ACTIONS: Final = len(ACTION_NAMES)
ACTION_INDEX: Final = MappingProxyType({name: index for index, name in enumerate(ACTION_NAMES)})
STATIC: Final = ACTION_INDEX["static"]

# Columns whose difference is the signed motion (x, y, z, pan, tilt, roll); see `motions_from_actions`.
_POSITIVE_NAMES: Final = ("truck_right", "pedestal_down", "dolly_in", "pan_right", "tilt_up", "roll_cw")
_NEGATIVE_NAMES: Final = ("truck_left", "pedestal_up", "dolly_out", "pan_left", "tilt_down", "roll_ccw")
_POSITIVE: Final = [ACTION_INDEX[name] for name in _POSITIVE_NAMES]
_NEGATIVE: Final = [ACTION_INDEX[name] for name in _NEGATIVE_NAMES]
_OPPOSITE: Final = MappingProxyType(
    dict(zip(_POSITIVE_NAMES + _NEGATIVE_NAMES, _NEGATIVE_NAMES + _POSITIVE_NAMES, strict=True))
)

KEY_BINDINGS: Final = MappingProxyType(
    {
        "KeyW": "dolly_in",
        "KeyS": "dolly_out",
        "KeyA": "truck_left",
        "KeyD": "truck_right",
        "KeyE": "pedestal_up",
        "KeyQ": "pedestal_down",
        "ArrowUp": "tilt_up",
        "ArrowDown": "tilt_down",
        "ArrowLeft": "pan_left",
        "ArrowRight": "pan_right",
        "KeyC": "roll_cw",
        "KeyZ": "roll_ccw",
    }
)
"""W3C `KeyboardEvent.code` -> action name: keys by their place on the keyboard, whatever its layout."""

SCRIPT_NAMES: Final = MappingProxyType(
    {code.removeprefix("Key").removeprefix("Arrow").lower(): name for code, name in KEY_BINDINGS.items()}
    | {name: name for name in ACTION_NAMES}
    | {"none": "static"}
)
"""Names that a script knows -> action name: `w a s d e q up down left right c z none` and `ACTION_NAMES`."""

MAX_SCRIPT_FRAMES: Final = 100_000
_MAX_GAIN: Final = 1e3
_COUNT: Final = re.compile(r"[0-9]+")
_GAIN: Final = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """How fast a key at full gain moves the camera (the paper's inference coefficients, 4.1.2).

    Attributes:
        translation_m_per_s: metres a second, finite and >= 0.
        rotation_deg_per_s: degrees a second, finite and >= 0.

    Raises:
        ValueError: a speed is negative or not finite.
    """

    translation_m_per_s: float = 0.75
    rotation_deg_per_s: float = 40.0

    def __post_init__(self) -> None:
        for name in ("translation_m_per_s", "rotation_deg_per_s"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value!r}: give a finite number >= 0")


DEFAULT_SPEEDS: Final = Speeds()


def static_actions(frames: int) -> Float64Array:
    """Return `frames` static actions, (frames, 13)."""
    actions = np.zeros((frames, NUM_ACTIONS))
    actions[:, STATIC] = 1.0
    return actions


def prepend_static(actions: ArrayLike) -> Float64Array:
    """Put the paper's static first action (4.1.2) before motions: (T, 13) -> (T + 1, 13), one row a frame."""
    return np.concatenate([static_actions(1), validate_actions(actions)])


def validate_actions(actions: ArrayLike) -> Float64Array:
    """Check actions at a boundary.

    Args:
        actions: (T, 13) magnitudes; (13,) is taken as one frame.

    Returns:
        (T, 13) float64, a new array.

    Raises:
        ValueError: wrong shape, not a number, not finite or negative; the message names the row and the
            column.
    """
    array = _as_float64_rows(actions)
    bad = ~np.isfinite(array) | (array < 0)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        name, value = ACTION_NAMES[column], array[row, column]
        way_out = "magnitudes must be finite numbers"
        if value < 0 and math.isfinite(value):
            opposite = _OPPOSITE.get(name)
            way_out = f"magnitudes are >= 0; use {opposite!r} to move the other way" if opposite else "use 0 or 1"
        raise ValueError(f"actions row {row}, column {column} ({name}) is {value}: {way_out}")
    return array


def _as_float64_rows(actions: ArrayLike) -> Float64Array:
    if isinstance(actions, list | tuple):
        for index, entry in enumerate(actions):
            if isinstance(entry, list | tuple | np.ndarray) and len(entry) != NUM_ACTIONS:
                raise ValueError(
                    f"actions row {index} has {len(entry)} columns: give {NUM_ACTIONS}, as in ACTION_NAMES"
                )
    try:
        array = np.array(actions, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"actions are not all numbers ({error}): give a (T, {NUM_ACTIONS}) array") from None
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != NUM_ACTIONS:
        shape = np.shape(actions)
        raise ValueError(f"actions have shape {shape}: give ({NUM_ACTIONS},) or (T, {NUM_ACTIONS})")
    return array


def motions_from_actions(actions: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Split actions into signed camera motion; opposite magnitudes cancel and `static` is ignored.

    Args:
        actions: (T, 13), validated.

    Returns:
        Translation (T, 3) in metres along the camera's x (right), y (down), z (forward), and angles (T, 3) in
        radians: pan (right positive), tilt (up positive), roll (clockwise positive).
    """
    signed = actions[:, _POSITIVE] - actions[:, _NEGATIVE]
    return signed[:, :3], signed[:, 3:]


def actions_from_motions(translations: Float64Array, angles: Float64Array) -> Float64Array:
    """Turn signed camera motion into actions, the inverse of `motions_from_actions`.

    Args:
        translations: (T, 3) metres along the camera's x, y, z.
        angles: (T, 3) radians: pan right, tilt up, roll clockwise.

    Returns:
        (T, 13); one magnitude of each opposite pair is zero, `static` is 1.0 where every component is exactly
        zero.
    """
    signed = np.concatenate([translations, angles], axis=1)
    actions = np.zeros((len(signed), NUM_ACTIONS))
    actions[:, _POSITIVE] = np.maximum(signed, 0.0)
    actions[:, _NEGATIVE] = np.maximum(-signed, 0.0)
    actions[:, STATIC] = ~signed.any(axis=1)
    return actions


def action_from_multi_hot(multi_hot: ArrayLike, speeds: Speeds = DEFAULT_SPEEDS, fps: float = 16) -> Float64Array:
    """Scale held controls to one frame's action (the paper's inference coefficients, 4.1.2).

    Args:
        multi_hot: (13,) gains >= 0; 1 is a held key, fractions are sticks. `static` is ignored: it follows
            from the rest.
        speeds: speed at gain 1.
        fps: pixel frames a second, > 0.

    Returns:
        (13,) action; opposites cancel.

    Raises:
        ValueError: `multi_hot` has a wrong shape, is negative or not finite, or `fps` is not a positive
            number.
    """
    if not math.isfinite(fps) or fps <= 0:
        raise ValueError(f"fps is {fps!r}: give a positive number of frames a second")
    gains = validate_actions(multi_hot)
    if len(gains) != 1:
        raise ValueError(f"multi_hot has shape {gains.shape}: give ({NUM_ACTIONS},)")
    directions, turns = motions_from_actions(gains)
    metres = speeds.translation_m_per_s / fps
    radians = math.radians(speeds.rotation_deg_per_s) / fps
    action: Float64Array = actions_from_motions(directions * metres, turns * radians)[0]
    return action


def action_from_keys(codes: Iterable[str], speeds: Speeds = DEFAULT_SPEEDS, fps: float = 16) -> Float64Array:
    """Return the action of the keys held now.

    Args:
        codes: W3C `KeyboardEvent.code`s; a repeated code counts once, a code without a binding is ignored.
        speeds: speed of a held key.
        fps: pixel frames a second, > 0.

    Returns:
        (13,) action: keys held together mix, opposite keys cancel, no key is static.

    Raises:
        ValueError: `fps` is not a positive number.
    """
    multi_hot = np.zeros(NUM_ACTIONS)
    for code in codes:
        if code in KEY_BINDINGS:
            multi_hot[ACTION_INDEX[KEY_BINDINGS[code]]] = 1.0
    return action_from_multi_hot(multi_hot, speeds, fps)


def parse_script(text: str, speeds: Speeds = DEFAULT_SPEEDS, fps: float = 16) -> Float64Array:
    """Read an action script such as `"w*16 d+left:0.5*8 none*4"`.

    A script is tokens separated by white space. A token is one or more motions joined by `+`, then `*` and a
    count of pixel frames (1 when left out). A motion is a name of `SCRIPT_NAMES`, in any case, or a
    key of `KEY_BINDINGS`, with an optional `:` and gain (1 when left out).

    Args:
        text: the script.
        speeds: speed at gain 1.
        fps: pixel frames a second, > 0.

    Returns:
        (T, 13): the motions in order. No static action is put before them; see `prepend_static`.

    Raises:
        ValueError: an empty script, a bad token (named with its number and character position, both from 1),
            or more than `MAX_SCRIPT_FRAMES` frames.
    """
    blocks: list[Float64Array] = []
    total = 0
    for number, match in enumerate(re.finditer(r"\S+", text), start=1):
        where = f"script token {number} {match.group()!r} at character {match.start() + 1}"
        try:
            multi_hot, count = _parse_token(match.group())
            total += count
            if total > MAX_SCRIPT_FRAMES:
                raise ValueError(f"the script reaches {total} frames; at most {MAX_SCRIPT_FRAMES}")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        blocks.append(np.tile(action_from_multi_hot(multi_hot, speeds, fps), (count, 1)))
    if not blocks:
        raise ValueError('the action script is empty: write motions such as "w*16 d+left*8 none*4"')
    return np.concatenate(blocks)


def _parse_token(token: str) -> tuple[Float64Array, int]:
    motions, star, count = token.partition("*")
    if not star:
        frames = 1
    elif not _COUNT.fullmatch(count) or len(count) > 9 or int(count) == 0:
        raise ValueError(f"{count!r} is no count of frames; write a whole number from 1 after the *")
    else:
        frames = int(count)
    return multi_hot_from_names(motions.split("+")), frames


def multi_hot_from_names(motions: Iterable[str]) -> Float64Array:
    """Turn script motions into gains: `["d", "left:0.5"]` -> (13,), 1.0 for truck_right and 0.5 for pan_left.

    Args:
        motions: names of `SCRIPT_NAMES` or keys of `KEY_BINDINGS`, each with an optional `:gain`; `none` only
            alone.

    Raises:
        ValueError: an unknown name, a name given twice, `none` beside a motion, or a gain that is no number
            in [0, 1000].
    """
    multi_hot = np.zeros(NUM_ACTIONS)
    seen: list[str] = []
    for motion in motions:
        name, colon, gain_text = motion.partition(":")
        action = KEY_BINDINGS.get(name) or SCRIPT_NAMES.get(name.lower())
        if action is None:
            raise ValueError(f"{name!r} is no motion; the names are {', '.join(SCRIPT_NAMES)}")
        if action in seen:
            raise ValueError(f"{action} is given twice; use a gain such as {name}:2")
        if colon and (not _GAIN.fullmatch(gain_text) or float(gain_text) > _MAX_GAIN):
            raise ValueError(f"{gain_text!r} is no gain; write a number from 0 to {_MAX_GAIN:.0f} after the :")
        seen.append(action)
        multi_hot[ACTION_INDEX[action]] = float(gain_text) if colon else 1.0
    if "static" in seen and len(seen) > 1:
        raise ValueError("none cannot be mixed with a motion; leave it out")
    multi_hot[STATIC] = 0.0
    return multi_hot
