import cv2
import numpy as np
import pytest

from relic.actions import ACTION_NAMES, actions_from_motions, prepend_static
from relic.camera import CameraPath, continue_path, integrate, unproject, world_to_camera
from relic.intrinsics import Intrinsics, project

pytestmark = pytest.mark.render
K = Intrinsics.from_fov(60.0, 160, 96)


def shoot(room, path: CameraPath):
    shots = [room.renderer.render(pose.rotation_w2c, pose.position) for pose in (path[k] for k in range(len(path)))]
    return [s[0] for s in shots], [s[1] for s in shots]


def flow_of(room, name):
    """Mean motion of the picture (right, down), growth, and clockwise turn that one action makes."""
    actions = np.zeros((1, 13))
    turning = ACTION_NAMES.index(name) >= 6
    actions[0, ACTION_NAMES.index(name)] = np.radians(2.5) if turning else 0.06
    path = CameraPath.concatenate(
        [CameraPath(room.start.rotation_w2c[None], room.start.position[None]), continue_path(room.start, actions)]
    )
    (before, after), _ = shoot(room, path)
    grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (before, after)]
    flow = cv2.calcOpticalFlowFarneback(grey[0], grey[1], None, 0.5, 4, 21, 5, 7, 1.5, 0)
    ys, xs = np.mgrid[0:96, 0:160] + 0.5
    dx, dy = xs - 80, ys - 48
    r2 = dx**2 + dy**2
    growth = ((flow[..., 0] * dx + flow[..., 1] * dy).sum()) / r2.sum()
    turn = ((flow[..., 1] * dx - flow[..., 0] * dy).sum()) / r2.sum()
    return flow[..., 0].mean(), flow[..., 1].mean(), growth, turn


@pytest.mark.parametrize(
    ("name", "measure", "sign"),
    [
        ("dolly_in", 2, 1),
        ("dolly_out", 2, -1),
        ("truck_left", 0, 1),
        ("truck_right", 0, -1),
        ("pedestal_up", 1, 1),
        ("pedestal_down", 1, -1),
        ("tilt_up", 1, 1),
        ("tilt_down", 1, -1),
        ("pan_left", 0, 1),
        ("pan_right", 0, -1),
        ("roll_cw", 3, -1),
        ("roll_ccw", 3, 1),
    ],
)
def test_each_action_moves_the_real_picture_the_way_its_name_says(lit_room, name, measure, sign):
    flow = flow_of(lit_room, name)
    smallest = (0.6, 0.6, 0.008, 0.015)[measure]
    assert flow[measure] * sign > smallest, flow


@pytest.mark.parametrize("name", ["pan_left", "pan_right", "tilt_up", "tilt_down", "roll_cw", "roll_ccw"])
def test_a_turn_moves_the_picture_by_exactly_its_angle(lit_room, name):
    actions = np.zeros((1, 13))
    actions[0, ACTION_NAMES.index(name)] = np.radians(6)
    after = continue_path(lit_room.start, actions)[0]
    start = CameraPath(lit_room.start.rotation_w2c[None], lit_room.start.position[None])
    turned = CameraPath(after.rotation_w2c[None], after.position[None])
    (first, second), _ = shoot(lit_room, CameraPath.concatenate([start, turned]))
    # a pure rotation maps the picture by K R K^-1; pixel centres lie at halves, OpenCV's at whole numbers
    k = np.array([[K.fx, 0, K.cx - 0.5], [0, K.fy, K.cy - 0.5], [0, 0, 1]])
    move = k @ after.rotation_w2c @ lit_room.start.rotation_w2c.T @ np.linalg.inv(k)
    moved = cv2.warpPerspective(first.astype(np.float32), move, (160, 96))
    valid = cv2.warpPerspective(np.ones((96, 160), np.float32), move, (160, 96)) > 0.999
    assert valid.mean() > 0.7
    error = np.abs(moved - second)[valid].mean()
    assert error < 3
    assert error < 0.4 * np.abs(first.astype(float) - second)[valid].mean()


def test_standing_still_repeats_the_picture_to_the_byte(lit_room):
    path = CameraPath(np.stack([lit_room.start.rotation_w2c] * 3), np.stack([lit_room.start.position] * 3))
    pictures, depths = shoot(lit_room, path)
    for picture, depth in zip(pictures[1:], depths[1:], strict=True):
        np.testing.assert_array_equal(picture, pictures[0])
        np.testing.assert_array_equal(depth, depths[0])


def test_going_out_and_back_gives_the_same_pictures(lit_room):
    steps = np.zeros((6, 6))
    steps[:, 2], steps[:, 3] = 0.02, 0.01
    there = continue_path(lit_room.start, actions_from_motions(steps[:, :3], steps[:, 3:]))
    pictures, _ = shoot(lit_room, CameraPath.concatenate([there, there.reversed()]))
    for out, back in zip(pictures[:6], pictures[:5:-1], strict=True):
        np.testing.assert_array_equal(out, back)


def test_pictures_are_neither_black_nor_burnt_out(lit_room):
    planned = lit_room.planner.plan(np.random.default_rng(5), 81)
    pictures, depths = shoot(lit_room, planned.world[::10])
    level = [float(np.median(p @ np.array([0.3, 0.59, 0.11]))) / 255 for p in pictures]
    assert 0.2 < np.median(level) < 0.7
    assert min(float(p.std()) for p in pictures) > 10
    assert all((d > 0.1).all() and (d <= 100).all() for d in depths)


def test_depth_agrees_with_the_rays(lit_room):
    pose = lit_room.start
    depth = lit_room.renderer.render(pose.rotation_w2c, pose.position)[1]
    rays = np.stack([(np.arange(8, 160, 16) + 0.5 - 80) / K.fx, np.zeros(10), np.ones(10)], 1)
    rays[:, 1] = (30.5 - 48) / K.fy
    world = rays @ pose.rotation_w2c
    length = np.linalg.norm(world, axis=1)
    tracer = lit_room.planner.probe.tracer
    _, distance, _ = tracer.first(np.tile(pose.position, (10, 1)), world / length[:, None])
    expected = np.minimum(distance / length, 100)
    agree = np.abs(depth[30, 8::16] - expected) < 0.02 * expected
    assert agree.mean() >= 0.8


def test_a_frame_carried_over_by_its_depth_matches_the_later_frame(lit_room):
    planned = lit_room.planner.plan(np.random.default_rng(6), 81)
    path = planned.clip_path()
    pictures, depths = shoot(lit_room, planned.world[:41:10])
    for t in range(4):
        a, b = path[10 * t], path[10 * t + 10]
        seen = world_to_camera(unproject(depths[t], K, a), b)
        uv = project(np.where(seen[..., 2:] > 0.1, seen, [0, 0, 1.0]), K)
        x, y = np.floor(uv[..., 0]).astype(int), np.floor(uv[..., 1]).astype(int)
        inside = (seen[..., 2] > 0.1) & (x >= 0) & (x < 160) & (y >= 0) & (y < 96) & (depths[t] < 90)
        x, y = x.clip(0, 159), y.clip(0, 95)
        visible = inside & (np.abs(depths[t + 1][y, x] - seen[..., 2]) < 0.03 * seen[..., 2])
        assert visible.sum() > 0.85 * inside.sum()
        wrong = np.abs(pictures[t].astype(int) - pictures[t + 1][y, x].astype(int))[visible]
        shifted = np.abs(pictures[t].astype(int) - pictures[t + 1].astype(int))[visible]
        assert wrong.mean() < 8
        if np.linalg.norm(b.position - a.position) > 0.2:
            assert wrong.mean() < 0.6 * shifted.mean()


def test_an_action_script_from_the_identity_is_what_the_renderer_shows(lit_room):
    step = np.zeros((2, 13))
    step[:, ACTION_NAMES.index("truck_right")] = 0.05
    path = integrate(prepend_static(step))
    np.testing.assert_allclose(path.positions[-1], [0.1, 0, 0])
    start = lit_room.start
    world = CameraPath(path.rotations_w2c @ start.rotation_w2c, start.position + path.positions @ start.rotation_w2c)
    np.testing.assert_allclose(world.rebased(0).positions, path.positions, atol=1e-12)
    right = start.rotation_w2c[0]
    np.testing.assert_allclose(world.positions[-1], start.position + 0.1 * right, atol=1e-12)
