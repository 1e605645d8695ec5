"""Actions from a user: an action script, JSON, or a pose file, given as text or as a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from relic.actions import (
    DEFAULT_SPEEDS,
    MAX_SCRIPT_FRAMES,
    Float64Array,
    Speeds,
    action_from_multi_hot,
    multi_hot_from_names,
    parse_script,
    validate_actions,
)
from relic.camera import CameraPath, actions_from_poses
from relic.pose_files import POSE_ENTRIES

_FILE_SUFFIXES = (".npz", ".json", ".txt")


def load_actions(path_or_text: str | Path, speeds: Speeds = DEFAULT_SPEEDS, fps: float = 16) -> Float64Array:
    """Return the motions to play after the first picture.

    The forms:
        script: text for `parse_script`, or a `.txt` file of it.
        JSON list of vectors: `[[13 magnitudes], ...]`, one a pixel frame, taken as they are.
        JSON list of holds: `[{"keys": ["w", "left:0.5"], "frames": 8}, ...]`; keys as in a script or W3C
            codes, `frames` 1 when left out, no keys for static.
        pose file: `.npz` or `.json` with `rotations_w2c` and `positions` (see `CameraPath.save`); T poses are
            T - 1 motions.

    Args:
        path_or_text: a `Path`, text that ends in `.npz`, `.json` or `.txt` (a file), or the script or JSON
            itself.
        speeds: speed at gain 1, for scripts and holds.
        fps: pixel frames a second, > 0, for scripts and holds.

    Returns:
        (T, 13) with T >= 1. No static first action is put before them; see `prepend_static`.

    Raises:
        ValueError: the form is not one of these, or holds a bad value; the message names where.
        FileNotFoundError: no such file.
    """
    text = str(path_or_text).strip()
    if isinstance(path_or_text, Path) or text.lower().endswith(_FILE_SUFFIXES):
        path = Path(text)
        suffix = path.suffix.lower()
        if suffix == ".npz":
            return _actions_from_path(CameraPath.load(path), text)
        if suffix not in _FILE_SUFFIXES:
            raise ValueError(f"{text} ends in {path.suffix!r}: actions come in {', '.join(_FILE_SUFFIXES)} files")
        content, where = path.read_text(encoding="utf-8"), text
    else:
        content, where = text, "actions"
    if content.lstrip().startswith(("[", "{")):
        return _actions_from_json(content, where, speeds, fps)
    try:
        return parse_script(content, speeds, fps)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _actions_from_json(text: str, where: str, speeds: Speeds, fps: float) -> Float64Array:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON: {error}") from None
    if isinstance(content, dict) and content.keys() & set(POSE_ENTRIES):
        return _actions_from_path(CameraPath.from_mapping(content, where), where)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where}: JSON actions are a non-empty list of 13-vectors, or of keys and frames")
    try:
        if any(isinstance(entry, dict) for entry in content):
            return _actions_from_holds(content, speeds, fps)
        if not all(isinstance(entry, list) for entry in content):
            index = next(i for i, entry in enumerate(content) if not isinstance(entry, list))
            raise ValueError(f"entry {index} is {content[index]!r}: give a 13-vector, or keys and frames")
        return validate_actions(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _actions_from_holds(holds: list[object], speeds: Speeds, fps: float) -> Float64Array:
    blocks: list[Float64Array] = []
    total = 0
    for index, hold in enumerate(holds):
        if not isinstance(hold, dict) or "keys" not in hold or not hold.keys() <= {"keys", "frames"}:
            raise ValueError(f'entry {index} is {hold!r}: give {{"keys": [...], "frames": n}}')
        keys, frames = hold["keys"], hold.get("frames", 1)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError(f"entry {index}: keys are {keys!r}: give a list of names")
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
            raise ValueError(f"entry {index}: frames is {frames!r}: give a whole number from 1")
        total += frames
        if total > MAX_SCRIPT_FRAMES:
            raise ValueError(f"entry {index}: the list reaches {total} frames; at most {MAX_SCRIPT_FRAMES}")
        try:
            multi_hot = multi_hot_from_names(keys)
        except ValueError as error:
            raise ValueError(f"entry {index}: {error}") from None
        blocks.append(np.tile(action_from_multi_hot(multi_hot, speeds, fps), (frames, 1)))
    return np.concatenate(blocks)


def _actions_from_path(path: CameraPath, where: str) -> Float64Array:
    if len(path) < 2:
        raise ValueError(f"{where}: {len(path)} pose(s) hold no motion; give at least 2")
    return actions_from_poses(path)[1:]
