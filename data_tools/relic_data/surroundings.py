"""What lies round a scene: the landscape or town seen from its windows, under a sky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from relic_data import patterns
from relic_data.mesh import F64, Piece
from relic_data.palette import Rng
from relic_data.scene import Scene

SKY_DISTANCE = 95.0
Indices = npt.NDArray[np.integer]


def add_surroundings(scene: Scene, rng: Rng, *, city: bool, ground: float) -> None:
    """The landscape outside: a far cylinder with a panorama, a cap of sky and a disc of ground.

    ``ground`` is the height of the ground outside in metres; ``city`` puts houses on the horizon.
    """
    index = scene.add_object("view outside", "sky", 0.3)
    image = patterns.panorama(rng, city=city)
    texture = scene.add_texture("panorama", image)
    plain = scene.add_texture("outside", np.full((4, 4, 3), 255, np.uint8))
    turns, radius = 64, SKY_DISTANCE
    angle = np.linspace(0, 2 * np.pi, turns + 1)
    low, high = -34.0, 62.0
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    positions = np.concatenate([np.column_stack([ring, np.full(turns + 1, z)]) for z in (low, high)])
    uvs = np.concatenate([np.column_stack([angle / (2 * np.pi), np.full(turns + 1, v)]) for v in (0.0, 1.0)])
    k = np.arange(turns)
    sides = np.concatenate([np.stack([k, k + 1, k + turns + 2], 1), np.stack([k, k + turns + 2, k + turns + 1], 1)])
    scene.pieces.append(_backdrop(positions, uvs, sides, (1, 1, 1), texture, index))
    top = (image[2].mean(0) / 255).tolist()
    below = (0.42, 0.42, 0.42) if city else (0.36, 0.5, 0.24)
    for z, tint in ((high, top), (ground, below)):
        centre = np.array([[0.0, 0.0, z]])
        disc = np.concatenate([centre, np.column_stack([ring, np.full(turns + 1, z)])])
        fan = np.stack([np.zeros(turns, int), k + 1, k + 2], 1)
        scene.pieces.append(_backdrop(disc, np.zeros((len(disc), 2)), fan, tint, plain, index))
    old = scene.objects[index]
    scene.objects[index] = replace(old, low=(-radius, -radius, low), high=(radius, radius, high))


def _backdrop(positions: F64, uvs: F64, triangles: Indices, tint: Sequence[float], texture: str, owner: int) -> Piece:
    return Piece(
        positions=positions.astype(np.float32),
        normals=np.tile(np.array([0, 0, 1], np.float32), (len(positions), 1)),
        uvs=uvs.astype(np.float32),
        triangles=np.asarray(triangles, np.int32),
        tint=np.tile(np.asarray(tint, np.float32), (len(positions), 1)),
        texture=texture,
        owner=owner,
        emission=1.0,
        casts=False,
        solid=False,
    )
