"""Pose files, `.npz` or `.json`, as plain arrays; `relic.camera` gives them their meaning."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

POSE_ENTRIES = ("rotations_w2c", "positions")
POSE_SUFFIXES = (".npz", ".json")


def write_pose_file(path: str | os.PathLike[str], arrays: dict[str, Float64Array]) -> None:
    """Write arrays to `.npz` or `.json`, atomically, without loss, and to the same bytes each time.

    Raises:
        ValueError: the name ends in neither `.npz` nor `.json`.
    """
    target = Path(path)
    suffix = _suffix(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if suffix == ".npz":
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as entry:
                        np.lib.format.write_array(entry, array, allow_pickle=False)
        else:
            content = {name: array.tolist() for name, array in arrays.items()}
            temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read_pose_file(path: str | os.PathLike[str]) -> object:
    """Read a pose file; its content is not checked, but an `.npz` gives a dict of the pose arrays it holds.

    Raises:
        ValueError: another suffix, or a file that is not what its suffix says.
        FileNotFoundError: no such file.
    """
    source = Path(path)
    suffix = _suffix(source)
    with source.open("rb") as file:
        try:
            if suffix == ".json":
                content: object = json.loads(file.read())
                return content
            if not zipfile.is_zipfile(file):
                raise ValueError("no zip archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in POSE_ENTRIES if name in archive}
        except (ValueError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{source} is no {suffix} file: {error}") from None


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in POSE_SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}: a pose file ends in .npz or .json")
    return suffix
