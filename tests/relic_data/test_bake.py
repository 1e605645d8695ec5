from dataclasses import replace

import numpy as np
import pytest

from relic_data.mesh import box, patch
from relic_data.scene import Light, Scene

pytest.importorskip("embreex")

from relic_data.bake import bake, make_tracer


def table_under_a_lamp() -> Scene:
    scene = Scene(seed=0)
    scene.add_object("room", "shell", 0.0)
    scene.sky = (0.0, 0.0, 0.0)
    scene.pieces = [
        patch((-2, -2, 0), (4, 0, 0), (0, 4, 0), step=0.1, tint=(0.7, 0.7, 0.7)),
        box((-0.4, -0.4, 0.6), (0.4, 0.4, 0.7), tint=(0.9, 0.1, 0.1)),
    ]
    points = np.array([[x, y, 2.4] for x in (-0.1, 0.1) for y in (-0.1, 0.1)])
    scene.lights = [Light(points=points, colour=(5.0, 5.0, 5.0))]
    return scene


def at(scene, light, x, y):
    floor = scene.pieces[0].positions
    return light[0][np.argmin(np.hypot(floor[:, 0] - x, floor[:, 1] - y))]


def test_the_floor_is_dark_under_the_table_and_brightest_near_the_lamp():
    scene = table_under_a_lamp()
    light = bake(scene)
    under, beside, far = (at(scene, light, *xy).sum() for xy in ((0, 0), (0.9, 0), (1.9, 1.9)))
    assert under < 0.2 * beside
    assert far < beside


def test_a_red_table_top_throws_red_light_back():
    scene = table_under_a_lamp()
    scene.pieces.append(patch((-2, -2, 2.6), (0, 4, 0), (4, 0, 0), step=0.2))
    scene.lights = [replace(scene.lights[0], facing=(0.0, 0.0, -1.0))]
    light = bake(scene)[2]
    middle = np.argmin(np.hypot(*scene.pieces[2].positions[:, :2].T))
    assert light[middle][0] > 1.2 * light[middle][1] > 0


def test_light_is_the_same_every_time():
    first, second = bake(table_under_a_lamp()), bake(table_under_a_lamp())
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rays_know_how_far_and_whose_triangle():
    tracer = make_tracer(table_under_a_lamp())
    down, up = [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]
    origins = np.array([[0.0, 0, 2], [1, 1, 2], [0, 0, 3]])
    triangle, distance, _ = tracer.first(origins, np.array([down, down, up]))
    np.testing.assert_allclose(distance[:2], [1.3, 2.0], atol=1e-5)
    assert triangle[2] == -1
    blocked = tracer.blocked(np.array([[0.0, 0.0, 0.1]] * 2), np.array([up, up]), np.array([0.3, 1.0]))
    assert blocked.tolist() == [False, True]
