"""Camera paths through a scene: smooth, free of collisions, looking at things, and coming back on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relic.actions import actions_from_motions
from relic.camera import CameraPath, CameraPose, continue_path
from relic_data import motions
from relic_data.collision import CLEARANCE, FreeSpace, SphereSweeper
from relic_data.mesh import F64
from relic_data.motions import Hand
from relic_data.palette import Rng
from relic_data.scene import Scene
from relic_data.views import View, ViewProbe

MAX_TILT, MAX_ROLL = np.radians(32.0), np.radians(22.0)
LOW, HIGH = 0.5, 2.2
MAX_TURN = np.radians(80.0) / motions.FPS
THEMES = ("free", "out and back", "full turn", "look away", "orbit", "free", "out and back", "approach")


class PathError(RuntimeError):
    """No acceptable path was found in a scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPath:
    """A camera path in the scene's world with the names of its motions."""

    world: CameraPath
    kinds: tuple[str, ...]

    def clip_path(self) -> CameraPath:
        """The same path with the first camera as the world: pose 0 is the identity."""
        return self.world.rebased(0)


class PathPlanner:
    """Plans paths in one scene."""

    def __init__(self, scene: Scene, probe: ViewProbe, *, free: FreeSpace | None = None) -> None:
        self.scene, self.probe = scene, probe
        self.free = free or FreeSpace(scene)
        self.sweeper = SphereSweeper(scene)
        self._targets = np.array(
            [np.add(o.low, o.high) / 2 for o in scene.objects if o.interest >= 0.7 and o.role not in ("sky", "wall")]
        ).reshape(-1, 3)

    def plan(self, rng: Rng, frames: int, *, attempts: int = 30) -> PlannedPath:
        """A path of ``frames`` poses.

        Raises:
            PathError: none of ``attempts`` tries succeeded; the scene is too cramped.
        """
        for _ in range(attempts):
            found = self._try(rng, frames)
            if found is not None and self.sweeper.free(found.world.positions):
                return found
        raise PathError(f"no collision-free path of {frames} frames found in {attempts} tries")

    def start(self, rng: Rng) -> CameraPose | None:
        """A level pose that looks into the room at something worth seeing, or None."""
        cells = np.argwhere(self.free.reachable)
        if not len(cells):
            return None
        best: list[tuple[float, CameraPose]] = []
        for _ in range(60):
            point = self.free.low + (cells[int(rng.integers(len(cells)))] + 0.5) * 0.05
            point[2] = rng.uniform(1.15, 1.6)
            if not self.free.can_be_at(point[None])[0] or self.free.distance(point[None])[0] < 0.4:
                continue
            yaw = rng.uniform(-np.pi, np.pi)
            if len(self._targets):
                aim = self._targets[int(rng.integers(len(self._targets)))] - point
                if np.hypot(aim[0], aim[1]) < 1.3:
                    continue
                yaw = np.arctan2(aim[1], aim[0]) + rng.uniform(-0.3, 0.3)
            pose = level_pose(point, float(yaw))
            view = self.probe.looks(pose.rotation_w2c[None], point[None])[0]
            if view.median_depth > 1.6 and view.near_depth > 0.7 and view.sky < 0.45:
                best.append((_score(view) + rng.uniform(0, 0.1), pose))
            if len(best) >= 12:
                break
        return max(best, key=lambda pair: pair[0])[1] if best else None

    def _try(self, rng: Rng, frames: int) -> PlannedPath | None:
        pose = self.start(rng)
        if pose is None:
            return None
        theme = THEMES[int(rng.integers(len(THEMES)))]
        walk = _Walk(self, rng, pose)
        if theme == "out and back" and walk.explore(1 + (frames - 1) // 2):
            walk.turn_back(len(walk.poses) - 1)
        elif theme == "full turn" and frames > 60:
            walk.add("full turn", motions.full_turn(rng, walk.hand, min(frames - 4, 150)))
        elif theme in ("look away", "orbit", "approach"):
            walk.try_kind(theme)
        if len(walk.poses) < 2 and rng.random() < 0.5:
            walk.add("static", np.zeros((int(rng.integers(1, 5)), 6)))
        if not walk.explore(frames):
            return None
        path = CameraPath(
            np.stack([p.rotation_w2c for p in walk.poses[:frames]]), np.stack([p.position for p in walk.poses[:frames]])
        )
        return PlannedPath(world=path, kinds=tuple(walk.kinds))

    def acceptable(self, path: CameraPath) -> bool:
        """Whether the poses keep clear of surfaces and limits, and see enough."""
        points = path.positions
        if (points[:, 2] < LOW).any() or (points[:, 2] > HIGH).any():
            return False
        if not (self.free.distance(points) >= CLEARANCE).all() or not self.free.can_be_at(points[-1:])[0]:
            return False
        forward, right = path.rotations_w2c[:, 2, 2], path.rotations_w2c[:, 0, 2]
        if (np.abs(forward) > np.sin(MAX_TILT)).any() or (np.abs(right) > np.sin(MAX_ROLL)).any():
            return False
        pick = np.unique(np.append(np.arange(3, len(path), 6), len(path) - 1))
        views = self.probe.looks(path.rotations_w2c[pick], points[pick])
        return all(v.median_depth > 1.05 and v.near_depth > 0.45 and v.sky < 0.65 for v in views) and (
            float(np.mean([v.interest for v in views])) > 0.2 and min(v.interest for v in views) > 0.08
        )

    def bearing(self, pose: CameraPose, rng: Rng) -> tuple[float, tuple[float, float]]:
        """Distance to the thing the camera looks at, and pan and tilt towards some thing worth seeing."""
        view = self.probe.looks(pose.rotation_w2c[None], pose.position[None])[0]
        if not len(self._targets):
            return view.median_depth, (0.0, 0.0)
        target = self._targets[int(rng.integers(len(self._targets)))]
        local = pose.rotation_w2c @ (target - pose.position)
        pan = float(np.arctan2(local[0], local[2]))
        tilt = float(np.arctan2(-local[1], np.hypot(local[0], local[2])))
        return view.median_depth, (pan, float(np.clip(tilt, -0.35, 0.35)))


class _Walk:
    """A path being built, motion by motion."""

    def __init__(self, planner: PathPlanner, rng: Rng, pose: CameraPose) -> None:
        self.planner, self.rng = planner, rng
        self.hand = Hand.sample(rng)
        self.poses: list[CameraPose] = [pose]
        self.kinds: list[str] = []

    def add(self, kind: str, motion: F64) -> bool:
        """Append a motion if the poses it leads through are acceptable."""
        path = continue_path(self.poses[-1], actions_from_motions(motion[:, :3], motion[:, 3:]))
        if not self.planner.acceptable(path):
            return False
        self.poses.extend(path[k] for k in range(len(path)))
        self.kinds.append(kind)
        return True

    def try_kind(self, kind: str) -> bool:
        frames = int(self.rng.integers(10, 34))
        distance, bearing = self.planner.bearing(self.poses[-1], self.rng)
        motion = motions.make(kind, self.rng, self.hand, frames, distance=distance, bearing=bearing)
        return self.add(kind, motion)

    def turn_back(self, count: int) -> None:
        """Go back exactly over the last ``count`` poses."""
        self.poses.extend(self.poses[-2 : -2 - count : -1])
        self.kinds.append("back")

    def level(self) -> bool:
        """Undo some of the tilt or roll that has gathered."""
        rotation = self.poses[-1].rotation_w2c
        tilt, roll = np.arcsin(rotation[2, 2]), np.arcsin(rotation[0, 2])
        axis, amount = (motions.TILT, -tilt) if abs(tilt) > abs(roll) else (motions.ROLL, roll)
        if abs(amount) < np.radians(5):
            return False
        frames = max(4, int(np.ceil(abs(amount) / self.hand.rate(axis))) + 2)
        shape = motions.eased(frames, 2)
        motion = np.zeros((frames, 6))
        motion[:, axis] = amount * shape / shape.sum()
        return self.add("level", motion)

    def explore(self, frames: int) -> bool:
        """Add motions until there are ``frames`` poses; False where it gets stuck."""
        names = list(motions.WEIGHTS)
        weights = np.array([motions.WEIGHTS[n] for n in names])
        weights /= weights.sum()
        failures = 0
        while len(self.poses) < frames:
            if failures > 40:
                back = int(self.rng.integers(8, 40))
                if len(self.poses) < 12 or self.kinds[-1:] == ["back"]:
                    return False
                self.turn_back(min(back, len(self.poses) - 1))
                failures = 0
                continue
            if self.rng.random() < 0.4 and self.level():
                continue
            if self.rng.random() < 0.06 and len(self.poses) > 24 and self.kinds[-1:] != ["back"]:
                self.turn_back(int(self.rng.integers(16, min(90, len(self.poses) - 1))))
                continue
            failures += not self.try_kind(names[int(self.rng.choice(len(names), p=weights))])
        del self.poses[frames:]
        return True


def level_pose(point: F64, yaw: float) -> CameraPose:
    """A level camera at ``point`` (3,) that looks along the heading ``yaw`` (radians, from +x towards +y)."""
    z = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    x = np.cross(z, (0.0, 0.0, 1.0))
    return CameraPose(np.stack([x, np.cross(z, x), z]), point)


def _score(view: View) -> float:
    several = sum(share > 0.02 for share in view.shares.values())
    return view.interest + 0.03 * several + 0.02 * min(view.median_depth, 4.0)
