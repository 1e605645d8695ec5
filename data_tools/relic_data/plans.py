"""Floor plans: one room, an L, or two rooms joined by a passage; and where their doors and windows are."""

from __future__ import annotations

from dataclasses import dataclass

from relic_data.palette import Rng
from relic_data.scene import Wall
from relic_data.shell import Opening

THICKNESS = 0.16

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A room seen from above: rectangles (x0, y0, x1, y1) that cover it, and its corners, clockwise."""

    rects: tuple[Rectangle, ...]
    corners: tuple[Point, ...]

    def walls(self, height: float, room: int) -> list[Wall]:
        """The walls between the corners."""
        ends = [*self.corners[1:], self.corners[0]]
        return [Wall(start=a, end=b, height=height, room=room) for a, b in zip(self.corners, ends, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """An opening between two rooms: the x of the left room's wall, y0 to y1, and its top, metres."""

    x: float
    y0: float
    y1: float
    top: float

    @property
    def box(self) -> tuple[float, float, float, float, float]:
        """(x0, y0, x1, y1, top)."""
        return (self.x, self.y0, self.x + THICKNESS, self.y1, self.top)


def sample_outlines(rng: Rng) -> tuple[list[Outline], float]:
    """One or two rooms, and their height in metres."""
    width, depth = rng.uniform(3.7, 5.2, 2)
    height = float(rng.uniform(2.45, 3.0))
    shape = rng.random()
    if shape < 0.5:
        return [_rectangle(0.0, 0.0, width, depth)], height
    if shape < 0.75:
        width, depth = width + 0.6, depth + 0.6
        cx, cy = width * rng.uniform(0.5, 0.65), depth * rng.uniform(0.5, 0.65)
        rects = ((0.0, 0.0, width, cy), (0.0, cy, cx, depth))
        corners = ((0.0, 0.0), (0.0, depth), (cx, depth), (cx, cy), (width, cy), (width, 0.0))
        return [Outline(rects=rects, corners=corners)], height
    width, depth = min(width, 4.6), min(depth, 4.6)
    second_w, second_d = rng.uniform(3.0, 4.2, 2)
    low = float(rng.uniform(-0.4, max(0.0, depth - second_d) + 0.4))
    x = width + THICKNESS
    return [_rectangle(0.0, 0.0, width, depth), _rectangle(x, low, x + second_w, low + second_d)], height


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> Outline:
    return Outline(rects=((x0, y0, x1, y1),), corners=((x0, y0), (x0, y1), (x1, y1), (x1, y0)))


def sample_passage(rng: Rng, outlines: list[Outline], height: float) -> Passage | None:
    """The passage between two rooms; None where there is only one."""
    if len(outlines) < 2:
        return None
    (_, a0, x, a1), (_, b0, _, b1) = outlines[0].rects[0], outlines[1].rects[0]
    low, high = max(a0, b0) + 0.25, min(a1, b1) - 0.25
    width = min(float(rng.uniform(1.1, 2.0)), high - low)
    y0 = float(rng.uniform(low, high - width))
    return Passage(x=x, y0=y0, y1=y0 + width, top=min(height - 0.15, float(rng.uniform(2.1, 2.5))))


def sample_openings(rng: Rng, walls: list[Wall], passage: Passage | None) -> list[tuple[Opening, ...]]:
    """Doors, windows and passages of each wall."""
    kinds = ["window", "door", "window"] if rng.random() < 0.6 else ["window", "door"]
    if passage:
        kinds = ["window", "none", "window"] if rng.random() < 0.5 else ["window", "door"]
    found: list[tuple[Opening, ...]] = [()] * len(walls)
    for k in rng.permutation(len(walls)):
        found[int(k)] = _openings(rng, walls[int(k)], passage, kinds)
    return found


def _openings(rng: Rng, wall: Wall, passage: Passage | None, kinds: list[str]) -> tuple[Opening, ...]:
    if passage:
        for side in (passage.x, passage.x + THICKNESS):
            if abs(wall.start[0] - side) < 1e-6 and abs(wall.end[0] - side) < 1e-6:
                a, b = abs(passage.y0 - wall.start[1]), abs(passage.y1 - wall.start[1])
                return (Opening(kind="passage", u0=min(a, b), u1=max(a, b), v0=0.0, v1=passage.top),)
    if wall.length < 1.7 or not kinds:
        return ()
    kind = kinds.pop()
    if kind == "door":
        u0 = float(rng.choice([0.25, wall.length - 1.15]))
        return (Opening(kind="door", u0=u0, u1=u0 + 0.88, v0=0.0, v1=2.05),)
    if kind == "window":
        tall = rng.random() < 0.25
        width = float(rng.uniform(1.0, min(2.4, wall.length - 0.6)))
        u0 = float(rng.uniform(0.3, wall.length - width - 0.3))
        v0 = 0.12 if tall else float(rng.uniform(0.75, 1.0))
        return (Opening(kind="window", u0=u0, u1=u0 + width, v0=v0, v1=float(rng.uniform(2.0, 2.25))),)
    return ()
