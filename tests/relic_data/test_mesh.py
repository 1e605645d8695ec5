import numpy as np
import pytest

from relic_data.mesh import box, patch, simplified
from relic_data.wavefront import Material, Part


def triangle_areas(piece):
    corners = piece.positions[piece.triangles].astype(float)
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2


def test_a_wall_with_a_hole_has_the_area_of_the_rest():
    wall = patch((0, 0, 0), (4, 0, 0), (0, 0, 2.5), step=0.2, holes=[(1, 2, 0.8, 2)])
    assert triangle_areas(wall).sum() == pytest.approx(4 * 2.5 - 1.2, abs=1e-4)
    assert triangle_areas(wall).max() <= 0.2 * 0.2 / 2 + 1e-6
    inside = (wall.positions[:, 0] > 1.01) & (wall.positions[:, 0] < 1.99)
    inside &= (wall.positions[:, 2] > 0.81) & (wall.positions[:, 2] < 1.99)
    assert not inside.any()


def test_a_patch_faces_along_times_up_and_repeats_its_texture_by_metres():
    wall = patch((0, 0, 0), (3, 0, 0), (0, 2, 0), step=1, texture_size=(1.5, 0.5))
    np.testing.assert_array_equal(wall.normals[0], [0, 0, 1])
    assert wall.uvs.max(0).tolist() == [2.0, 4.0]


def test_a_box_faces_outwards_everywhere():
    cube = box((0, 0, 0), (1, 2, 3))
    out = cube.positions - np.array([0.5, 1.0, 1.5])
    assert (np.einsum("ij,ij->i", out, cube.normals) > 0).all()
    corners = cube.positions[cube.triangles]
    winding = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("ij,ij->i", winding, cube.normals[cube.triangles[:, 0]]) > 0).all()
    assert triangle_areas(cube).sum() == pytest.approx(22, abs=1e-3)


def test_simplifying_keeps_the_shape_and_the_limit():
    n = 60
    u, v = np.meshgrid(np.linspace(0, np.pi, n), np.linspace(0, 2 * np.pi, n), indexing="ij")
    ball = np.stack([np.sin(u) * np.cos(v), np.sin(u) * np.sin(v), np.cos(u)], -1).reshape(-1, 3) * 0.3
    grid = np.arange(n * n).reshape(n, n)
    a, b, c, d = (g.ravel() for g in (grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)
    part = Part(
        positions=ball.astype(np.float32),
        normals=(ball / 0.3).astype(np.float32),
        uvs=np.zeros((n * n, 2), np.float32),
        triangles=triangles,
        material=Material(),
    )
    (light,) = simplified([part], 1500)
    assert 200 < len(light.triangles) <= 1500
    assert np.abs(np.linalg.norm(light.positions, axis=1) - 0.3).max() < 0.02
    assert simplified([part], 10_000) == (part,)
