import numpy as np
import pytest

from relic_data.wavefront import Material, read_mtl, read_obj

SQUARE = """
mtllib a.mtl
v 0 0 0
v 2 0 0
v 2 2 0
v 0 2 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl red
f 1/1 2/2 3/3 4/4
usemtl plain
f -4 -3 -2
"""
MTL = "newmtl red\nKd 0.9 0.1 0.1\nd 0.5\nmap_Kd wood.png\n"


def parts():
    return read_obj(SQUARE, "dir/", lambda path: MTL if path == "dir/a.mtl" else None)


def test_a_square_becomes_two_triangles_with_its_texture_coordinates_and_face_normals():
    red = parts()[0]
    corners = red.positions[red.triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert area.tolist() == [2.0, 2.0]
    np.testing.assert_allclose(red.uvs * 2, red.positions[:, :2])
    np.testing.assert_array_equal(red.normals, np.tile([0, 0, 1], (len(red.normals), 1)))


def test_materials_come_with_colour_opacity_and_texture_path():
    red, plain = parts()
    assert red.material == Material(colour=(0.9, 0.1, 0.1), opacity=0.5, texture="dir/wood.png")
    assert plain.material == Material()


def test_negative_indices_count_from_the_end():
    plain = parts()[1]
    assert sorted(map(tuple, plain.positions.tolist())) == [(0, 0, 0), (2, 0, 0), (2, 2, 0)]


def test_transparency_may_be_given_as_tr():
    assert read_mtl("newmtl glass\nTr 0.75\n", "")["glass"].opacity == 0.25


def test_a_face_without_its_vertex_is_named():
    with pytest.raises(ValueError, match=r"outside 1\.\.1"):
        read_obj("v 0 0 0\nf 1 2 3\n", "", lambda path: None)
