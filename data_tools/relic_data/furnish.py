"""Furniture arrangements: things against walls, groups in the middle, pictures, rugs and small things on tops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from relic_data import patterns
from relic_data.assets import FurnitureItem, portrait, portrait_names
from relic_data.mesh import F64, Piece, box, patch
from relic_data.palette import FABRICS, WOODS, Colour, Rng, pick, shade
from relic_data.scene import Floorplan, Light, Room, Scene, Wall, add_model, choose, footprint
from relic_data.shell import Opening, wall_box, wall_point


@dataclass(slots=True, kw_only=True)
class WallSpace:
    """A wall with its openings and the stretches already used: (u0, u1, height) in metres."""

    wall: Wall
    openings: tuple[Opening, ...]
    used: list[tuple[float, float, float]]

    def clear(self, u0: float, u1: float, v0: float, v1: float) -> bool:
        """Whether a rectangle on the wall meets no opening and nothing that stands before it."""
        if u0 < 0.05 or u1 > self.wall.length - 0.05:
            return False
        for o in self.openings:
            if u1 > o.u0 - 0.1 and u0 < o.u1 + 0.1 and v1 > o.v0 - 0.05 and v0 < o.v1 + 0.1:
                return False
        return all(u1 <= a or u0 >= b or v0 >= h + 0.08 for a, b, h in self.used)


@dataclass(slots=True, kw_only=True)
class Placer:
    """Places furniture in one room of a scene."""

    scene: Scene
    rng: Rng
    room: Room
    plan: Floorplan
    walls: list[WallSpace]

    def against_wall(
        self,
        role: str,
        *,
        space: WallSpace | None = None,
        at: float | None = None,
        tries: int = 30,
        item: FurnitureItem | None = None,
        gap: float = 0.02,
        paint: tuple[str, Colour] | None = None,
    ) -> tuple[WallSpace, float, FurnitureItem] | None:
        """Stand a model with its back to a wall; returns (wall, u of its centre, item), or None if none fits."""
        fixed = item
        for _ in range(tries):
            item = fixed or choose(self.rng, role)
            side = space or self.walls[int(self.rng.integers(len(self.walls)))]
            wall, width = side.wall, item.size[0]
            if width > wall.length - 0.1:
                continue
            u = at if at is not None else float(self.rng.uniform(width / 2 + 0.05, wall.length - width / 2 - 0.05))
            low_v, high_v = item.elevation, item.elevation + item.size[2]
            if not side.clear(u - width / 2, u + width / 2, low_v, high_v):
                continue
            centre = wall_point(wall, u, item.elevation, item.size[1] / 2 + gap)
            angle = float(np.arctan2(wall.inward[0], -wall.inward[1]))
            half = footprint(item, angle)
            if item.elevation < 1.0:
                if not self.plan.fits(centre[:2] - half + 0.01, centre[:2] + half - 0.01):
                    continue
                self.plan.occupy(centre[:2] - half, centre[:2] + half, 0.04)
            side.used.append((u - width / 2, u + width / 2, high_v))
            add_model(self.scene, self.rng, item, role, centre.tolist(), angle, paint=paint)
            return side, u, item
        return None

    def free_spot(self, half: F64, tries: int = 60, margin: float = 0.05) -> F64 | None:
        """Centre (2,) of a free rectangle of half sizes ``half`` (2,), or None."""
        rects = self.room.rects
        for _ in range(tries):
            x0, y0, x1, y1 = rects[int(self.rng.integers(len(rects)))]
            low, high = np.array([x0, y0]) + half + margin, np.array([x1, y1]) - half - margin
            if (low > high).any():
                continue
            spot = np.asarray(self.rng.uniform(low, high))
            if self.plan.fits(spot - half - margin, spot + half + margin):
                return spot
        return None

    def stand(
        self,
        role: str,
        spot: F64,
        angle: float,
        *,
        item: FurnitureItem | None = None,
        check: bool = True,
        paint: tuple[str, Colour] | None = None,
        height: float = 0.0,
        margin: float = 0.03,
    ) -> FurnitureItem | None:
        """Stand a model at ``spot`` (2,), turned by ``angle``; None where the place is taken."""
        item = item or choose(self.rng, role)
        half = footprint(item, angle)
        if check and not self.plan.fits(spot - half, spot + half):
            return None
        self.plan.occupy(spot - half, spot + half, margin)
        add_model(self.scene, self.rng, item, role, (float(spot[0]), float(spot[1]), height), angle, paint=paint)
        return item

    def on_top(self, role: str, of: FurnitureItem, centre: F64, angle: float, spread: float = 0.2) -> None:
        """Put a small thing on a table or cabinet."""
        top = of.top if of.top is not None else of.size[2]
        item = choose(self.rng, role)
        room_x, room_y = of.size[0] / 2 - item.size[0] / 2, of.size[1] / 2 - item.size[1] / 2
        if room_x < 0 or room_y < -0.05:
            return
        local = np.array(
            [self.rng.uniform(-1, 1) * min(room_x, spread), 0.3 * max(0.0, room_y) * self.rng.uniform(-1, 1)]
        )
        c, s = np.cos(angle), np.sin(angle)
        xy = centre[:2] + np.array([c * local[0] - s * local[1], s * local[0] + c * local[1]])
        add_model(self.scene, self.rng, item, role, (float(xy[0]), float(xy[1]), top + 0.002), angle)

    def row(self, space: WallSpace, roles: Sequence[str], start: float, gap: float = 0.0) -> float:
        """Stand models side by side along a wall from ``start`` metres; returns where the row ends."""
        u = start
        for role in roles:
            item = choose(self.rng, role)
            if self.against_wall(role, space=space, at=u + item.size[0] / 2, item=item, tries=1):
                u += item.size[0] + gap
        return u

    def rug(self, centre: F64, half: F64) -> None:
        """Lay a rug with its centre at (2,); clipped to nothing: callers keep it inside the room."""
        colours = [pick(self.rng, FABRICS)[1] for _ in range(3)]
        name, colours[0] = pick(self.rng, FABRICS)
        image = patterns.rug(self.rng, colours)
        index = self.scene.add_object(f"{name} patterned rug", "rug", 0.7)
        texture = self.scene.add_texture(f"rug{index}", image)
        low = (float(centre[0] - half[0]), float(centre[1] - half[1]), 0.0)
        high = (float(centre[0] + half[0]), float(centre[1] + half[1]), 0.014)
        size = (2 * float(half[0]), 2 * float(half[1]))
        top = box(low, high, texture=texture, texture_size=size, owner=index, step=0.2)
        self.scene.close_object(index, [_from_corner(top, low, size)])

    def pictures(self, count: int) -> None:
        """Hang up to ``count`` framed paintings on free wall."""
        placed = 0
        for _ in range(count * 8):
            if placed >= count:
                return
            space = self.walls[int(self.rng.integers(len(self.walls)))]
            placed += self._picture(space)

    def _picture(self, space: WallSpace) -> bool:
        rng = self.rng
        height = float(rng.uniform(0.5, 0.95))
        kind = rng.random()
        if kind < 0.5:
            names = portrait_names()
            image, aspect = portrait(names[int(rng.integers(len(names)))])
            phrase = "framed portrait"
        elif kind < 0.8:
            colours = [pick(rng, FABRICS)[1] for _ in range(5)]
            image, aspect, phrase = (
                patterns.abstract(rng, colours),
                float(rng.choice([0.75, 1.0, 1.4])),
                "abstract painting",
            )
        else:
            full = patterns.panorama(rng, city=bool(rng.random() < 0.4))
            start = int(rng.integers(0, 700))
            image, aspect, phrase = full[:, start : start + 190], 1.5, "landscape painting"
        width = height * aspect
        if width + 0.2 > space.wall.length:
            return False
        u = float(rng.uniform(width / 2 + 0.08, space.wall.length - width / 2 - 0.08))
        v = float(rng.uniform(1.45, 1.7))
        if not space.clear(u - width / 2 - 0.06, u + width / 2 + 0.06, v - height / 2 - 0.05, v + height / 2 + 0.05):
            return False
        space.used.append((u - width / 2 - 0.12, u + width / 2 + 0.12, 9.0))
        index = self.scene.add_object(phrase, "picture", 1.0)
        wood = pick(rng, WOODS)[1] if rng.random() < 0.6 else pick(rng, FABRICS)[1]
        frame = wall_box(
            space.wall,
            (u - width / 2 - 0.04, u + width / 2 + 0.04),
            (v - height / 2 - 0.04, v + height / 2 + 0.04),
            (0.0, 0.03),
            tint=shade(wood, 0.8),
            owner=index,
        )
        canvas = _canvas(
            space.wall,
            u - width / 2,
            v - height / 2,
            width,
            height,
            self.scene.add_texture(f"picture{index}", image),
            index,
        )
        self.scene.close_object(index, [frame, canvas])
        return True


def _from_corner(piece: Piece, low: Sequence[float], size: Sequence[float]) -> Piece:
    uvs = (piece.positions[:, :2] - np.asarray(low[:2])) / np.asarray(size)
    return replace(piece, uvs=uvs.astype(np.float32))


def _canvas(wall: Wall, u: float, v: float, width: float, height: float, texture: str, owner: int) -> Piece:
    corner = wall_point(wall, u, v, 0.038)
    return patch(
        corner,
        np.append(wall.along * width, 0.0),
        (0, 0, height),
        step=0.3,
        texture=texture,
        texture_size=(width, height),
        owner=owner,
    )


def ceiling_light(scene: Scene, rng: Rng, x: float, y: float, height: float, warm: float) -> None:
    """A hanging lamp or a flush disc under the ceiling, and the light it gives."""
    colour = np.array([1.0, 0.93, 0.82]) * (1 - warm) + np.array([1.0, 0.80, 0.55]) * warm
    r, g, b = (float(c) for c in colour * 2.2)
    if rng.random() < 0.45:
        item = choose(rng, "hanging_lamp")
        drop = min(item.size[2], 0.7)
        z = height - item.size[2]
        if z > 1.75:
            before = len(scene.pieces)
            add_model(scene, rng, item, "hanging_lamp", (x, y, z), float(rng.uniform(0, 6.28)), interest=0.6)
            for k in range(before, len(scene.pieces)):
                scene.pieces[k] = replace(scene.pieces[k], casts=False, emission=0.35)
            lamp_z = z + drop * 0.2
            _disc_light(scene, x, y, lamp_z, (r, g, b), 0.22)
            return
    index = scene.add_object("ceiling lamp", "ceiling_lamp", 0.3)
    shade_box = box(
        (x - 0.22, y - 0.22, height - 0.07), (x + 0.22, y + 0.22, height - 0.005), owner=index, emission=1.3
    )
    scene.close_object(index, [shade_box])
    _disc_light(scene, x, y, height - 0.1, (r, g, b), 0.3)


def _disc_light(scene: Scene, x: float, y: float, z: float, colour: tuple[float, float, float], radius: float) -> None:
    k = np.arange(14)
    ring = radius * np.sqrt((k + 0.5) / 14)
    angle = k * 2.399963
    points = np.stack([x + ring * np.cos(angle), y + ring * np.sin(angle), np.full(14, z)], 1)
    scene.lights.append(Light(points=points, colour=colour, area=1.0))
