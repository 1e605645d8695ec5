"""Colours with names, and the choice of paints, floors and fabrics that makes one room unlike another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relic_data import patterns
from relic_data.assets import U8, texture

Colour = tuple[float, float, float]
Rng = np.random.Generator

PAINTS: dict[str, Colour] = {
    "white": (0.93, 0.92, 0.90), "cream": (0.95, 0.90, 0.78), "warm grey": (0.76, 0.73, 0.69),
    "pale blue": (0.68, 0.80, 0.90), "sky blue": (0.45, 0.68, 0.87), "navy": (0.22, 0.30, 0.50),
    "teal": (0.22, 0.55, 0.56), "mint green": (0.66, 0.86, 0.74), "sage green": (0.62, 0.70, 0.55),
    "olive": (0.56, 0.57, 0.32), "forest green": (0.24, 0.45, 0.32), "lemon yellow": (0.96, 0.89, 0.50),
    "mustard": (0.85, 0.67, 0.26), "peach": (0.97, 0.78, 0.64), "terracotta": (0.80, 0.47, 0.34),
    "brick red": (0.68, 0.30, 0.26), "rose": (0.90, 0.64, 0.67), "lilac": (0.77, 0.70, 0.88),
    "plum": (0.48, 0.30, 0.46), "turquoise": (0.38, 0.76, 0.75), "coral": (0.93, 0.53, 0.45),
    "sand": (0.86, 0.76, 0.60), "lavender": (0.70, 0.68, 0.90), "orange": (0.93, 0.60, 0.28),
}  # fmt: skip

FABRICS: dict[str, Colour] = {
    "red": (0.78, 0.20, 0.20), "orange": (0.92, 0.52, 0.18), "yellow": (0.94, 0.80, 0.28),
    "green": (0.30, 0.58, 0.30), "teal": (0.16, 0.52, 0.54), "blue": (0.24, 0.42, 0.76),
    "navy": (0.20, 0.26, 0.48), "purple": (0.50, 0.30, 0.62), "pink": (0.90, 0.55, 0.66),
    "white": (0.93, 0.92, 0.89), "grey": (0.58, 0.58, 0.60), "beige": (0.84, 0.76, 0.62),
    "brown": (0.52, 0.36, 0.24), "turquoise": (0.32, 0.72, 0.72), "lime": (0.66, 0.78, 0.30),
    "charcoal": (0.30, 0.31, 0.34), "burgundy": (0.52, 0.16, 0.24), "cream": (0.94, 0.89, 0.76),
}  # fmt: skip

WOODS: dict[str, Colour] = {
    "pale oak": (0.80, 0.68, 0.50), "oak": (0.70, 0.53, 0.34), "walnut": (0.47, 0.33, 0.22),
    "honey-coloured wood": (0.82, 0.58, 0.30), "cherry wood": (0.66, 0.38, 0.25),
    "grey-washed wood": (0.66, 0.63, 0.58), "dark wood": (0.36, 0.26, 0.20),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """A finish: ``phrase`` for captions, texture (256, 256, 3), gamma-space tint, metres a repeat, interest."""

    phrase: str
    image: U8
    tint: Colour
    size: tuple[float, float]
    interest: float = 0.0


def pick(rng: Rng, table: dict[str, Colour]) -> tuple[str, Colour]:
    """A named colour, slightly varied."""
    names = list(table)
    name = names[int(rng.integers(len(names)))]
    r, g, b = np.clip(np.asarray(table[name]) * rng.uniform(0.93, 1.05) + rng.uniform(-0.02, 0.02, 3), 0.05, 1.0)
    return name, (float(r), float(g), float(b))


def shade(colour: Colour, factor: float) -> Colour:
    """``colour`` darker (factor < 1) or lighter, towards white (factor > 1)."""
    c = np.asarray(colour)
    out = c * factor if factor <= 1 else 1 - (1 - c) / factor
    return (float(out[0]), float(out[1]), float(out[2]))


def grey_texture(name: str) -> U8:
    """MiniWorld texture as grey relief of mean near white: for painting over."""
    relief = texture(name).astype(np.float64).mean(2)
    relief = 0.95 + (relief / relief.mean() - 1.0) * 0.8
    return patterns.to_u8(np.repeat(relief[..., None], 3, 2))


def painted_wall(rng: Rng) -> Surface:
    """A painted wall: smooth, stucco, or visible blockwork."""
    name, colour = pick(rng, PAINTS)
    kind = rng.random()
    if kind < 0.75:
        relief, phrase, size = ("drywall_1", "stucco_1")[int(rng.integers(2))], f"{name} walls", 1.5
    elif kind < 0.9:
        relief, phrase, size = "brick_wall_1", f"{name}-painted brick walls", 1.6
        return Surface(phrase=phrase, image=grey_texture(relief), tint=colour, size=(size, size), interest=0.1)
    else:
        relief, phrase, size = "wood_planks_1", f"{name} wooden panelling", 1.3
        return Surface(phrase=phrase, image=grey_texture(relief), tint=colour, size=(size, size), interest=0.1)
    return Surface(phrase=phrase, image=grey_texture(relief), tint=colour, size=(size, size))


def accent_wall(rng: Rng, base: Colour) -> Surface:
    """A wall unlike the others: wallpaper, bare brick, stone, wood or a strong colour."""
    kind = rng.random()
    if kind < 0.55:
        name, colour = pick(rng, PAINTS)
        second = shade(colour, rng.uniform(0.65, 0.85)) if rng.random() < 0.6 else base
        maker = patterns.WALLPAPERS[int(rng.integers(len(patterns.WALLPAPERS)))]
        words = {
            "stripes": "striped",
            "diamonds": "diamond-patterned",
            "dots": "dotted",
            "plaid": "plaid",
            "leaves": "leaf-patterned",
            "waves": "wave-patterned",
        }
        size = float(rng.uniform(1.0, 1.7))
        phrase = f"{words[maker.__name__]} {name} wallpaper"
        return Surface(
            phrase=phrase, image=maker(rng, colour, second), tint=(1, 1, 1), size=(size, size), interest=0.25
        )
    if kind < 0.75:
        return Surface(
            phrase="a bare brick wall",
            image=texture("brick_wall_1"),
            tint=(1.0, 1.0, 1.0),
            size=(2.0, 2.0),
            interest=0.25,
        )
    if kind < 0.85:
        return Surface(
            phrase="a stone wall", image=texture("rock_1"), tint=(1.0, 0.97, 0.9), size=(1.8, 1.8), interest=0.25
        )
    if kind < 0.93:
        return Surface(
            phrase="a wood-panelled wall",
            image=texture("wood_planks_1"),
            tint=(1.0, 0.95, 0.9),
            size=(1.4, 1.4),
            interest=0.25,
        )
    name, colour = pick(rng, FABRICS)
    return Surface(
        phrase=f"a {name} accent wall", image=grey_texture("drywall_1"), tint=colour, size=(1.5, 1.5), interest=0.1
    )


def floor(rng: Rng, *, tiles: bool) -> Surface:
    """A floor: parquet, planks, tiles, stone or carpet. ``tiles`` makes hard floors likelier."""
    kind = rng.random() * (0.62 if not tiles else 1.0) + (0.38 if tiles else 0.0)
    if kind > 1.0:
        kind -= 0.6
    if kind < 0.40:
        name, colour = pick(rng, WOODS)
        size = float(rng.uniform(1.2, 1.8))
        return Surface(phrase=f"{name} parquet", image=patterns.parquet(rng, colour), tint=(1, 1, 1), size=(size, size))
    if kind < 0.50:
        name, colour = pick(rng, FABRICS)
        return Surface(
            phrase=f"{name} carpet", image=patterns.carpet(rng, shade(colour, 0.95)), tint=(1, 1, 1), size=(1.5, 1.5)
        )
    if kind < 0.58:
        return Surface(
            phrase="wooden floorboards", image=texture("wood_planks_1"), tint=(1.0, 0.97, 0.93), size=(1.6, 1.6)
        )
    if kind < 0.78:
        name, colour = pick(rng, PAINTS)
        light = (0.92, 0.91, 0.87)
        return Surface(
            phrase=f"chequered {name} tiles",
            image=patterns.checker(rng, light, colour),
            tint=(1, 1, 1),
            size=(1.6, 1.6),
            interest=0.1,
        )
    if kind < 0.88:
        return Surface(
            phrase="black and white tiles", image=texture("floor_tiles_bw_1"), tint=(1, 1, 1), size=(2, 2), interest=0.1
        )
    name, colour = pick(rng, PAINTS)
    if kind < 0.94:
        return Surface(
            phrase=f"{name} stone tiles", image=texture("concrete_tiles_1"), tint=shade(colour, 1.4), size=(1.6, 1.6)
        )
    return Surface(phrase="marble", image=texture("marble_1"), tint=shade(colour, 1.6), size=(1.5, 1.5))
