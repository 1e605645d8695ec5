"""What stands in which kind of room: the furnishing of each of the eight indoor kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from relic_data.assets import FurnitureItem
from relic_data.furnish import Placer, WallSpace
from relic_data.mesh import F64
from relic_data.palette import FABRICS, pick
from relic_data.scene import add_model, choose, footprint

TURNS = (0.0, np.pi / 2, np.pi, -np.pi / 2)


def _wall_angle(space: WallSpace) -> float:
    return float(np.arctan2(space.wall.inward[0], -space.wall.inward[1]))


def _top_of(p: Placer, found: tuple[WallSpace, float, FurnitureItem] | None, role: str) -> None:
    if found:
        space, u, item = found
        xy = np.asarray(space.wall.start) + space.wall.along * u + space.wall.inward * (item.size[1] / 2 + 0.02)
        p.on_top(role, item, xy, _wall_angle(space), spread=item.size[0] / 3)


def _fillers(p: Placer, roles: tuple[str, ...], count: int) -> None:
    """Stand ``count`` more things at the walls and in corners."""
    for k in range(count):
        role = roles[(k + int(p.rng.integers(len(roles)))) % len(roles)]
        found = p.against_wall(role, tries=20)
        if found and role in ("cabinet", "tv_stand", "dresser") and p.rng.random() < 0.8:
            _top_of(p, found, ("small_plant", "vase", "table_lamp", "tv")[int(p.rng.integers(4))])


def _set_table(p: Placer, table_role: str, chair_role: str, on_top: str) -> bool:
    """A table with chairs round it, somewhere free."""
    rng = p.rng
    table = choose(rng, table_role)
    angle = float(TURNS[int(rng.integers(2))])
    half = footprint(table, angle)
    spot = p.free_spot(half + 0.55, margin=0.0)
    if spot is None:
        spot = p.free_spot(half + 0.3, margin=0.0)
    if spot is None:
        return False
    if rng.random() < 0.55:
        p.rug(spot, half + 0.35)
    p.stand(table_role, spot, angle, item=table, check=False, margin=0.0)
    p.on_top(on_top, table, spot, angle)
    chair = choose(rng, chair_role)
    paint = pick(rng, FABRICS) if rng.random() < 0.6 else None
    sides = [(0, -1, np.pi), (0, 1, 0.0), (-1, 0, np.pi / 2), (1, 0, -np.pi / 2)]
    for dx, dy, turn in sides:
        reach = half + chair.size[1] / 2 - 0.12
        places = [0.0]
        length = half[0] if dy else half[1]
        if length > 0.7:
            places = [-length / 2, length / 2]
        for shift in places:
            at = (
                spot + np.array([dx * reach[0], dy * reach[1]]) + (np.array([shift, 0]) if dy else np.array([0, shift]))
            )
            wobble = float(rng.uniform(-0.2, 0.2))
            # a chair's back is away from the table
            p.stand(chair_role, at, turn + wobble, item=chair, check=False, paint=paint)
    return True


def living_room(p: Placer) -> None:
    """Sofa with coffee table and rug, television, armchairs, shelves, plants."""
    rng = p.rng
    found = p.against_wall("sofa")
    if found:
        space, u, sofa = found
        front = sofa.size[1] + 0.02
        base = np.asarray(space.wall.start) + space.wall.along * u
        table = choose(rng, "coffee_table")
        spot = base + space.wall.inward * (front + 0.35 + table.size[1] / 2)
        angle = _wall_angle(space)
        half = footprint(table, angle)
        if p.plan.fits(spot - half, spot + half):
            wide = footprint(sofa, angle) * 0.2 + half + 0.3
            if p.plan.fits(spot - half - 0.2, spot + half + 0.2):
                p.rug(spot, np.minimum(wide, half + 0.5))
            p.stand("coffee_table", spot, angle, item=table)
            p.on_top("table_small", table, spot, angle)
    stand = p.against_wall("tv_stand")
    _top_of(p, stand, "tv")
    if rng.random() < 0.4:
        p.against_wall("fireplace")
    if rng.random() < 0.2:
        p.against_wall("piano")
    for _ in range(int(rng.integers(1, 3))):
        p.against_wall("armchair")
    _fillers(p, ("shelf", "plant", "cabinet", "floor_lamp", "plant", "shelf"), 8)


def bedroom(p: Placer) -> None:
    """A bed with bedside tables and lamps, wardrobe, dresser, rug."""
    rng = p.rng
    found = p.against_wall("bed", tries=60)
    if found:
        space, u, bed = found
        for side in (-1, 1):
            item = choose(rng, "bedside")
            at = u + side * (bed.size[0] / 2 + item.size[0] / 2 + 0.06)
            table = p.against_wall("bedside", space=space, at=at, item=item, tries=1)
            _top_of(p, table, "table_lamp")
        front = np.asarray(space.wall.start) + space.wall.along * u + space.wall.inward * (bed.size[1] + 0.65)
        half = np.array([0.85, 0.5]) if abs(space.wall.along[0]) > 0.5 else np.array([0.5, 0.85])
        if p.plan.fits(front - half, front + half):
            p.rug(front, half)
    p.against_wall("wardrobe")
    dresser = p.against_wall("dresser")
    _top_of(p, dresser, "vase")
    _fillers(p, ("armchair", "plant", "shelf", "cabinet", "floor_lamp", "screen", "desk"), 8)


def kitchen(p: Placer) -> None:
    """A row of cabinets with sink and uppers, fridge, island or table with stools."""
    rng = p.rng
    order = sorted(p.walls, key=lambda s: (any(o.kind != "window" for o in s.openings), -s.wall.length))
    space = order[0]
    suffix = "_b" if rng.random() < 0.4 else ""
    low = f"kitchen_low{suffix}"
    roles = ["fridge", low, low, f"kitchen_sink{suffix}", low, "washer", low]
    end = p.row(space, roles, 0.1)
    u = 1.15
    while u < end - 0.7:
        item = choose(rng, f"kitchen_upper{suffix}")
        p.against_wall("kitchen_upper", space=space, at=u + item.size[0] / 2, item=item, tries=1)
        u += item.size[0] + (0.0 if rng.random() < 0.8 else 0.6)
    for _ in range(4):
        item = choose(rng, "kitchen_small")
        at = float(rng.uniform(1.2, max(1.4, end - 0.5)))
        centre = np.asarray(space.wall.start) + space.wall.along * at + space.wall.inward * 0.36
        _small_at(p, item, centre, 0.885, _wall_angle(space))
    if rng.random() < 0.4:
        island = choose(rng, "island")
        angle = _wall_angle(space)
        spot = p.free_spot(footprint(island, angle) + 0.5)
        if spot is not None:
            p.stand("island", spot, angle, item=island)
            p.on_top("kitchen_small", island, spot, angle)
            away = spot + space.wall.inward * (footprint(island, angle).min() + 0.3)
            p.stand("bar_stool", away, angle)
    else:
        _set_table(p, "dining_table", "chair", "table_small")
    _fillers(p, ("shelf", "plant", "cabinet", "bench"), 4)


def _small_at(p: Placer, item: FurnitureItem, centre: F64, height: float, angle: float) -> None:
    add_model(p.scene, p.rng, item, "kitchen_small", (float(centre[0]), float(centre[1]), height), angle)


def study(p: Placer) -> None:
    """A desk with computer and chair, shelves full of books, an armchair to read in."""
    rng = p.rng
    found = p.against_wall("desk", tries=60)
    if found:
        space, u, desk = found
        _top_of(p, found, "computer")
        if rng.random() < 0.7:
            _top_of(p, found, "table_lamp")
        angle = _wall_angle(space)
        seat = np.asarray(space.wall.start) + space.wall.along * u + space.wall.inward * (desk.size[1] + 0.3)
        p.stand("office_chair", seat, angle + np.pi + float(rng.uniform(-0.5, 0.5)), check=False)
    for _ in range(2):
        p.against_wall("shelf")
    p.against_wall("armchair")
    spot = p.free_spot(np.array([0.9, 0.7]))
    if spot is not None and rng.random() < 0.7:
        p.rug(spot, np.array([0.85, 0.6]))
    _fillers(p, ("shelf", "plant", "cabinet", "floor_lamp", "hobby", "sofa"), 8)


def dining_room(p: Placer) -> None:
    """A laid table with chairs, sideboards, plants."""
    _set_table(p, "dining_table", "chair", "table_small")
    if p.rng.random() < 0.3:
        p.against_wall("fireplace")
    if p.rng.random() < 0.25:
        p.against_wall("piano")
    _fillers(p, ("cabinet", "shelf", "plant", "armchair", "floor_lamp", "cabinet", "bench"), 8)


def gallery(p: Placer) -> None:
    """Paintings, benches, sculptures in the open."""
    rng = p.rng
    p.pictures(6)
    for role in ("bench", "hobby", "vase", "plant"):
        item = choose(rng, role)
        spot = p.free_spot(footprint(item, 0.0) + 0.35)
        if spot is not None:
            p.stand(role, spot, float(TURNS[int(rng.integers(4))]), item=item, check=False)
    _fillers(p, ("plant", "bench", "screen", "armchair", "hobby", "piano"), 7)


def workshop(p: Placer) -> None:
    """Workbenches, barrels, crates and tools."""
    p.against_wall("workshop_bench", tries=50)
    _fillers(p, ("workshop", "shelf", "workshop", "hobby", "cabinet"), 8)
    for _ in range(2):
        item = choose(p.rng, "workshop")
        spot = p.free_spot(footprint(item, 0.0) + 0.3)
        if spot is not None:
            p.stand("workshop", spot, float(p.rng.uniform(-0.4, 0.4)), item=item, check=False)


def hall(p: Placer) -> None:
    """Benches, cabinets, plants, a rug in the middle."""
    spot = p.free_spot(np.array([1.1, 0.8]))
    if spot is not None:
        p.rug(spot, np.array([1.1, 0.75]))
    _fillers(p, ("cabinet", "plant", "bench", "armchair", "shelf", "hobby", "screen", "sofa"), 8)
    _set_table(p, "coffee_table", "armchair", "vase")


FURNISHERS: Mapping[str, Callable[[Placer], None]] = MappingProxyType(
    {
        "living room": living_room,
        "bedroom": bedroom,
        "kitchen": kitchen,
        "study": study,
        "dining room": dining_room,
        "gallery": gallery,
        "workshop": workshop,
        "hall": hall,
    }
)
