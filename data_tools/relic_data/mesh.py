"""Pieces of a scene: triangle meshes with a texture and a tint, and builders of boxes and tessellated walls."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from relic_data.wavefront import F32, I32, Part

F64 = npt.NDArray[np.float64]
Vector = Sequence[float] | F64
WHITE = "white"
LARGEST_CELL = 0.055


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Triangles that share a texture.

    ``positions`` (n, 3) metres, Z up; ``normals`` (n, 3) unit; ``uvs`` (n, 2); ``triangles`` (m, 3);
    ``tint`` (n, 3) gamma-space colour factor; ``owner`` is the index of the scene object it belongs to;
    ``emission`` is linear light added to the baked light; ``two_sided`` pieces take the brighter side's light.
    """

    positions: F32
    normals: F32
    uvs: F32
    triangles: I32
    tint: F32
    texture: str = WHITE
    owner: int = 0
    emission: float = 0.0
    two_sided: bool = False
    casts: bool = True
    solid: bool = True


def piece_from_part(part: Part, turn: F64, shift: F64, *, texture: str, tint: Sequence[float], owner: int) -> Piece:
    """A furniture part turned by the rotation ``turn`` (3, 3) and moved by ``shift`` (3,) metres."""
    positions = (part.positions @ turn.T + shift).astype(np.float32)
    return Piece(
        positions=positions,
        normals=(part.normals @ turn.T).astype(np.float32),
        uvs=part.uvs,
        triangles=part.triangles,
        tint=np.tile(np.asarray(tint, np.float32), (len(positions), 1)),
        texture=texture,
        owner=owner,
        two_sided=True,
    )


def patch(
    origin: Vector,
    along: Vector,
    up: Vector,
    *,
    step: float,
    holes: Sequence[tuple[float, float, float, float]] = (),
    texture: str = WHITE,
    tint: Sequence[float] = (1.0, 1.0, 1.0),
    texture_size: tuple[float, float] = (1.0, 1.0),
    owner: int = 0,
    emission: float = 0.0,
) -> Piece:
    """A tessellated rectangle with rectangular holes; it faces ``along`` x ``up``.

    Args:
        origin: one corner (3,), metres.
        along: first edge (3,), metres.
        up: second edge (3,), metres.
        step: largest side of a cell, metres.
        holes: (u0, u1, v0, v1) in metres along the two edges.
        texture: name of the texture.
        tint: gamma-space factor of the texture.
        texture_size: metres that one repeat of the texture covers along the two edges.
        owner: index of the scene object.
        emission: linear light of its own.
    """
    o, a, b = (np.asarray(v, np.float64) for v in (origin, along, up))
    width, height = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    a, b = a / width, b / height
    us = _cuts(width, step, [u for h in holes for u in h[:2]])
    vs = _cuts(height, step, [v for h in holes for v in h[2:]])
    uu, vv = np.meshgrid(us, vs, indexing="ij")
    grid = np.arange(uu.size).reshape(uu.shape)
    p00, p10, p11, p01 = (g.ravel() for g in (grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]))
    cu = ((uu[:-1, :-1] + uu[1:, 1:]) / 2).ravel()
    cv = ((vv[:-1, :-1] + vv[1:, 1:]) / 2).ravel()
    keep = np.ones(len(p00), bool)
    for u0, u1, v0, v1 in holes:
        keep &= ~((cu > u0) & (cu < u1) & (cv > v0) & (cv < v1))
    pairs = np.concatenate([np.stack([p00, p10, p11], 1), np.stack([p00, p11, p01], 1)], 1)
    triangles = pairs[keep].reshape(-1, 3)
    positions = o + uu.reshape(-1, 1) * a + vv.reshape(-1, 1) * b
    used, compact = np.unique(triangles, return_inverse=True)
    uvs = np.stack([uu.ravel() / texture_size[0], vv.ravel() / texture_size[1]], 1)
    normal = np.cross(a, b)
    return Piece(
        positions=positions[used].astype(np.float32),
        normals=np.tile(normal.astype(np.float32), (len(used), 1)),
        uvs=uvs[used].astype(np.float32),
        triangles=compact.reshape(-1, 3).astype(np.int32),
        tint=np.tile(np.asarray(tint, np.float32), (len(used), 1)),
        texture=texture,
        owner=owner,
        emission=emission,
    )


def _cuts(length: float, step: float, extra: Sequence[float]) -> F64:
    marks = sorted({0.0, length, *(e for e in extra if 0 < e < length)})
    cuts = [0.0]
    for low, high in itertools.pairwise(marks):
        if high - low > 1e-6:
            cuts.extend(np.linspace(low, high, max(1, int(np.ceil((high - low) / step))) + 1)[1:])
    return np.asarray(cuts)


def box(
    low: Vector,
    high: Vector,
    *,
    texture: str = WHITE,
    tint: Sequence[float] = (1.0, 1.0, 1.0),
    texture_size: tuple[float, float] = (1.0, 1.0),
    owner: int = 0,
    step: float = 0.5,
    emission: float = 0.0,
) -> Piece:
    """An axis-aligned box from corner ``low`` (3,) to ``high`` (3,), metres, all six faces outwards."""
    lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
    faces = []
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        e_i, e_j = np.zeros(3), np.zeros(3)
        e_i[i], e_j[j] = hi[i] - lo[i], hi[j] - lo[j]
        if e_i[i] < 1e-6 or e_j[j] < 1e-6:
            continue
        top, bottom = lo.copy(), lo.copy()
        top[axis] = hi[axis]
        for origin, a, b in ((top, e_i, e_j), (bottom, e_j, e_i)):
            faces.append(
                patch(
                    origin,
                    a,
                    b,
                    step=step,
                    texture=texture,
                    tint=tint,
                    texture_size=texture_size,
                    owner=owner,
                    emission=emission,
                )
            )
    return merged(faces)


def merged(pieces: Sequence[Piece]) -> Piece:
    """One piece from several of the same texture and flags (those of the first)."""
    offset, triangles = 0, []
    for piece in pieces:
        triangles.append(piece.triangles + offset)
        offset += len(piece.positions)
    return replace(
        pieces[0],
        positions=np.concatenate([p.positions for p in pieces]),
        normals=np.concatenate([p.normals for p in pieces]),
        uvs=np.concatenate([p.uvs for p in pieces]),
        tint=np.concatenate([p.tint for p in pieces]),
        triangles=np.concatenate(triangles).astype(np.int32),
    )


def simplified(parts: Sequence[Part], limit: int) -> tuple[Part, ...]:
    """Merge near vertices (clusters of growing size) until the parts have at most ``limit`` triangles.

    Models come with up to twenty thousand triangles, far below a pixel at 96x160; the clusters stay under
    `LARGEST_CELL`, so a model that is still too heavy then is returned as it is at that size.
    """
    cell = 0.006
    result = tuple(parts)
    while sum(len(p.triangles) for p in result) > limit and cell < LARGEST_CELL:
        result = tuple(p for p in (_clustered(p, cell) for p in parts) if len(p.triangles))
        cell *= 1.4
    return result


def _clustered(part: Part, cell: float) -> Part:
    cells = np.floor((part.positions - part.positions.min(0)) / cell).astype(np.int64)
    keys = (cells[:, 0] << 36) | (cells[:, 1] << 24) | (cells[:, 2] << 12)
    if part.material.texture:
        tiles = np.floor(part.uvs * 4).astype(np.int64) & 63
        keys |= (tiles[:, 0] << 6) | tiles[:, 1]
    _, inverse, count = np.unique(keys, return_inverse=True, return_counts=True)

    def mean(values: F32) -> F64:
        columns = [np.bincount(inverse, values[:, k], len(count)) for k in range(values.shape[1])]
        return np.stack(columns, 1) / count[:, None]

    triangles = inverse[part.triangles]
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (a != c)]
    if len(triangles):
        low, middle, high = np.sort(triangles, axis=1).astype(np.int64).T
        _, first = np.unique((low << 40) | (middle << 20) | high, return_index=True)
        triangles = triangles[np.sort(first)]
    normals = mean(part.normals)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    return Part(
        positions=mean(part.positions).astype(np.float32),
        normals=normals.astype(np.float32),
        uvs=mean(part.uvs).astype(np.float32),
        triangles=triangles.astype(np.int32),
        material=part.material,
    )
