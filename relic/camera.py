"""Camera poses and paths, and their exact conversion to and from actions (paper 3.3, eq. 1-3, algorithm 1).

Axes are OpenCV's (x right, y down, z forward). A pose is a world-to-camera rotation R_w2c and the camera
centre P in world coordinates, so a world point X is R_w2c (X - P) in the camera. All arrays are float64.

One frame's rotation is pan about the camera's y, then tilt about the turned x, then roll about the turned z:
C_t = C_{t-1} Y(pan) X(tilt) Z(roll) with C camera-to-world, that is dR = R_t R_{t-1}^T = (Y X Z)^T, R = C^T.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relic.actions import STATIC, actions_from_motions, motions_from_actions, validate_actions
from relic.intrinsics import Intrinsics, pixel_rays, project
from relic.pose_files import POSE_ENTRIES, read_pose_file, write_pose_file
from relic.rotations import (
    angles_from_rotations,
    deviation_from_rotation,
    nearest_rotations,
    rotation_angle,
    rotations_from_angles,
)

__all__ = [
    "CameraPath",
    "CameraPose",
    "Intrinsics",
    "actions_from_poses",
    "continue_path",
    "integrate",
    "mean_displacement",
    "nearest_rotations",
    "normalised_actions_from_poses",
    "pixel_rays",
    "project",
    "unproject",
    "world_to_camera",
]

Float64Array = NDArray[np.float64]
_ROTATION_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class CameraPose:
    """One camera pose.

    Attributes:
        rotation_w2c: (3, 3) world-to-camera rotation.
        position: (3,) camera centre in world coordinates, metres.

    Raises:
        ValueError: wrong shape, not finite, or no rotation (see `nearest_rotations`).
    """

    rotation_w2c: Float64Array
    position: Float64Array

    def __post_init__(self) -> None:
        rotation = np.array(self.rotation_w2c, dtype=np.float64)
        position = np.array(self.position, dtype=np.float64)
        _check_poses(rotation[None], position[None])
        object.__setattr__(self, "rotation_w2c", _frozen(rotation))
        object.__setattr__(self, "position", _frozen(position))

    @classmethod
    def _checked(cls, rotation_w2c: Float64Array, position: Float64Array) -> CameraPose:
        """Return a pose of read-only arrays that were checked before: a path's."""
        pose = object.__new__(cls)
        object.__setattr__(pose, "rotation_w2c", rotation_w2c)
        object.__setattr__(pose, "position", position)
        return pose

    @classmethod
    def identity(cls) -> CameraPose:
        """Return the world's origin: the pose of a path's first camera."""
        return cls(np.eye(3), np.zeros(3))


@dataclass(frozen=True, slots=True, eq=False)
class CameraPath:
    """A camera pose for every pixel frame; `path[i]` is a `CameraPose`, `path[a:b]` a `CameraPath`.

    Attributes:
        rotations_w2c: (T, 3, 3) world-to-camera rotations, read-only float64.
        positions: (T, 3) camera centres in world coordinates, metres, read-only float64.

    Raises:
        ValueError: wrong shapes, a value that is not finite, or a matrix that is no rotation to 1e-6; the
            frame is named.
    """

    rotations_w2c: Float64Array
    positions: Float64Array

    def __post_init__(self) -> None:
        rotations = np.array(self.rotations_w2c, dtype=np.float64)
        positions = np.array(self.positions, dtype=np.float64)
        _check_poses(rotations, positions)
        object.__setattr__(self, "rotations_w2c", _frozen(rotations))
        object.__setattr__(self, "positions", _frozen(positions))

    @classmethod
    def identity(cls, frames: int = 1) -> CameraPath:
        """Return a camera that stays at the origin for `frames` frames."""
        return cls(np.tile(np.eye(3), (frames, 1, 1)), np.zeros((frames, 3)))

    @classmethod
    def from_c2w(cls, matrices_c2w: ArrayLike) -> CameraPath:
        """Return the path of (T, 4, 4) or (T, 3, 4) camera-to-world matrices in OpenCV axes."""
        matrices = np.asarray(matrices_c2w, dtype=np.float64)
        if matrices.ndim != 3 or matrices.shape[1:] not in ((4, 4), (3, 4)):
            raise ValueError(f"matrices_c2w have shape {matrices.shape}: give (T, 4, 4) or (T, 3, 4)")
        return cls(matrices[:, :3, :3].transpose(0, 2, 1), matrices[:, :3, 3])

    @classmethod
    def concatenate(cls, paths: Sequence[CameraPath]) -> CameraPath:
        """Join paths of one world, in order."""
        return cls(np.concatenate([p.rotations_w2c for p in paths]), np.concatenate([p.positions for p in paths]))

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> CameraPose: ...
    @overload
    def __getitem__(self, index: slice) -> CameraPath: ...
    def __getitem__(self, index: int | slice) -> CameraPose | CameraPath:
        if isinstance(index, slice):
            return CameraPath(self.rotations_w2c[index], self.positions[index])
        return CameraPose._checked(self.rotations_w2c[index], self.positions[index])

    def matrices_c2w(self) -> Float64Array:
        """Return (T, 4, 4) camera-to-world matrices in OpenCV axes."""
        matrices = np.tile(np.eye(4), (len(self), 1, 1))
        matrices[:, :3, :3] = self.rotations_w2c.transpose(0, 2, 1)
        matrices[:, :3, 3] = self.positions
        return matrices

    def rebased(self, index: int = 0) -> CameraPath:
        """Return the same path seen from its camera `index`: that pose becomes exactly the identity."""
        origin = self[index]
        rotations = self.rotations_w2c @ origin.rotation_w2c.T
        rotations[index] = np.eye(3)
        return CameraPath(rotations, (self.positions - origin.position) @ origin.rotation_w2c.T)

    def reversed(self) -> CameraPath:
        """Return the poses in reverse order, in the same world (not rebased)."""
        return self[::-1]

    def scaled(self, factor: float) -> CameraPath:
        """Return the path with its positions multiplied by `factor`."""
        return CameraPath(self.rotations_w2c, self.positions * factor)

    def save(self, path: str | os.PathLike[str], intrinsics: Intrinsics | None = None) -> None:
        """Write the path to `.npz` or `.json`, atomically and without loss.

        Args:
            path: the file; its folder must exist.
            intrinsics: when given, stored beside the poses as [fx, fy, cx, cy].

        Raises:
            ValueError: the name ends in neither `.npz` nor `.json`.
        """
        arrays = {"rotations_w2c": self.rotations_w2c, "positions": self.positions}
        if intrinsics is not None:
            arrays["intrinsics"] = np.array([intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy])
        write_pose_file(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CameraPath:
        """Read what `save` wrote, or any `.npz` or `.json` with `rotations_w2c` and `positions`.

        Rotations off by up to 1e-3 (poses stored in single precision, or printed with few digits) are
        replaced by the nearest ones.

        Raises:
            ValueError: another suffix, no such format, a missing entry, or entries that are no poses.
            FileNotFoundError: no such file.
        """
        return cls.from_mapping(read_pose_file(path), os.fspath(path))

    @classmethod
    def from_mapping(cls, content: object, source: str) -> CameraPath:
        """Return the path of a mapping with `rotations_w2c` and `positions`; `source` names it in errors.

        Raises:
            ValueError: a missing entry, or entries that are no poses.
        """
        if not isinstance(content, dict) or not content.keys() >= set(POSE_ENTRIES):
            raise ValueError(f"{source} is no pose file: it must hold rotations_w2c (T, 3, 3) and positions (T, 3)")
        try:
            rotations = np.array(content["rotations_w2c"], dtype=np.float64)
            positions = np.array(content["positions"], dtype=np.float64)
            _check_poses(rotations, positions, tolerance=1e-3)
            exact = deviation_from_rotation(rotations) < 1e-12
            return cls(np.where(exact[:, None, None], rotations, nearest_rotations(rotations)), positions)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source}: {error}") from None


def integrate(actions: ArrayLike, start: CameraPose | None = None) -> CameraPath:
    """Integrate actions to absolute poses (eq. 3).

    `actions[t]` is the motion from pose t-1 to pose t. Without `start`, `actions[0]` is the static first
    action and pose 0 the identity. With `start`, that is the pose BEFORE `actions[0]`, as in `continue_path`.

    Args:
        actions: (T, 13) magnitudes a frame; opposite ones cancel.
        start: the pose before `actions[0]`.

    Returns:
        T poses, pose t after `actions[t]`.

    Raises:
        ValueError: bad actions (row and column named), or `actions[0]` moves and there is no `start`.
    """
    array = validate_actions(actions)
    if start is None:
        first = np.concatenate(motions_from_actions(array[:1]), axis=1)
        if first.any():
            raise ValueError(
                f"actions row 0 moves (x, y, z, pan, tilt, roll = {first[0].tolist()}): the first action "
                "belongs to the first frame and must be static; use prepend_static, or give start"
            )
    return continue_path(start or CameraPose.identity(), array)


def continue_path(pose: CameraPose, actions: ArrayLike) -> CameraPath:
    """Return the T poses after each of (T, 13) actions from `pose` on (eq. 3); block by block equals at once.

    Raises:
        ValueError: bad actions; the row and column are named.
    """
    translations, angles = motions_from_actions(validate_actions(actions))
    steps_w2c = rotations_from_angles(angles).transpose(0, 2, 1)
    rotations = np.empty((len(angles) + 1, 3, 3))
    rotations[0] = pose.rotation_w2c
    for t, step_w2c in enumerate(steps_w2c):
        rotation = step_w2c @ rotations[t]
        # One Newton step of the polar decomposition: rounding errors stay at 1e-16 however long the path.
        rotations[t + 1] = 1.5 * rotation - 0.5 * (rotation @ rotation.T @ rotation)
    moves = np.einsum("tij,ti->tj", rotations[:-1], translations)
    positions = np.cumsum(np.concatenate([pose.position[None], moves]), axis=0)
    return CameraPath(rotations[1:], positions[1:])


def actions_from_poses(
    path: CameraPath, static_threshold_m: float = 1e-4, static_threshold_rad: float = 1e-4
) -> Float64Array:
    """Label a path with its actions (eq. 1-2, algorithm 1), exactly: `integrate(result, path[0])` is `path`.

    Thresholds only set `static`: it is 1.0 where neither the displacement nor the rotation angle exceeds its
    threshold, and the magnitudes below it are kept, so that slow drift is not lost.

    Args:
        path: T poses.
        static_threshold_m: metres a frame, >= 0.
        static_threshold_rad: radians a frame, >= 0.

    Returns:
        (T, 13); row t is the motion from pose t-1 to pose t, row 0 static. Pan and roll lie in [-pi, pi],
        tilt in [-pi/2, pi/2].

    Raises:
        ValueError: a threshold is negative or not a number.
    """
    for name, value in (
        ("static_threshold_m", static_threshold_m),
        ("static_threshold_rad", static_threshold_rad),
    ):
        if not value >= 0:
            raise ValueError(f"{name} is {value!r}: give a number >= 0")
    before, after = path.rotations_w2c[:-1], path.rotations_w2c[1:]
    translations = np.zeros((len(path), 3))
    angles = np.zeros((len(path), 3))
    translations[1:] = np.einsum("tij,tj->ti", before, np.diff(path.positions, axis=0))
    steps_c2w = before @ after.transpose(0, 2, 1)
    angles[1:] = angles_from_rotations(steps_c2w)
    actions = actions_from_motions(translations, angles)
    turned = np.zeros(len(path))
    turned[1:] = rotation_angle(steps_c2w)
    moved = np.linalg.norm(translations, axis=1)
    actions[:, STATIC] = (moved <= static_threshold_m) & (turned <= static_threshold_rad)
    return actions


def mean_displacement(path: CameraPath) -> float:
    """Return the mean length of the non-zero steps, in the path's unit (algorithm 1), or 1.0 without any."""
    lengths = np.linalg.norm(np.diff(path.positions, axis=0), axis=1)
    moving = lengths[lengths > 1e-9 * lengths.max(initial=0.0)]
    return float(moving.mean()) if len(moving) else 1.0


def normalised_actions_from_poses(
    path: CameraPath, static_threshold: float = 1e-3, static_threshold_rad: float = 1e-4
) -> tuple[Float64Array, float]:
    """Label a clip of unknown scale: its mean non-zero displacement becomes 1 (algorithm 1).

    Args:
        path: T poses in any unit of length.
        static_threshold: in mean displacements a frame.
        static_threshold_rad: radians a frame.

    Returns:
        (T, 13) actions and the scale: `integrate(actions, ...)` positions times the scale are the path's.
    """
    scale = mean_displacement(path)
    return actions_from_poses(path.scaled(1 / scale), static_threshold, static_threshold_rad), scale


def world_to_camera(points: Float64Array, pose: CameraPose) -> Float64Array:
    """Bring (..., 3) world points into the axes of the camera at `pose`."""
    camera: Float64Array = (points - pose.position) @ pose.rotation_w2c.T
    return camera


def unproject(depth: ArrayLike, intrinsics: Intrinsics, pose: CameraPose) -> Float64Array:
    """Return the world point under each pixel centre, (H, W, 3), from z-depth (H, W) in metres.

    Raises:
        ValueError: the depth picture has not the size of the intrinsics.
    """
    z = np.asarray(depth, dtype=np.float64)
    if z.shape != (intrinsics.height, intrinsics.width):
        raise ValueError(f"depth has shape {z.shape}, the intrinsics ({intrinsics.height}, {intrinsics.width})")
    world: Float64Array = (pixel_rays(intrinsics) * z[..., None]) @ pose.rotation_w2c + pose.position
    return world


def _check_poses(rotations: Float64Array, positions: Float64Array, tolerance: float = _ROTATION_TOLERANCE) -> None:
    frames = len(positions) if positions.ndim else 0
    if rotations.shape != (frames, 3, 3) or positions.shape != (frames, 3):
        raise ValueError(f"rotations_w2c are {rotations.shape}, positions {positions.shape}: give (T, 3, 3) and (T, 3)")
    for name, array in (("rotations_w2c", rotations), ("positions", positions)):
        if not np.isfinite(array).all():
            frame = int(np.argwhere(~np.isfinite(array))[0, 0])
            raise ValueError(f"{name} of frame {frame} are not finite: {array[frame].tolist()}")
    wrong = (deviation_from_rotation(rotations) > tolerance) | (np.linalg.det(rotations) < 0)
    if wrong.any():
        frame = int(np.argmax(wrong))
        raise ValueError(
            f"rotations_w2c of frame {frame} are no rotation to {tolerance:g}: {rotations[frame].tolist()}; "
            "see nearest_rotations"
        )


def _frozen(array: Float64Array) -> Float64Array:
    array.setflags(write=False)
    return array
