"""Room to move: a distance field over 5 cm cells for planning, and Bullet sphere sweeps as the exact check."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from panda3d import bullet, core
from scipy import ndimage

from relic_data.mesh import F64, Piece, patch
from relic_data.scene import Scene

VOXEL = 0.05
RADIUS = 0.2
CLEARANCE = 0.28
OUTDOOR_HEIGHT = 2.6


class FreeSpace:
    """Distance to the nearest surface, and the region that a camera can reach."""

    def __init__(self, scene: Scene) -> None:
        rects = np.asarray([r for room in scene.rooms for r in room.rects])
        top = OUTDOOR_HEIGHT if scene.outdoor else scene.rooms[0].height
        self.low = np.array([*rects[:, :2].min(0), 0.0]) - 0.2
        high = np.array([*rects[:, 2:].max(0), top]) + 0.2
        shape = np.ceil((high - self.low) / VOXEL).astype(int)
        taken = self._outside(scene, shape, rects, top)
        for piece in scene.pieces:
            if piece.solid:
                cells = self._cells(_samples(piece))
                cells = cells[((cells >= 0) & (cells < shape)).all(1)]
                taken[tuple(cells.T)] = True
        self.field = ndimage.distance_transform_edt(~taken).astype(np.float32) * VOXEL
        labels, count = ndimage.label(self.field >= CLEARANCE + 0.05)
        sizes = np.bincount(labels.ravel())[1:] if count else np.zeros(0, int)
        self.reachable = labels == 1 + int(np.argmax(sizes)) if count else np.zeros(shape, bool)

    def _outside(self, scene: Scene, shape: F64, rects: F64, top: float) -> npt.NDArray[np.bool_]:
        taken = np.ones(shape, bool)
        boxes = [(*r, top) for r in rects.tolist()]
        boxes += passages(scene)
        for x0, y0, x1, y1, z in boxes:
            a = np.floor((np.array([x0, y0, 0.0]) - self.low) / VOXEL).astype(int)
            b = np.ceil((np.array([x1, y1, z]) - self.low) / VOXEL).astype(int)
            taken[a[0] : b[0], a[1] : b[1], a[2] : b[2]] = False
        return taken

    def _cells(self, points: F64) -> npt.NDArray[np.int64]:
        return np.floor((points - self.low) / VOXEL).astype(np.int64)

    def distance(self, points: F64) -> F64:
        """Metres (n,) from points (n, 3) to the nearest surface, to within about 5 cm; 0 outside."""
        cells = self._cells(points)
        inside = ((cells >= 0) & (cells < self.field.shape)).all(1)
        safe = np.clip(cells, 0, np.asarray(self.field.shape) - 1)
        return np.where(inside, self.field[tuple(safe.T)], 0.0).astype(np.float64)

    def can_be_at(self, points: F64) -> npt.NDArray[np.bool_]:
        """Whether each point (n, 3) keeps the clearance and lies in the reachable region."""
        cells = self._cells(points)
        inside = ((cells >= 0) & (cells < self.field.shape)).all(1)
        safe = np.clip(cells, 0, np.asarray(self.field.shape) - 1)
        return np.asarray(inside & self.reachable[tuple(safe.T)])


def passages(scene: Scene) -> list[tuple[float, float, float, float, float]]:
    """Boxes (x0, y0, x1, y1, top) of the openings between rooms."""
    if len(scene.rooms) < 2 or scene.passage is None:
        return []
    return [scene.passage]


def _samples(piece: Piece) -> F64:
    """Points on the triangles of ``piece``, closer together than a cell."""
    corners = piece.positions[piece.triangles].astype(np.float64)
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    longest = np.maximum(np.linalg.norm(edges, axis=2).max(1), np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1))
    count = np.ceil(np.maximum(area / 0.0007, longest / 0.03)).astype(int) + 1
    which = np.repeat(np.arange(len(corners)), count)
    k = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    u, v = (0.5 + k * 0.7548776662466927) % 1, (0.5 + k * 0.5698402909980532) % 1
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    inner = corners[which, 0] + u[:, None] * edges[which, 0] + v[:, None] * edges[which, 1]
    return np.concatenate([inner, corners.reshape(-1, 3)])


class SphereSweeper:
    """Bullet: does a sphere of 20 cm meet a surface between two points?"""

    def __init__(self, scene: Scene) -> None:
        self._world = bullet.BulletWorld()
        mesh = bullet.BulletTriangleMesh()
        pieces = [p for p in scene.pieces if p.solid] + panes(scene)
        for piece in pieces:
            for a, b, c in piece.positions[piece.triangles].tolist():
                mesh.addTriangle(core.Point3(*a), core.Point3(*b), core.Point3(*c), False)
        node = bullet.BulletRigidBodyNode("room")
        node.addShape(bullet.BulletTriangleMeshShape(mesh, dynamic=False))
        self._world.attachRigidBody(node)
        self._sphere = bullet.BulletSphereShape(RADIUS)
        self._probe = bullet.BulletGhostNode("probe")
        self._probe.addShape(self._sphere)
        self._path = core.NodePath(self._probe)

    def touches(self, point: F64) -> bool:
        """Whether the sphere at ``point`` (3,) overlaps a surface."""
        self._path.setPos(*(float(v) for v in point))
        return bool(self._world.contactTest(self._probe).getNumContacts() > 0)

    def free(self, points: F64) -> bool:
        """Whether the sphere can go along the points (n, 3) without touching anything."""
        if self.touches(points[0]):
            return False
        for a, b in itertools.pairwise(points):
            if np.abs(b - a).max() < 1e-6:
                continue
            start = core.TransformState.makePos(core.Point3(*a.tolist()))
            end = core.TransformState.makePos(core.Point3(*b.tolist()))
            if self._world.sweepTestClosest(self._sphere, start, end).hasHit():
                return False
        return True


def panes(scene: Scene) -> list[Piece]:
    """Invisible panes in front of every wall's openings, so that nothing leaves by a window."""
    found = []
    for room in scene.rooms:
        for wall in room.walls:
            passage = scene.passage
            if passage and abs(wall.along[1]) > 0.5 and passage[0] - 1e-3 <= wall.start[0] <= passage[2] + 1e-3:
                continue
            start = np.array([*wall.start, 0.0])
            along = np.append(wall.along * wall.length, 0.0)
            found.append(patch(start, along, (0, 0, max(wall.height, OUTDOOR_HEIGHT)), step=10.0))
    return found
