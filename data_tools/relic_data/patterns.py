"""Textures made from a seed: wallpapers, rugs, tiles, paintings and the landscape outside the windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from relic_data.assets import U8, texture

F64 = npt.NDArray[np.float64]
Rng = np.random.Generator
Colour = tuple[float, float, float]
SIZE = 256


def to_u8(image: F64) -> U8:
    """Image of floats 0 to 1 as uint8."""
    return np.asarray(np.clip(image * 255.0 + 0.5, 0, 255), np.uint8)


def _grid() -> tuple[F64, F64]:
    ys, xs = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    return xs, ys


def _mix(mask: F64, a: Colour, b: Colour) -> F64:
    m = np.clip(mask, 0, 1)[..., None]
    return np.asarray(np.asarray(a) * (1 - m) + np.asarray(b) * m)


def noise(rng: Rng, cells: int) -> F64:
    """Smooth tileable noise (256, 256) of mean 0 and standard deviation about 1."""
    small = rng.standard_normal((cells, cells))
    wrapped = np.pad(small, 2, mode="wrap")
    big = cv2.resize(wrapped, None, fx=SIZE / cells, fy=SIZE / cells, interpolation=cv2.INTER_CUBIC)
    edge = round(2 * SIZE / cells)
    return np.asarray(big[edge : edge + SIZE, edge : edge + SIZE], np.float64)


def _soft(wave: F64, sharp: float = 6.0) -> F64:
    return np.asarray(0.5 + 0.5 * np.tanh(sharp * wave))


def stripes(rng: Rng, a: Colour, b: Colour) -> U8:
    """Vertical stripes."""
    xs, _ = _grid()
    n = int(rng.integers(2, 5))
    return to_u8(_mix(_soft(np.sin(2 * np.pi * n * xs) - rng.uniform(-0.5, 0.5)), a, b))


def diamonds(rng: Rng, a: Colour, b: Colour) -> U8:
    """A lattice of diamonds."""
    xs, ys = _grid()
    n = int(rng.integers(2, 4))
    wave = np.cos(2 * np.pi * n * (xs + ys)) * np.cos(2 * np.pi * n * (xs - ys))
    return to_u8(_mix(_soft(wave - rng.uniform(-0.3, 0.3), 4.0), a, b))


def dots(rng: Rng, a: Colour, b: Colour) -> U8:
    """Round dots in offset rows."""
    xs, ys = _grid()
    n = int(rng.integers(3, 6))
    wave = np.cos(2 * np.pi * n * xs) + np.cos(2 * np.pi * n * ys)
    shifted = np.cos(2 * np.pi * n * xs + np.pi) + np.cos(2 * np.pi * n * ys + np.pi)
    return to_u8(_mix(_soft(np.maximum(wave, shifted) - 1.2), a, b))


def plaid(rng: Rng, a: Colour, b: Colour) -> U8:
    """Crossing bands of cloth."""
    xs, ys = _grid()
    n = int(rng.integers(2, 5))
    s = 0.5 * _soft(np.sin(2 * np.pi * n * xs) + 0.3) + 0.5 * _soft(np.sin(2 * np.pi * n * ys) + 0.3)
    return to_u8(_mix(s, a, b))


def leaves(rng: Rng, a: Colour, b: Colour) -> U8:
    """Scattered leaves, tileable."""
    image = np.tile(np.asarray(a, np.float64), (SIZE, SIZE, 1))
    for _ in range(int(rng.integers(14, 26))):
        centre, angle = rng.integers(0, SIZE, 2), rng.uniform(0, 360)
        size = int(rng.integers(14, 34))
        colour = np.clip(np.asarray(b) * rng.uniform(0.75, 1.2), 0, 1)
        for dx in (-SIZE, 0, SIZE):
            for dy in (-SIZE, 0, SIZE):
                at = (int(centre[0]) + dx, int(centre[1]) + dy)
                cv2.ellipse(image, at, (size, size // 3), angle, 0, 360, colour.tolist(), -1, cv2.LINE_AA)
    return to_u8(image)


def waves(rng: Rng, a: Colour, b: Colour) -> U8:
    """Wavy or zigzag bands."""
    xs, ys = _grid()
    n, m = int(rng.integers(3, 7)), int(rng.integers(2, 4))
    bend = np.abs(((xs * m) % 1) - 0.5) if rng.random() < 0.5 else 0.2 * np.sin(2 * np.pi * m * xs)
    return to_u8(_mix(_soft(np.sin(2 * np.pi * n * (ys + 0.7 * bend / m))), a, b))


WALLPAPERS: Sequence[Callable[[Rng, Colour, Colour], U8]] = (stripes, diamonds, dots, plaid, leaves, waves)


def checker(rng: Rng, a: Colour, b: Colour) -> U8:
    """Two-coloured floor tiles, 4 x 4, with slightly varying tiles and thin joints."""
    image = np.zeros((SIZE, SIZE, 3))
    side = SIZE // 4
    for i in range(4):
        for j in range(4):
            c = np.asarray(a if (i + j) % 2 else b) * rng.uniform(0.93, 1.05)
            image[i * side : (i + 1) * side, j * side : (j + 1) * side] = c
    for k in range(4):
        image[k * side : k * side + 3] = np.asarray(a) * 0.7
        image[:, k * side : k * side + 3] = np.asarray(a) * 0.7
    return to_u8(image * (1 + 0.03 * noise(rng, 16)[..., None]))


def parquet(rng: Rng, tint: Colour) -> U8:
    """Planks cut from the photographed wood, each its own shade."""
    wood = texture(("wood_1", "wood_2")[int(rng.integers(2))]).astype(np.float64) / 255
    wood = wood / wood.mean((0, 1))
    image = np.zeros((SIZE, SIZE, 3))
    rows = int(rng.choice([4, 6, 8]))
    edges = np.linspace(0, SIZE, rows + 1).astype(int)
    for low, high in itertools.pairwise(edges):
        cut, shift = int(rng.integers(0, SIZE)), rng.integers(0, SIZE, 2)
        for half in range(2):
            columns = (np.arange(SIZE // 2) + cut + half * SIZE // 2) % SIZE
            block = np.roll(wood, shift + half * 37, (0, 1))[: high - low, : SIZE // 2]
            image[low:high, columns] = block * np.asarray(tint) * rng.uniform(0.82, 1.14)
            image[low:high, columns[:2]] *= 0.72
        image[low : low + 2] *= 0.72
    return to_u8(image)


def carpet(rng: Rng, colour: Colour) -> U8:
    """A plain carpet with soft mottling."""
    mottling = 1 + 0.05 * noise(rng, 32) + 0.03 * noise(rng, 8) + 0.03 * rng.standard_normal((SIZE, SIZE))
    return to_u8(np.asarray(colour) * mottling[..., None])


def rug(rng: Rng, colours: Sequence[Colour]) -> U8:
    """A rug: borders round a patterned field. ``colours`` are at least three."""
    field = WALLPAPERS[int(rng.integers(len(WALLPAPERS)))](rng, colours[0], colours[1])
    image = field.astype(np.float64) / 255
    xs, ys = _grid()
    rim = np.minimum(np.minimum(xs, 1 - xs), np.minimum(ys, 1 - ys))
    image[rim < 0.13] = colours[2]
    image[rim < 0.09] = colours[1]
    image[rim < 0.05] = np.asarray(colours[0]) * 0.8
    if rng.random() < 0.4:
        ring = np.hypot(xs - 0.5, ys - 0.5)
        image[(ring < 0.26) & (ring > 0.2)] = colours[2]
        image[ring <= 0.2] = colours[1]
    return to_u8(image * (1 + 0.03 * rng.standard_normal((SIZE, SIZE, 1))))


def abstract(rng: Rng, colours: Sequence[Colour]) -> U8:
    """An abstract painting of 128 x 128: blocks, discs and lines."""
    image = np.tile(np.asarray(colours[0], np.float64), (128, 128, 1))
    style = int(rng.integers(3))
    for k in range(int(rng.integers(4, 9))):
        colour = np.asarray(colours[1 + k % (len(colours) - 1)]).tolist()
        a, b = (rng.integers(0, 128, 2).tolist() for _ in range(2))
        if style == 0:
            cv2.rectangle(image, a, b, colour, -1)
        elif style == 1:
            cv2.circle(image, a, int(rng.integers(8, 36)), colour, -1, cv2.LINE_AA)
        else:
            points = rng.integers(0, 128, (3, 2)).astype(np.int32)
            cv2.fillPoly(image, [points], colour, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 4))):
        a, b = (rng.integers(0, 128, 2).tolist() for _ in range(2))
        cv2.line(image, a, b, (0.1, 0.1, 0.12), int(rng.integers(2, 5)), cv2.LINE_AA)
    return to_u8(image)


def sky_colours(rng: Rng) -> tuple[Colour, Colour]:
    """Zenith and horizon colours of one of several kinds of day."""
    days = [
        ((0.36, 0.60, 0.90), (0.80, 0.90, 0.97)),
        ((0.45, 0.65, 0.85), (0.93, 0.93, 0.90)),
        ((0.62, 0.70, 0.78), (0.86, 0.88, 0.90)),
        ((0.42, 0.50, 0.80), (0.98, 0.80, 0.62)),
        ((0.30, 0.55, 0.85), (0.90, 0.88, 0.75)),
    ]
    return days[int(rng.integers(len(days)))]


def panorama(rng: Rng, *, city: bool) -> U8:
    """Landscape round the room, (128, 1024, 3): sky above, hills with trees or a skyline below the middle."""
    height, width = 128, 1024
    zenith, horizon = sky_colours(rng)
    v = np.linspace(0, 1, height)[:, None]
    image = _mix(np.repeat(np.clip(v / 0.62, 0, 1) ** 1.5, width, 1), zenith, horizon)
    cloud = np.tile(cv2.resize(noise(rng, 8), (width // 2, height)), (1, 2))
    image += (np.clip(cloud - 0.4, 0, 1) * (1 - v) * 0.5)[..., None] * (1 - image)
    angle = np.linspace(0, 2 * np.pi, width, endpoint=False)

    def ridge(base: float, size: float) -> F64:
        line = np.full(width, base)
        for f in range(1, 9):
            line += size / f * np.sin((f + (f % 3) * 3) * angle + rng.uniform(0, 6.28))
        return line

    rows = v * np.ones((1, width))
    far = np.array([0.45, 0.58, 0.66]) * rng.uniform(0.85, 1.1)
    near = np.array([0.28, 0.47, 0.20]) * rng.uniform(0.75, 1.25)
    for k, base in enumerate((0.54, 0.60, 0.67)):
        blend = k / 2
        colour = far * (1 - blend) + near * blend
        image[rows > ridge(base, 0.035)[None]] = colour
    if city:
        _skyline(rng, image)
    else:
        _trees(rng, image, near)
    return to_u8(image)


def _skyline(rng: Rng, image: F64) -> None:
    for _ in range(46):
        x, w = int(rng.integers(0, 1024)), int(rng.integers(14, 40))
        top = int(rng.integers(34, 74))
        wall = np.asarray([0.62, 0.55, 0.5]) * rng.uniform(0.6, 1.35) * rng.uniform(0.9, 1.1, 3)
        columns = (np.arange(x, x + w)) % 1024
        image[top:128, columns] = np.clip(wall, 0, 1)
        for row in range(top + 4, 124, 8):
            for column in range(3, w - 4, 7):
                image[row : row + 4, columns[column : column + 3]] = wall * rng.choice([0.55, 0.65, 1.3])


def _trees(rng: Rng, image: F64, near: F64) -> None:
    for _ in range(60):
        x, y, r = int(rng.integers(0, 1024)), int(rng.integers(76, 100)), int(rng.integers(6, 15))
        colour = np.clip(near * rng.uniform(0.5, 1.3) * rng.uniform(0.85, 1.15, 3), 0, 1)
        size = (r, int(r * rng.uniform(0.9, 1.6)))
        for dx in (-1024, 0, 1024):
            cv2.ellipse(image, (x + dx, y), size, 0, 0, 360, colour.tolist(), -1)
