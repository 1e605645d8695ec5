"""Whole scenes from a seed: the plan, the finishes, the furniture of each kind of room, and the light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relic_data import patterns
from relic_data.furnish import Placer, WallSpace, ceiling_light
from relic_data.garden import build_garden
from relic_data.groups import FURNISHERS
from relic_data.palette import PAINTS, Colour, Rng, Surface, accent_wall, floor, grey_texture, painted_wall, pick, shade
from relic_data.plans import THICKNESS, Outline, Passage, sample_openings, sample_outlines, sample_passage
from relic_data.scene import Floorplan, Room, Scene, Wall
from relic_data.shell import (
    Opening,
    add_curtains,
    add_door,
    add_passage,
    add_skirting,
    add_wall,
    add_window,
    floor_and_ceiling,
)
from relic_data.surroundings import add_surroundings

KINDS = ("living room", "bedroom", "kitchen", "study", "dining room", "gallery", "workshop", "hall")


def scene_rng(seed: int, scene: int, stream: int) -> Rng:
    """Random numbers of one stream of one scene, independent of every other scene and stream."""
    return np.random.default_rng(np.random.SeedSequence((seed, scene, stream)))


def build_scene(seed: int, scene: int, variant: int = 0) -> Scene:
    """The scene number ``scene`` of the data set with this ``seed``: geometry, textures and lights, not yet lit.

    ``variant`` above 0 gives another scene in its place, for those that are too cramped to move in.

    Raises:
        relic_data.assets.AssetError: furniture or textures are not installed.
    """
    rng = scene_rng(seed, scene, 0 if variant == 0 else 1_000_000 + variant)
    built = Scene(seed=seed)
    built.brightness = float(rng.uniform(0.40, 0.50))
    warmth = float(rng.uniform(-1, 1))
    built.balance = (1.0 + 0.05 * warmth, 1.0, 1.0 - 0.06 * warmth)
    if rng.random() < 0.12:
        build_garden(built, rng)
        return built
    city = bool(rng.random() < 0.35)
    zenith, horizon = patterns.sky_colours(rng)
    tone = np.asarray(horizon) * 0.5 + np.asarray(zenith) * 0.5
    r, g, b = (float(c) for c in tone / tone.mean() * rng.uniform(1.6, 3.2))
    built.sky = (r, g, b)
    built.add_object("room", "shell", 0.0)
    _interiors(built, rng)
    add_surroundings(built, rng, city=city, ground=-12.0 if city else -0.3)
    return built


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """The finishes of one room."""

    paint: Surface
    ground: Surface
    frame: Colour
    height: float


def _interiors(scene: Scene, rng: Rng) -> None:
    outlines, height = sample_outlines(rng)
    kinds = rng.permutation(len(KINDS))
    frame = (0.94, 0.93, 0.90) if rng.random() < 0.6 else pick(rng, PAINTS)[1]
    passage = sample_passage(rng, outlines, height)
    spaces, styles = [], []
    for index, outline in enumerate(outlines):
        kind = KINDS[int(kinds[index])]
        paint = painted_wall(rng)
        ground = floor(rng, tiles=kind in ("kitchen", "hall", "workshop"))
        style = _Style(paint=paint, ground=ground, frame=frame, height=height)
        room, around = _room(scene, rng, kind, outline, style, passage)
        scene.rooms.append(room)
        spaces.append(around)
        styles.append(style)
    if passage:
        scene.passage = passage.box
        space, opening = next((s, o) for s in spaces[0] for o in s.openings if o.kind == "passage")
        add_passage(scene, space.wall, opening, THICKNESS, styles[0].paint, styles[0].ground)
    plan = Floorplan(scene.rooms)
    _keep_clear(plan, spaces)
    for room, around in zip(scene.rooms, spaces, strict=True):
        placer = Placer(scene=scene, rng=rng, room=room, plan=plan, walls=around)
        FURNISHERS[room.kind](placer)
        placer.pictures(int(rng.integers(2, 5)) + (4 if room.kind == "gallery" else 0))


def _room(
    scene: Scene, rng: Rng, kind: str, outline: Outline, style: _Style, passage: Passage | None
) -> tuple[Room, list[WallSpace]]:
    ceiling_tint = (0.95, 0.94, 0.92) if rng.random() < 0.75 else shade(style.paint.tint, 2.2)
    ceiling = Surface(phrase="ceiling", image=grey_texture("drywall_1"), tint=ceiling_tint, size=(2.0, 2.0))
    accent = accent_wall(rng, style.paint.tint) if rng.random() < 0.7 else None
    walls = outline.walls(style.height, len(scene.rooms))
    accent_at = int(rng.integers(len(walls)))
    room = Room(
        kind=kind,
        rects=outline.rects,
        walls=tuple(walls),
        height=style.height,
        wall_phrase=style.paint.phrase,
        floor_phrase=style.ground.phrase,
        accent_phrase=accent.phrase if accent else "",
    )
    floor_and_ceiling(scene, room, style.ground, ceiling, 0)
    openings = sample_openings(rng, walls, passage)
    spaces = []
    for k, wall in enumerate(walls):
        surface = accent if accent and k == accent_at else style.paint
        spaces.append(_wall(scene, rng, wall, surface, openings[k], style.frame))
    warm = float(rng.uniform(0, 1))
    for x0, y0, x1, y1 in room.rects:
        ceiling_light(scene, rng, (x0 + x1) / 2, (y0 + y1) / 2, style.height, warm)
    return room, spaces


def _wall(
    scene: Scene, rng: Rng, wall: Wall, surface: Surface, openings: tuple[Opening, ...], frame: Colour
) -> WallSpace:
    owner = scene.add_object(surface.phrase, "wall", surface.interest) if surface.interest else 0
    add_wall(scene, wall, surface, openings, owner)
    add_skirting(scene, wall, openings, frame, 0)
    for opening in openings:
        if opening.kind == "window":
            add_window(scene, rng, wall, opening, frame)
            if rng.random() < 0.55:
                add_curtains(scene, rng, wall, opening)
        elif opening.kind == "door":
            add_door(scene, rng, wall, opening, frame)
    return WallSpace(wall=wall, openings=openings, used=[])


def _keep_clear(plan: Floorplan, spaces: list[list[WallSpace]]) -> None:
    """Leave room to walk before doors and passages."""
    for space in (s for group in spaces for s in group):
        for o in space.openings:
            if o.kind in ("door", "passage"):
                wall = space.wall
                a = np.asarray(wall.start) + wall.along * (o.u0 - 0.05)
                b = np.asarray(wall.start) + wall.along * (o.u1 + 0.05) + wall.inward * 0.8
                plan.occupy(np.minimum(a, b), np.maximum(a, b))
