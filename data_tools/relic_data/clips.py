"""Clips on disk: what `relic_data.render` writes and everything else reads."""

from __future__ import annotations

import itertools
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from relic.camera import CameraPath
from relic.failures import DamagedFileError
from relic.intrinsics import Intrinsics

VERSION = 1
FPS = 16
HEIGHT, WIDTH, FOV = 96, 160, 60.0
SPLITS = ("train", "validation", "test")
FILES = ("frames.npy", "depth.npy", "poses.npz", "actions.npy", "clip.json")


_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class ClipError(ValueError):
    """There is no such clip, or it is damaged; the message names it."""


class DamagedClipError(ClipError, DamagedFileError):
    """A clip is missing a file or holds something else than it should."""


def split_of(scene: int) -> str:
    """Split of a scene number: every 20th is test, the one after it validation, the rest training."""
    return {0: "test", 1: "validation"}.get(scene % 20, "train")


def scene_numbers(count: int, first: int = 0, split: str | None = None) -> list[int]:
    """The first ``count`` scene numbers from ``first`` on, of one split or of all.

    Raises:
        ValueError: unknown split.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split={split!r}: give one of {SPLITS}, or None for all scenes")
    fitting = (scene for scene in itertools.count(first) if split is None or split_of(scene) == split)
    return list(itertools.islice(fitting, count))


def clip_name(scene: int, clip: int) -> str:
    """Folder name of clip number ``clip`` of a scene."""
    return f"{split_of(scene)}-s{scene:05d}-c{clip:02d}"


def clip_frames(seconds: float) -> int:
    """Number of frames, 1 + 4k, nearest to ``seconds`` at 16 frames a second.

    Raises:
        ValueError: ``seconds`` is not a positive number of at least a quarter second.
    """
    if not (0.25 <= seconds < 1e5):
        raise ValueError(f"seconds={seconds!r}: give a length between 0.25 and 100000")
    return 1 + 4 * max(1, round((seconds * FPS) / 4))


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip, read lazily: nothing is opened before it is asked for."""

    folder: Path

    @property
    def name(self) -> str:
        """Folder name, such as ``train-s00002-c00``."""
        return self.folder.name

    def _broken(self, why: str) -> DamagedClipError:
        return DamagedClipError(f"clip {self.name}: {why}; delete {self.folder} and render it again")

    def _array(self, file: str, dtype: str, tail: tuple[int, ...]) -> npt.NDArray[Any]:
        path = self.folder / file
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except _UNREADABLE as error:
            raise self._broken(f"cannot read {file} ({error})") from error
        if array.dtype != np.dtype(dtype) or array.shape[1:] != tail or not len(array):
            wanted = f"{dtype} (T, {', '.join(map(str, tail))})"
            raise self._broken(f"{file} is {array.dtype} {array.shape}, expected {wanted}")
        return array

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """RGB pictures (T, 96, 160, 3) uint8, memory-mapped."""
        return self._array("frames.npy", "uint8", (HEIGHT, WIDTH, 3))

    @property
    def depth(self) -> npt.NDArray[np.float16]:
        """z-depth (T, 96, 160) float16 in metres, memory-mapped; 100 where there is only sky."""
        return self._array("depth.npy", "float16", (HEIGHT, WIDTH))

    @property
    def actions(self) -> npt.NDArray[np.float32]:
        """Actions (T, 13) float32, see `relic.actions`."""
        return self._array("actions.npy", "float32", (13,))

    @property
    def path(self) -> CameraPath:
        """Poses, the first one the identity."""
        rotations, positions, _ = self._poses()
        return CameraPath(rotations, positions)

    @property
    def intrinsics(self) -> Intrinsics:
        """Focal lengths and centre in pixels of the 96x160 picture."""
        fx, fy, cx, cy = (float(v) for v in self._poses()[2])
        return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=WIDTH, height=HEIGHT)

    def _poses(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        try:
            with np.load(self.folder / "poses.npz", allow_pickle=False) as data:
                return data["rotations_w2c"], data["positions"], data["intrinsics"]
        except _UNREADABLE as error:
            raise self._broken(f"cannot read poses.npz ({error})") from error

    @property
    def info(self) -> dict[str, Any]:
        """The content of clip.json: captions (one per 5 s), split, scene, seed, path_kind, objects, credits."""
        try:
            content = json.loads((self.folder / "clip.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._broken(f"cannot read clip.json ({error})") from error
        if not isinstance(content, dict):
            raise self._broken("clip.json holds no object")
        return content

    @property
    def captions(self) -> list[str]:
        """One caption per 5 seconds of the clip."""
        info = self.info
        if not info.get("captions"):
            raise self._broken("clip.json lacks ['captions']")
        return [str(c) for c in info["captions"]]

    def __len__(self) -> int:
        return len(self.frames)

    def validate(self) -> None:
        """Read every file and check that they agree.

        Raises:
            DamagedClipError: a file is missing, broken, or of another length than the others.
        """
        lengths = {
            "frames.npy": len(self.frames),
            "depth.npy": len(self.depth),
            "actions.npy": len(self.actions),
            "poses.npz": len(self.path),
        }
        if len(set(lengths.values())) > 1:
            raise self._broken(f"lengths differ, {lengths}")
        missing = {"captions", "split", "scene", "seed", "path_kind", "objects", "credits"} - set(self.info)
        if missing:
            raise self._broken(f"clip.json lacks {sorted(missing)}")


def is_complete(folder: Path) -> bool:
    """Whether a clip folder has all its files (folders are renamed only when complete)."""
    return all((folder / file).is_file() for file in FILES)


class ClipDataset(Sequence[Clip]):
    """The clips of a rendered data set, sorted by name; ``split`` is one of `SPLITS` or None for all.

    Raises:
        ClipError: ``root`` has no clips folder, or a clip in it is broken (with ``validate``).
        ValueError: unknown split.
    """

    def __init__(self, root: Path | str, split: str | None = None, *, validate: bool = True) -> None:
        self.root = Path(root)
        if split is not None and split not in SPLITS:
            raise ValueError(f"split={split!r}: give one of {SPLITS}, or None for all clips")
        folder = self.root / "clips"
        if not folder.is_dir():
            raise ClipError(f"no clips in {self.root}: render some with `relic data render --out {self.root}`")
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        self._clips = [Clip(folder / n) for n in names if split is None or n.startswith(f"{split}-")]
        if validate:
            for clip in self._clips:
                clip.validate()

    def __len__(self) -> int:
        return len(self._clips)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...

    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        return self._clips[index]

    def __iter__(self) -> Iterator[Clip]:
        return iter(self._clips)

    def by_name(self, name: str) -> Clip:
        """The clip called ``name``; ClipError where there is none."""
        for clip in self._clips:
            if clip.name == name:
                return clip
        raise ClipError(f"no clip {name!r} in {self.root}")
