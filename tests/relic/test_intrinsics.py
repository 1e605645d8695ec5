import math

import numpy as np
import pytest

from relic.actions import parse_script
from relic.camera import CameraPose, Intrinsics, continue_path, pixel_rays, project, unproject, world_to_camera

VIEW = Intrinsics.from_fov(60, 160, 96)


def test_field_of_view_gives_the_projects_focal_length():
    assert VIEW.fx == VIEW.fy == pytest.approx(83.138, abs=1e-3)
    assert (VIEW.cx, VIEW.cy, VIEW.width, VIEW.height) == (80, 48, 160, 96)


def test_rays_go_through_pixel_centres():
    rays = pixel_rays(VIEW)
    assert rays.shape == (96, 160, 3)
    columns, rows = np.meshgrid(np.arange(160) + 0.5, np.arange(96) + 0.5)
    np.testing.assert_allclose(project(rays, VIEW), np.stack([columns, rows], axis=-1), atol=1e-12)
    np.testing.assert_array_equal(rays[..., 2], 1)
    np.testing.assert_allclose(rays[0, 0], [-79.5 / VIEW.fx, -47.5 / VIEW.fy, 1], rtol=1e-15)
    top_edge = project(np.array([0, -math.tan(math.radians(30)), 1.0]), VIEW)
    np.testing.assert_allclose(top_edge, [80, 0], atol=1e-12)


def test_scaled_intrinsics_see_the_same_view():
    tokens = VIEW.scaled(10, 6)
    point = np.array([0.3, -0.2, 1.7])
    np.testing.assert_allclose(project(point, tokens) * 16, project(point, VIEW), atol=1e-12)
    np.testing.assert_allclose(pixel_rays(tokens)[2, 3], pixel_rays(VIEW)[32:48, 48:64].mean(axis=(0, 1)), atol=1e-12)


def test_points_behind_the_camera_have_no_pixel():
    pixels = project(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), VIEW)
    np.testing.assert_array_equal(np.isnan(pixels).any(axis=1), [False, True, True])


def test_unproject_inverts_projection():
    pose = continue_path(CameraPose.identity(), parse_script("w+d:2+left+up:3+c*9"))[8]
    depth = np.random.default_rng(0).uniform(0.5, 5, size=(96, 160))
    world = unproject(depth, VIEW, pose)
    camera = world_to_camera(world, pose)
    np.testing.assert_allclose(camera[..., 2], depth, rtol=1e-12)
    np.testing.assert_allclose(project(camera, VIEW), project(pixel_rays(VIEW), VIEW), atol=1e-9)
    with pytest.raises(ValueError, match=r"depth has shape \(96, 80\), the intrinsics \(96, 160\)"):
        unproject(depth[:, :80], VIEW, pose)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fx": 0.0}, "fx is 0.0"),
        ({"fy": math.inf}, "fy is inf"),
        ({"cx": math.nan}, "cx is nan"),
        ({"width": 0}, "width is 0"),
        ({"height": 9.5}, "height is 9.5"),
    ],
)
def test_bad_intrinsics_are_refused(values, message):
    good = {"fx": 80.0, "fy": 80.0, "cx": 80.0, "cy": 48.0, "width": 160, "height": 96}
    with pytest.raises(ValueError, match=message):
        Intrinsics(**(good | values))
    with pytest.raises(ValueError, match="vertical_fov_deg is 180"):
        Intrinsics.from_fov(180, 160, 96)
