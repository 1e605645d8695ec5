"""Light baked per vertex with Embree: area lights with soft shadows, sun and sky, and one diffuse bounce.

The sample patterns are fixed, not random, so neighbouring vertices see the same lights and directions: the
shadows are smooth, without noise, and the result is the same on every run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from relic_data.mesh import F64, Piece
from relic_data.scene import Light, Scene

BOUNCES = 24
CHUNK = 400_000
OFFSET = 0.012


@dataclass(slots=True, kw_only=True)
class Tracer:
    """Rays against the shadow-casting triangles of a scene."""

    embree: EmbreeScene
    owners: npt.NDArray[np.int32]
    albedo: F64
    vertex_of: npt.NDArray[np.int64]

    def blocked(self, origins: F64, directions: F64, reach: F64) -> npt.NDArray[np.bool_]:
        """Whether anything lies on each ray (n, 3) before ``reach`` (n,) metres."""
        hits = self.embree.run(
            origins.astype(np.float32), directions.astype(np.float32), dists=reach.astype(np.float32), query="OCCLUDED"
        )
        return np.asarray(hits) >= 0

    def first(self, origins: F64, directions: F64) -> tuple[npt.NDArray[np.int64], F64, F64]:
        """First hit of each ray: triangle index (-1 none), distance (metres, inf none), barycentric (n, 2)."""
        out = self.embree.run(origins.astype(np.float32), directions.astype(np.float32), query="INTERSECT", output=1)
        triangle = np.asarray(out["primID"], np.int64)
        hit = triangle >= 0
        distance = np.where(hit, np.asarray(out["tfar"], np.float64), np.inf)
        return triangle, distance, np.stack([np.asarray(out["u"]), np.asarray(out["v"])], 1).astype(np.float64)


def make_tracer(scene: Scene, *, everything: bool = False) -> Tracer:
    """Build the ray tracer of a scene; ``everything`` adds the pieces that cast no shadow (lamps, sky)."""
    vertices, indices, owners, albedo = [], [], [], []
    start = 0
    for piece in scene.pieces:
        if piece.casts or everything:
            tri = piece.positions[piece.triangles]
            vertices.append(tri)
            owners.append(np.full(len(tri), piece.owner, np.int32))
            mean = scene.textures[piece.texture].mean((0, 1)) / 255 if piece.texture in scene.textures else np.ones(3)
            albedo.append((piece.tint[piece.triangles].mean(1) * mean) ** 2)
            indices.append(piece.triangles + start)
        start += len(piece.positions)
    embree = EmbreeScene()
    TriangleMesh(embree, np.concatenate(vertices).astype(np.float32))
    return Tracer(
        embree=embree,
        owners=np.concatenate(owners),
        albedo=np.concatenate(albedo),
        vertex_of=np.concatenate(indices).astype(np.int64),
    )


def _direct(tracer: Tracer, points: F64, normals: F64, scene: Scene) -> F64:
    """Light (n, 3) that arrives straight from lamps, windows, sun and (outdoors) sky."""
    total = np.zeros((len(points), 3))
    for light in scene.lights:
        total += _area(tracer, points, normals, light)
    if scene.sun:
        total += _sun(tracer, points, normals, scene.sun)
    return total


def _area(tracer: Tracer, points: F64, normals: F64, light: Light) -> F64:
    gain = np.zeros(len(points))
    facing = None if light.facing is None else np.asarray(light.facing) / np.linalg.norm(light.facing)
    for sample in light.points:
        ray = sample - points
        distance = np.linalg.norm(ray, axis=1)
        ray /= np.maximum(distance, 1e-6)[:, None]
        cosine = np.einsum("ij,ij->i", ray, normals)
        # a lamp's square law is softened: cameras adapt, and corners must not go black
        weight = np.maximum(cosine, 0) / (0.5 + distance**1.6)
        if facing is not None:
            weight *= np.maximum(-(ray @ facing), 0.0)
        lit = np.flatnonzero(weight > 1e-4)
        if len(lit):
            clear = ~tracer.blocked(points[lit], ray[lit], distance[lit] - 0.02)
            gain[lit[clear]] += weight[lit[clear]]
    return (gain * (light.area / len(light.points)))[:, None] * np.asarray(light.colour)


def _sun(tracer: Tracer, points: F64, normals: F64, sun: tuple[tuple[float, ...], tuple[float, ...]]) -> F64:
    direction = np.asarray(sun[0])
    side = np.cross(direction, (0.0, 0.0, 1.0))
    side /= np.linalg.norm(side)
    other = np.cross(direction, side)
    gain = np.zeros(len(points))
    for k in range(8):
        r, a = 0.035 * np.sqrt((k + 0.5) / 8), k * 2.399963
        ray = direction + r * np.cos(a) * side + r * np.sin(a) * other
        ray /= np.linalg.norm(ray)
        cosine = normals @ ray
        lit = np.flatnonzero(cosine > 0)
        rays = np.broadcast_to(ray, (len(lit), 3))
        clear = ~tracer.blocked(points[lit], rays, np.full(len(lit), 60.0))
        gain[lit[clear]] += cosine[lit[clear]] / 8
    return gain[:, None] * np.asarray(sun[1])


def _hemisphere(normals: F64) -> F64:
    """Cosine-weighted directions (n, BOUNCES, 3) round each normal, the same pattern everywhere."""
    k = np.arange(BOUNCES)
    r, a = np.sqrt((k + 0.5) / BOUNCES), k * 2.399963
    local = np.stack([r * np.cos(a), r * np.sin(a), np.sqrt(1 - r * r)], 1)
    helper = np.where(np.abs(normals[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    t = np.cross(helper, normals)
    t /= np.maximum(np.linalg.norm(t, axis=1, keepdims=True), 1e-9)
    b = np.cross(normals, t)
    return np.asarray(
        local[None, :, :1] * t[:, None] + local[None, :, 1:2] * b[:, None] + local[None, :, 2:] * normals[:, None]
    )


def _groups(scene: Scene) -> tuple[F64, F64, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Vertices that share a place and a side: points (g, 3), normals (g, 3), group of each vertex, two-sided."""
    positions = np.concatenate([p.positions for p in scene.pieces]).astype(np.float64)
    normals = np.concatenate([p.normals for p in scene.pieces]).astype(np.float64)
    both = np.concatenate([np.full(len(p.positions), p.two_sided) for p in scene.pieces])
    cell = np.where(both, 0.05, 0.01)[:, None]
    side = np.where(both[:, None], np.round(normals * 1.3), np.round(normals * 3))
    keys = np.concatenate([np.round(positions / cell), side, both[:, None]], 1).astype(np.int64)
    place = (keys[:, :3] - keys[:, :3].min(0)).astype(np.int64)
    code = keys[:, 3:6] + 4
    packed = (place[:, 0] << 44) | (place[:, 1] << 28) | (place[:, 2] << 13)
    packed |= (code[:, 0] << 9) | (code[:, 1] << 5) | (code[:, 2] << 1) | keys[:, 6]
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    count = np.bincount(inverse)[:, None].astype(np.float64)
    points: F64 = np.stack([np.bincount(inverse, positions[:, k], len(first)) for k in range(3)], 1)
    mean: F64 = np.stack([np.bincount(inverse, normals[:, k], len(first)) for k in range(3)], 1)
    points = points / count
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    mean = np.where(length > 1e-3, mean / np.maximum(length, 1e-9), normals[first])
    return points, mean, inverse.astype(np.int64), np.asarray(both[first], np.bool_)


def bake(scene: Scene) -> list[npt.NDArray[np.float32]]:
    """Light of every piece's vertices: linear (n, 3) float32 each, not yet multiplied by the surface colour."""
    tracer = make_tracer(scene)
    points, normals, group, both = _groups(scene)
    points = _pulled_in(scene, points)
    direct = _direct(tracer, points + normals * OFFSET, normals, scene)
    behind = np.flatnonzero(both)
    direct_behind = _direct(tracer, points[behind] - normals[behind] * OFFSET, -normals[behind], scene)
    front = direct[behind].sum(1) >= direct_behind.sum(1)
    normals[behind] = np.where(front[:, None], normals[behind], -normals[behind])
    direct[behind] = np.where(front[:, None], direct[behind], direct_behind)
    vertex_light = direct[group]
    total = direct + _bounce(tracer, points, normals, vertex_light, scene)
    light = total[group].astype(np.float32)
    out, start = [], 0
    for piece in scene.pieces:
        out.append(light[start : start + len(piece.positions)])
        start += len(piece.positions)
    return out


def _pulled_in(scene: Scene, points: F64) -> F64:
    """Points moved 2 cm into the room, so that those in a wall's plane are not behind it."""
    moved = points.copy()
    for room in scene.rooms:
        for x0, y0, x1, y1 in room.rects:
            inside = (points[:, 0] > x0 - 0.005) & (points[:, 0] < x1 + 0.005)
            inside &= (points[:, 1] > y0 - 0.005) & (points[:, 1] < y1 + 0.005) & (points[:, 2] > -0.005)
            inside &= points[:, 2] < room.height + 0.005
            moved[inside] = np.clip(points[inside], (x0 + 0.02, y0 + 0.02, 0.0), (x1 - 0.02, y1 - 0.02, room.height))
    return moved


def _bounce(tracer: Tracer, points: F64, normals: F64, vertex_light: F64, scene: Scene) -> F64:
    sky = np.asarray(scene.sky)
    out = np.zeros((len(points), 3))
    per = max(1, CHUNK // BOUNCES)
    for start in range(0, len(points), per):
        p, n = points[start : start + per], normals[start : start + per]
        rays = _hemisphere(n).reshape(-1, 3)
        origins = np.repeat(p + n * OFFSET, BOUNCES, 0)
        triangle, _, bary = tracer.first(origins, rays)
        hit = triangle >= 0
        corners = vertex_light[tracer.vertex_of[np.maximum(triangle, 0)]]
        u, v = bary[:, :1], bary[:, 1:]
        arriving = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        # what bounced twice and more, as a share of what bounced once
        light = 1.6 * tracer.albedo[np.maximum(triangle, 0)] * arriving
        up = np.clip(rays[:, 2:] * 0.5 + 0.6, 0.2, 1.0)
        light = np.where(hit[:, None], light, sky * up)
        out[start : start + per] = light.reshape(-1, BOUNCES, 3).mean(1)
    return out + 0.02 * sky


def luminance(piece: Piece, light: npt.NDArray[np.float32]) -> F64:
    """Linear luminance (n,) of the vertices of ``piece`` under ``light`` (n, 3)."""
    return np.asarray(((piece.tint.astype(np.float64) ** 2) * light) @ np.array([0.3, 0.59, 0.11]))
