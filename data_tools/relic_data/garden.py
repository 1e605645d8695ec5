"""Outdoor scenes: a walled garden or patio under an open sky."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from relic_data import palette, patterns
from relic_data.assets import texture
from relic_data.furnish import Placer, WallSpace
from relic_data.mesh import F64, Piece, box, merged
from relic_data.palette import PAINTS, WOODS, Rng, Surface, pick, shade
from relic_data.scene import Floorplan, Room, Scene, Wall, choose
from relic_data.shell import Opening, add_door, add_wall, floor_and_ceiling, wall_box
from relic_data.surroundings import add_surroundings


def _ground(rng: Rng) -> Surface:
    kind = int(rng.integers(5))
    if kind < 2:
        return Surface(
            phrase="a lawn",
            image=texture(("grass_1", "grass_2")[kind]),
            tint=((1.0, 1.0, 0.95), (1.0, 1.0, 1.0))[kind],
            size=(1.8, 1.8),
        )
    if kind == 2:
        return Surface(phrase="stone paving", image=texture("concrete_tiles_1"), tint=(1.0, 0.94, 0.82), size=(2, 2))
    if kind == 3:
        name, colour = pick(rng, WOODS)
        return Surface(phrase=f"a deck of {name}", image=patterns.parquet(rng, colour), tint=(1, 1, 1), size=(1.5, 1.5))
    name, colour = pick(rng, PAINTS)
    return Surface(
        phrase=f"{name} and white paving",
        image=patterns.checker(rng, (0.9, 0.88, 0.84), colour),
        tint=(1, 1, 1),
        size=(2.4, 2.4),
    )


def _fence(rng: Rng) -> tuple[Surface, float]:
    kind = int(rng.integers(4))
    if kind == 0:
        return Surface(
            phrase="a brick wall", image=texture("brick_wall_1"), tint=(1, 1, 1), size=(2, 2), interest=0.2
        ), 1.9
    if kind == 1:
        name, colour = pick(rng, PAINTS)
        wood = palette.grey_texture("wood_planks_1")
        return Surface(phrase=f"a {name} wooden fence", image=wood, tint=colour, size=(1.4, 1.4), interest=0.2), 1.5
    if kind == 2:
        return Surface(
            phrase="a stone wall", image=texture("rock_1"), tint=(1.0, 0.96, 0.88), size=(2, 2), interest=0.2
        ), 1.2
    name, colour = pick(rng, PAINTS)
    return Surface(
        phrase=f"a {name} garden wall",
        image=palette.grey_texture("stucco_1"),
        tint=colour,
        size=(1.5, 1.5),
        interest=0.2,
    ), 1.8


def build_garden(scene: Scene, rng: Rng) -> None:
    """Turn ``scene`` into a garden: ground, fences, a house wall, furniture, trees, sun and sky."""
    scene.outdoor = True
    scene.add_object("garden", "shell", 0.0)
    width, depth = rng.uniform(5.5, 7.5, 2)
    ground = _ground(rng)
    fence, height = _fence(rng)
    rects = ((0.0, 0.0, float(width), float(depth)),)
    corners = [(0.0, 0.0), (0.0, depth), (width, depth), (width, 0.0)]
    walls = [
        Wall(start=a, end=b, height=height if k else 3.0, room=0)
        for k, (a, b) in enumerate(zip(corners, [*corners[1:], corners[0]], strict=True))
    ]
    azimuth, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.1)
    direction = (float(np.cos(azimuth) * np.cos(rise)), float(np.sin(azimuth) * np.cos(rise)), float(np.sin(rise)))
    warm = rng.uniform(0.75, 0.95)
    scene.sun = (direction, (2.2, 2.2 * float(warm + 0.04), 2.2 * float(warm - 0.12)))
    scene.sky = (0.75, 0.85, 1.0)
    house = palette.painted_wall(rng)
    room = Room(
        kind="garden",
        rects=rects,
        walls=tuple(walls),
        height=3.0,
        wall_phrase=fence.phrase,
        floor_phrase=ground.phrase,
        accent_phrase=f"a house front with {house.phrase}",
    )
    scene.rooms = [room]
    floor_and_ceiling(scene, room, ground, None, 0, step=0.16)
    spaces = _enclosure(scene, rng, walls, house, fence)
    plan = Floorplan([room])
    _furniture(Placer(scene=scene, rng=rng, room=room, plan=plan, walls=spaces))
    add_surroundings(scene, rng, city=bool(rng.random() < 0.25), ground=-0.05)


def _enclosure(scene: Scene, rng: Rng, walls: list[Wall], house: Surface, fence: Surface) -> list[WallSpace]:
    spaces = []
    fence_owner = scene.add_object(fence.phrase, "wall", 0.3)
    house_owner = scene.add_object("house front", "wall", 0.4)
    trim = (0.95, 0.94, 0.91)
    for k, wall in enumerate(walls):
        openings: tuple[Opening, ...] = ()
        if k == 0:
            openings = (
                Opening(kind="door", u0=0.8, u1=1.7, v0=0.0, v1=2.05),
                Opening(kind="window", u0=2.6, u1=min(4.4, wall.length - 0.4), v0=0.9, v1=2.1),
            )
        # only the openings' own furniture is drawn: a garden's windows are not holes
        solid = tuple(o for o in openings if o.kind == "door")
        add_wall(scene, wall, house if k == 0 else fence, solid, house_owner if k == 0 else fence_owner)
        cap = shade(fence.tint, 0.8) if k else trim
        scene.pieces.append(
            wall_box(
                wall,
                (-0.05, wall.length + 0.05),
                (wall.height, wall.height + 0.06),
                (-0.12, 0.05),
                tint=cap,
                owner=fence_owner,
            )
        )
        for o in openings:
            if o.kind == "door":
                add_door(scene, rng, wall, o, trim)
            else:
                pane = scene.add_object("window", "window", 0.5)
                glass = wall_box(wall, (o.u0, o.u1), (o.v0, o.v1), (0.0, 0.01), tint=(0.35, 0.45, 0.55), owner=pane)
                bars = [
                    wall_box(wall, (u - 0.035, u + 0.035), (o.v0, o.v1), (0.0, 0.05), tint=trim, owner=pane)
                    for u in (o.u0, (o.u0 + o.u1) / 2, o.u1)
                ]
                rails = [
                    wall_box(
                        wall, (o.u0 - 0.03, o.u1 + 0.03), (v - 0.035, v + 0.035), (0.0, 0.055), tint=trim, owner=pane
                    )
                    for v in (o.v0, o.v1)
                ]
                scene.close_object(pane, [glass, *bars, *rails])
        spaces.append(WallSpace(wall=wall, openings=openings, used=[]))
    return spaces


def _furniture(p: Placer) -> None:
    rng = p.rng
    for space in p.walls[1:]:
        if rng.random() < 0.5:
            count = int(rng.integers(1, 3))
            for _ in range(count):
                p.against_wall("hedge", space=space, gap=0.1)
    seat = choose(rng, "garden_table")
    spot = p.free_spot(np.array([1.2, 1.2]))
    if spot is not None:
        p.stand("garden_table", spot, 0.0, item=seat, check=False)
        p.on_top("table_small", seat, spot, 0.0)
        for turn in (0.0, np.pi, np.pi / 2, -np.pi / 2):
            side = np.array([-np.sin(turn), np.cos(turn)]) * (max(seat.size[:2]) / 2 + 0.5)
            if rng.random() < 0.7:
                p.stand("garden_seat", spot + side, float(turn + rng.uniform(-0.3, 0.3)))
    for role, count in (("garden_big", 1), ("garden_seat", 2), ("garden_thing", 5), ("plant", 2)):
        for _ in range(count):
            item = choose(rng, role)
            if max(item.size[:2]) > 3.4:
                continue
            half = np.array([1.0, 1.0]) * np.hypot(item.size[0], item.size[1]) / 2
            place = p.free_spot(half * 0.9)
            if place is not None:
                p.stand(role, place, float(rng.uniform(0, 6.28)), item=item, check=False)
    _trees(p)


def _trees(p: Placer) -> None:
    """Round trees of leaf-coloured blobs behind the fence, so that the horizon is alive."""
    rng = p.rng
    x1, y1 = p.room.rects[0][2:]
    for _ in range(7):
        angle = rng.uniform(0, 2 * np.pi)
        reach = rng.uniform(1.6, 4.5)
        x = x1 / 2 + np.cos(angle) * (x1 / 2 + reach)
        y = y1 / 2 + np.sin(angle) * (y1 / 2 + reach)
        if x < 0.8 and -0.5 < y < y1 + 0.5:
            continue
        _blob_tree(p.scene, rng, float(x), float(y))


def _blob_tree(scene: Scene, rng: Rng, x: float, y: float) -> None:
    index = scene.add_object("tree", "tree", 0.8)
    bark = tuple(float(c) for c in np.array([0.42, 0.32, 0.24]) * rng.uniform(0.8, 1.2))
    height = float(rng.uniform(1.4, 2.2))
    trunk = box((x - 0.1, y - 0.1, -0.1), (x + 0.1, y + 0.1, height), tint=bark, owner=index, step=0.8)
    leaf = np.array([0.34, 0.56, 0.24]) * rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15, 3)
    name = scene.add_texture("foliage", patterns.leaves(rng, (0.62, 0.68, 0.55), (1.0, 1.0, 0.9)))
    crowns = []
    for _ in range(4):
        at = np.array([x, y, height + 0.5]) + rng.uniform(-0.55, 0.55, 3)
        crowns.append(_blob(rng, at, float(rng.uniform(0.6, 1.0)), np.clip(leaf * rng.uniform(0.9, 1.1), 0, 1), index))
    crown = replace(merged(crowns), texture=name)
    scene.close_object(index, [trunk, crown])


def _blob(rng: Rng, at: F64, radius: float, colour: F64, owner: int) -> Piece:
    rows, columns = 7, 12
    theta = np.linspace(0, np.pi, rows)
    phi = np.linspace(0, 2 * np.pi, columns + 1)
    t, f = np.meshgrid(theta, phi, indexing="ij")
    unit = np.stack([np.sin(t) * np.cos(f), np.sin(t) * np.sin(f), np.cos(t)], -1).reshape(-1, 3)
    bumps = 1 + 0.12 * np.sin(unit @ rng.uniform(-6, 6, 3)) + 0.08 * np.sin(unit @ rng.uniform(-9, 9, 3))
    grid = np.arange(rows * (columns + 1)).reshape(rows, columns + 1)
    a, b, c, d = (g.ravel() for g in (grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]))
    uvs = np.stack([f.ravel() / np.pi, t.ravel() / np.pi], 1)
    return Piece(
        positions=(at + unit * bumps[:, None] * radius).astype(np.float32),
        normals=unit.astype(np.float32),
        uvs=uvs.astype(np.float32),
        triangles=np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32),
        tint=np.tile(np.asarray(colour, np.float32), (len(unit), 1)),
        owner=owner,
    )
