"""The shell of a room: floor, ceiling, walls with their openings, skirting, windows, doors and curtains."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from relic_data.mesh import F64, Piece, box, merged, patch
from relic_data.palette import FABRICS, PAINTS, Colour, Rng, Surface, pick
from relic_data.scene import Light, Room, Scene, Wall

STEP = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A hole in a wall: metres along it (u0, u1) and up (v0, v1); ``kind`` is window, door or passage."""

    kind: str
    u0: float
    u1: float
    v0: float
    v1: float


def floor_and_ceiling(
    scene: Scene, room: Room, floor: Surface, ceiling: Surface | None, owner: int, *, step: float = STEP
) -> None:
    """Add the floor (z = 0) and the ceiling of every rectangle of ``room``."""
    floor_texture = scene.surface_texture(floor)
    ceiling_texture = scene.surface_texture(ceiling) if ceiling else ""
    for x0, y0, x1, y1 in room.rects:
        ground = patch(
            (x0, y0, 0),
            (x1 - x0, 0, 0),
            (0, y1 - y0, 0),
            step=step,
            texture=floor_texture,
            tint=floor.tint,
            texture_size=floor.size,
            owner=owner,
        )
        # one texture frame for all rectangles, so that the pattern runs on
        uvs = ground.positions[:, :2] / np.asarray(floor.size, np.float32)
        scene.pieces.append(replace(ground, uvs=uvs.astype(np.float32)))
        if ceiling:
            scene.pieces.append(
                patch(
                    (x0, y0, room.height),
                    (0, y1 - y0, 0),
                    (x1 - x0, 0, 0),
                    step=0.3,
                    texture=ceiling_texture,
                    tint=ceiling.tint,
                    texture_size=ceiling.size,
                    owner=owner,
                )
            )


def wall_point(wall: Wall, u: float, v: float, out: float = 0.0) -> F64:
    """World point (3,) at ``u`` metres along the wall, ``v`` up and ``out`` metres into the room."""
    xy = np.asarray(wall.start) + wall.along * u + wall.inward * out
    return np.array([xy[0], xy[1], v])


def add_wall(scene: Scene, wall: Wall, surface: Surface, openings: Sequence[Opening], owner: int) -> None:
    """Add the wall's face with its holes."""
    along = np.append(wall.along * wall.length, 0.0)
    holes = [(o.u0, o.u1, o.v0, o.v1) for o in openings if o.kind != "door"]
    scene.pieces.append(
        patch(
            wall_point(wall, 0, 0),
            along,
            (0, 0, wall.height),
            step=STEP,
            holes=holes,
            texture=scene.surface_texture(surface),
            tint=surface.tint,
            texture_size=surface.size,
            owner=owner,
        )
    )


def wall_box(
    wall: Wall,
    u: tuple[float, float],
    v: tuple[float, float],
    out: tuple[float, float],
    *,
    tint: Colour,
    owner: int = 0,
    texture: str = "white",
    texture_size: tuple[float, float] = (1.0, 1.0),
    step: float = 0.6,
) -> Piece:
    """A box given in wall coordinates: along, up and into the room, metres. Walls run along x or y."""
    a, b = wall_point(wall, u[0], v[0], out[0]), wall_point(wall, u[1], v[1], out[1])
    return box(
        np.minimum(a, b),
        np.maximum(a, b),
        tint=tint,
        owner=owner,
        texture=texture,
        texture_size=texture_size,
        step=step,
    )


def add_skirting(scene: Scene, wall: Wall, openings: Sequence[Opening], tint: Colour, owner: int) -> None:
    """Skirting boards, 8 cm high, left out at doors and passages."""
    cuts = sorted((o.u0 - 0.06, o.u1 + 0.06) for o in openings if o.v0 < 0.05)
    start = 0.0
    for low, high in [*cuts, (wall.length, wall.length)]:
        if low - start > 0.05:
            scene.pieces.append(
                wall_box(wall, (start, low), (0.0, 0.08), (0.0, 0.015), tint=tint, owner=owner, step=0.3)
            )
        start = high


def add_window(scene: Scene, rng: Rng, wall: Wall, opening: Opening, frame: Colour) -> None:
    """Frame, glazing bars, sill and reveal of a window, and the light that comes in through it."""
    index = scene.add_object("window", "window", 0.8)
    u0, u1, v0, v1 = opening.u0, opening.u1, opening.v0, opening.v1
    pieces = []
    depth = (-0.14, 0.0)
    for u, v in (
        ((u0 - 0.001, u0 + 0.02), (v0, v1)),
        ((u1 - 0.02, u1 + 0.001), (v0, v1)),
        ((u0, u1), (v0 - 0.001, v0 + 0.02)),
        ((u0, u1), (v1 - 0.02, v1 + 0.001)),
    ):
        pieces.append(wall_box(wall, u, v, depth, tint=frame, owner=index, step=0.3))
    for u, v in (
        ((u0, u0 + 0.06), (v0, v1)),
        ((u1 - 0.06, u1), (v0, v1)),
        ((u0, u1), (v0, v0 + 0.06)),
        ((u0, u1), (v1 - 0.06, v1)),
    ):
        pieces.append(wall_box(wall, u, v, (-0.11, -0.06), tint=frame, owner=index, step=0.3))
    bars = max(1, round((u1 - u0) / 0.75))
    for k in range(1, bars):
        at = u0 + (u1 - u0) * k / bars
        pieces.append(wall_box(wall, (at - 0.025, at + 0.025), (v0, v1), (-0.1, -0.07), tint=frame, owner=index))
    if rng.random() < 0.4:
        at = v0 + (v1 - v0) * 0.5
        pieces.append(wall_box(wall, (u0, u1), (at - 0.02, at + 0.02), (-0.1, -0.07), tint=frame, owner=index))
    pieces.append(wall_box(wall, (u0 - 0.08, u1 + 0.08), (v0 - 0.05, v0), (0.0, 0.12), tint=frame, owner=index))
    scene.close_object(index, [merged(pieces)])
    us = u0 + (u1 - u0) * (np.arange(5) + 0.5) / 5
    vs = v0 + (v1 - v0) * (np.arange(4) + 0.5) / 4
    points = np.array([wall_point(wall, u, v, -0.16) for u in us for v in vs])
    inward = wall.inward
    scene.lights.append(
        Light(
            points=points,
            colour=scene.sky,
            facing=(float(inward[0]), float(inward[1]), -0.25),
            area=(u1 - u0) * (v1 - v0),
        )
    )


def add_curtains(scene: Scene, rng: Rng, wall: Wall, opening: Opening) -> None:
    """A pair of wavy curtains beside a window, with a rail."""
    name, colour = pick(rng, FABRICS)
    index = scene.add_object(f"{name} curtains", "curtains", 0.8)
    top, bottom = min(wall.height - 0.08, opening.v1 + 0.18), 0.04 if rng.random() < 0.6 else opening.v0 - 0.2
    width = float(rng.uniform(0.3, 0.5))
    pieces = []
    for low, high in ((opening.u0 - width, opening.u0 + 0.08), (opening.u1 - 0.08, opening.u1 + width)):
        low, high = max(0.05, low), min(wall.length - 0.05, high)
        pieces.append(_pleated(colour, index, wall, (low, high), (bottom, top)))
    pieces.append(
        wall_box(
            wall,
            (opening.u0 - width - 0.05, opening.u1 + width + 0.05),
            (top, top + 0.03),
            (0.04, 0.07),
            tint=(0.3, 0.27, 0.25),
            owner=index,
        )
    )
    scene.close_object(index, pieces)


def _pleated(colour: Colour, owner: int, wall: Wall, u: tuple[float, float], v: tuple[float, float]) -> Piece:
    rows = np.linspace(v[0], v[1], 9)
    us = np.linspace(u[0], u[1], max(9, int((u[1] - u[0]) / 0.03)))
    phase = us * 2 * np.pi / 0.12
    wave, slope = 0.06 + 0.025 * np.sin(phase), 0.025 * 2 * np.pi / 0.12 * np.cos(phase)
    grid = np.arange(len(us) * len(rows)).reshape(len(us), len(rows))
    positions = np.array([wall_point(wall, x, y, w) for x, w in zip(us, wave, strict=True) for y in rows])
    across = wall.inward[None] - wall.along[None] * slope[:, None]
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    normals = np.repeat(np.concatenate([across, np.zeros((len(us), 1))], 1), len(rows), 0)
    a, b, c, d = grid[:-1, :-1].ravel(), grid[1:, :-1].ravel(), grid[1:, 1:].ravel(), grid[:-1, 1:].ravel()
    return Piece(
        positions=positions.astype(np.float32),
        normals=normals.astype(np.float32),
        uvs=np.zeros((len(positions), 2), np.float32),
        triangles=np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32),
        tint=np.tile(np.asarray(colour, np.float32), (len(positions), 1)),
        owner=owner,
        two_sided=True,
    )


def add_door(scene: Scene, rng: Rng, wall: Wall, opening: Opening, frame: Colour) -> None:
    """A closed panelled door with its frame and handle."""
    name, colour = pick(rng, PAINTS if rng.random() < 0.6 else FABRICS)
    index = scene.add_object(f"{name} door", "door", 0.7)
    u0, u1, v1 = opening.u0, opening.u1, opening.v1
    pieces = [
        wall_box(wall, (u0 - 0.08, u0), (0.0, v1 + 0.08), (0.0, 0.04), tint=frame, owner=index),
        wall_box(wall, (u1, u1 + 0.08), (0.0, v1 + 0.08), (0.0, 0.04), tint=frame, owner=index),
        wall_box(wall, (u0, u1), (v1, v1 + 0.08), (0.0, 0.04), tint=frame, owner=index),
        wall_box(wall, (u0, u1), (0.0, v1), (0.0, 0.02), tint=colour, owner=index, step=0.3),
    ]
    dark = (colour[0] * 0.88, colour[1] * 0.88, colour[2] * 0.88)
    for v_low, v_high in ((0.15, 0.85), (1.05, v1 - 0.15)):
        for side in (0, 1):
            low = u0 + 0.1 + side * (u1 - u0 - 0.1) / 2
            high = low + (u1 - u0 - 0.3) / 2
            pieces.append(wall_box(wall, (low, high), (v_low, v_high), (0.02, 0.03), tint=dark, owner=index))
    pieces.append(
        wall_box(wall, (u1 - 0.14, u1 - 0.06), (0.98, 1.02), (0.02, 0.07), tint=(0.85, 0.75, 0.4), owner=index)
    )
    scene.close_object(index, [merged(pieces)])


def add_passage(scene: Scene, wall: Wall, opening: Opening, depth: float, surface: Surface, floor: Surface) -> None:
    """Sides, top and floor of an open passage through a wall of thickness ``depth`` metres."""
    texture, ground = scene.surface_texture(surface), scene.surface_texture(floor)
    a, up = wall.along, np.array([0.0, 0.0, 1.0])
    out = np.append(-wall.inward * depth, 0.0)
    width = np.append(a * (opening.u1 - opening.u0), 0.0)
    face = functools.partial(patch, step=STEP, texture=texture, tint=surface.tint, texture_size=surface.size)
    left, right = wall_point(wall, opening.u0, 0), wall_point(wall, opening.u1, 0)
    high = up * opening.v1
    scene.pieces.append(face(left, out, high))
    scene.pieces.append(face(right + out, -out, high))
    scene.pieces.append(face(left + high + out, width, -out))
    scene.pieces.append(patch(left, width, out, step=STEP, texture=ground, tint=floor.tint, texture_size=floor.size))
