"""A scene: its pieces, textures, lights, objects and rooms, and the builder that rooms are put together with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from relic_data import furniture
from relic_data.assets import U8, FurnitureItem, catalogue, credit, load_model, model_texture
from relic_data.mesh import F64, WHITE, Piece, piece_from_part, simplified
from relic_data.palette import FABRICS, Colour, Rng, Surface, pick
from relic_data.wavefront import Part

CELL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """A thing with a name: ``phrase`` (without article) for captions, world bounds (metres), interest 0 to 1."""

    phrase: str
    role: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    interest: float
    credit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """An area light: sample ``points`` (n, 3), linear ``colour`` x intensity, facing (3,) or all round (None)."""

    points: F64
    colour: tuple[float, float, float]
    facing: tuple[float, float, float] | None = None
    area: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """A straight wall from ``start`` to ``end`` (x, y), the room to the right of start->end seen from above."""

    start: tuple[float, float]
    end: tuple[float, float]
    height: float
    room: int

    @property
    def length(self) -> float:
        """Metres."""
        return float(np.hypot(self.end[0] - self.start[0], self.end[1] - self.start[1]))

    @property
    def along(self) -> F64:
        """Unit vector (2,) from start to end."""
        return (np.asarray(self.end) - np.asarray(self.start)) / self.length

    @property
    def inward(self) -> F64:
        """Unit vector (2,) into the room."""
        a = self.along
        return np.array([a[1], -a[0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One room: its kind, covering rectangles (x0, y0, x1, y1), walls, height, and what it is made of."""

    kind: str
    rects: tuple[tuple[float, float, float, float], ...]
    walls: tuple[Wall, ...]
    height: float
    wall_phrase: str
    floor_phrase: str
    accent_phrase: str = ""


@dataclass(slots=True, kw_only=True)
class Scene:
    """A scene under construction, and complete when `relic_data.rooms.build_scene` returns it.

    ``brightness`` is the median luminance (0 to 1) that pictures of it should have; ``balance`` the linear
    colour factors of its white balance; ``sky`` the linear colour of light from outside, ``sun`` the unit
    direction towards the sun with its linear colour, for outdoor scenes; ``passage`` is the box (x0, y0, x1, y1,
    top) of the opening between two rooms.
    """

    seed: int
    outdoor: bool = False
    pieces: list[Piece] = field(default_factory=list)
    textures: dict[str, U8] = field(default_factory=dict)
    objects: list[SceneObject] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)
    rooms: list[Room] = field(default_factory=list)
    passage: tuple[float, float, float, float, float] | None = None
    brightness: float = 0.42
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sky: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sun: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None

    def add_object(self, phrase: str, role: str, interest: float, note: str = "") -> int:
        """Reserve an object index; its bounds are set by `close_object`."""
        nowhere = (0.0, 0.0, 0.0)
        self.objects.append(
            SceneObject(phrase=phrase, role=role, low=nowhere, high=nowhere, interest=interest, credit=note)
        )
        return len(self.objects) - 1

    def add_texture(self, name: str, image: U8) -> str:
        """Register a texture under ``name``; returns the name."""
        self.textures.setdefault(name, image)
        return name

    def close_object(self, index: int, pieces: Sequence[Piece]) -> None:
        """Add the pieces of object ``index`` and set its bounds from them."""
        self.pieces.extend(pieces)
        low = np.min([p.positions.min(0) for p in pieces], 0)
        high = np.max([p.positions.max(0) for p in pieces], 0)
        old = self.objects[index]
        self.objects[index] = SceneObject(
            phrase=old.phrase,
            role=old.role,
            low=(float(low[0]), float(low[1]), float(low[2])),
            high=(float(high[0]), float(high[1]), float(high[2])),
            interest=old.interest,
            credit=old.credit,
        )

    def surface_texture(self, surface: Surface) -> str:
        """Register the texture of a surface under a name that is unique to it."""
        return self.add_texture(f"surface{len(self.textures)}", surface.image)


class Floorplan:
    """Which floor cells (5 cm) are free; furniture is placed only on free cells."""

    def __init__(self, rooms: Sequence[Room]) -> None:
        rects = np.asarray([r for room in rooms for r in room.rects])
        self.origin = rects[:, :2].min(0) - 0.5
        shape = np.ceil((rects[:, 2:].max(0) + 0.5 - self.origin) / CELL).astype(int)
        self.free = np.zeros(shape, bool)
        for rect in rects:
            self.free[self._window(rect[:2], rect[2:])] = True

    def _window(self, low: F64, high: F64) -> tuple[slice, slice]:
        a = np.floor((low - self.origin) / CELL + 0.5).astype(int)
        b = np.ceil((high - self.origin) / CELL - 0.5).astype(int)
        a = np.clip(a, 0, self.free.shape)
        b = np.clip(b, 0, self.free.shape)
        return slice(int(a[0]), int(b[0])), slice(int(a[1]), int(b[1]))

    def fits(self, low: F64, high: F64) -> bool:
        """Whether the rectangle from ``low`` (2,) to ``high`` (2,) is free."""
        window = self.free[self._window(low, high)]
        return bool(window.size and window.all())

    def occupy(self, low: F64, high: F64, margin: float = 0.0) -> None:
        """Mark the rectangle, grown by ``margin`` metres, as taken."""
        self.free[self._window(np.asarray(low) - margin, np.asarray(high) + margin)] = False


def quarter_turn(angle: float) -> F64:
    """Rotation (3, 3) about the vertical by ``angle`` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def footprint(item: FurnitureItem, angle: float, scale: float = 1.0) -> F64:
    """Half sizes (2,) in metres of the model's axis-aligned footprint when turned by ``angle``."""
    w, d = item.size[0] * scale / 2, item.size[1] * scale / 2
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    return np.array([w * c + d * s, w * s + d * c])


def choose(rng: Rng, role: str) -> FurnitureItem:
    """One of the models that can play ``role``."""
    keys = furniture.ROLES[role]
    return catalogue()[keys[int(rng.integers(len(keys)))]]


def _recoloured(colour: Colour, textured: bool, paint: Colour | None) -> Colour:
    if paint is None:
        return colour
    luminance = float(np.dot(colour, (0.3, 0.59, 0.11)))
    spread = max(colour) - min(colour)
    if textured:
        c = np.asarray(paint) ** 0.6
        return (float(c[0]), float(c[1]), float(c[2]))
    if luminance < 0.25 or spread > 0.35:
        return colour
    gain = min(1.15, 0.45 + 0.7 * luminance)
    r, g, b = (min(1.0, p * gain) for p in paint)
    return (r, g, b)


@functools.cache
def _light_parts(key: str, limit: int) -> tuple[Part, ...]:
    return simplified(load_model(key).parts, limit)


def add_model(
    scene: Scene,
    rng: Rng,
    item: FurnitureItem,
    role: str,
    at: Sequence[float],
    angle: float,
    *,
    paint: tuple[str, Colour] | None = None,
    interest: float = 1.0,
    scale: float = 1.0,
) -> int:
    """Put a furniture model into the scene at ``at`` (3,) (its base centre), turned by ``angle`` radians.

    ``paint`` recolours its plain parts and enters its phrase. Returns the object's index.
    """
    if paint is None and role in furniture.UPHOLSTERED | furniture.PAINTABLE and rng.random() < 0.55:
        paint = pick(rng, FABRICS)
    noun = furniture.phrase_of(item.name)
    index = scene.add_object(f"{paint[0]} {noun}" if paint else noun, role, interest, credit(item))
    limit = furniture.TRIANGLE_LIMITS.get(role, furniture.DEFAULT_LIMIT)
    turn, shift = quarter_turn(angle), np.asarray(at, np.float64)
    pieces = []
    for part in _light_parts(item.key, limit):
        name = WHITE
        if part.material.texture:
            image = model_texture(item.archive, part.material.texture)
            if image is not None:
                name = scene.add_texture(f"{item.archive.stem}:{part.material.texture}", image)
        tint = _recoloured(part.material.colour, name != WHITE, paint[1] if paint else None)
        # nothing real is blacker than this, and pure black hides the shape
        floor_level = [max(0.12, min(1.0, c)) for c in tint]
        pieces.append(piece_from_part(part, turn * scale, shift, texture=name, tint=floor_level, owner=index))
    scene.close_object(index, pieces)
    return index
