import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relic.actions import (
    ACTION_INDEX,
    NUM_ACTIONS,
    actions_from_motions,
    motions_from_actions,
    parse_script,
    prepend_static,
    static_actions,
)
from relic.camera import (
    CameraPath,
    CameraPose,
    Intrinsics,
    actions_from_poses,
    continue_path,
    integrate,
    mean_displacement,
    nearest_rotations,
    normalised_actions_from_poses,
    project,
    world_to_camera,
)

VIEW = Intrinsics.from_fov(60, 160, 96)
CENTRE = np.array([80.0, 48.0])
# Near and far points in each quarter of the picture: (x, y, z) metres.
QUARTERS = np.array([(sx, sy) for sx in (-1, 1) for sy in (-1, 1)], dtype=float)
NEAR = np.concatenate([QUARTERS * 0.6, np.full((4, 1), 2.0)], axis=1)
FAR = np.concatenate([QUARTERS * 2.4, np.full((4, 1), 8.0)], axis=1)
STEP_M, STEP_RAD = 0.1, 0.05


def random_path(seed: int, frames: int = 320, max_angle: float = 1.0, step: float = 0.2) -> CameraPath:
    """Any 6-DoF path: axis-angle steps of up to `max_angle`, built without the code under test."""
    rng = np.random.default_rng(seed)
    rotations = [nearest_rotations(rng.normal(size=(3, 3)))]
    for _ in range(frames - 1):
        axis = rng.normal(size=3)
        x, y, z = axis / np.linalg.norm(axis)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        angle = rng.uniform(0, max_angle)
        turn = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
        rotations.append(turn @ rotations[-1])
    positions = np.cumsum(rng.normal(size=(frames, 3)) * step, axis=0)
    return CameraPath(nearest_rotations(rotations), positions)


def assert_same_path(actual: CameraPath, expected: CameraPath, atol: float) -> None:
    np.testing.assert_allclose(actual.positions, expected.positions, rtol=0, atol=atol)
    np.testing.assert_allclose(actual.rotations_w2c, expected.rotations_w2c, rtol=0, atol=atol)


def one_action(**magnitudes: float) -> np.ndarray:
    vector = np.zeros(NUM_ACTIONS)
    for name, value in magnitudes.items():
        vector[ACTION_INDEX[name]] = value
    return vector


def flow(points: np.ndarray, **magnitudes: float) -> np.ndarray:
    """Return how fixed world points move in the picture, (N, 2) pixels, when the camera does one action."""
    pose = continue_path(CameraPose.identity(), one_action(**magnitudes))[0]
    return project(world_to_camera(points, pose), VIEW) - project(points, VIEW)


# --- what each action does to the picture -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "sign"), [("dolly_in", 1), ("dolly_out", -1)])
def test_dolly_in_enlarges_and_out_shrinks(name, sign):
    outward = np.sum(flow(NEAR, **{name: STEP_M}) * QUARTERS, axis=1)
    far_outward = np.sum(flow(FAR, **{name: STEP_M}) * QUARTERS, axis=1)
    assert (sign * outward > 1).all()
    assert (sign * far_outward > 0).all()
    assert (np.abs(outward) > 3 * np.abs(far_outward)).all()


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [
        ("truck_right", 0, -1),
        ("truck_left", 0, 1),
        ("pedestal_up", 1, 1),
        ("pedestal_down", 1, -1),
    ],
)
def test_truck_and_pedestal_move_near_points_the_other_way_and_more_than_far_ones(name, axis, sign):
    near, far = flow(NEAR, **{name: STEP_M}), flow(FAR, **{name: STEP_M})
    np.testing.assert_allclose(near[:, axis], sign * VIEW.fx * STEP_M / 2, rtol=1e-12)
    np.testing.assert_allclose(far[:, axis], sign * VIEW.fx * STEP_M / 8, rtol=1e-12)
    np.testing.assert_allclose(near[:, 1 - axis], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [("pan_right", 0, -1), ("pan_left", 0, 1), ("tilt_up", 1, 1), ("tilt_down", 1, -1)],
)
def test_pan_and_tilt_move_points_the_other_way_whatever_their_distance(name, axis, sign):
    near, far = flow(NEAR, **{name: STEP_RAD}), flow(FAR, **{name: STEP_RAD})
    assert (sign * near[:, axis] > 0.9 * VIEW.fx * STEP_RAD).all()
    np.testing.assert_allclose(near, far, atol=1e-12)
    ahead = flow(np.array([[0.0, 0.0, 3.0]]), **{name: STEP_RAD})[0]
    assert ahead[axis] == pytest.approx(sign * VIEW.fx * math.tan(STEP_RAD), rel=1e-12)


@pytest.mark.parametrize(("name", "sign"), [("roll_cw", 1), ("roll_ccw", -1)])
def test_roll_cw_turns_the_picture_counter_clockwise(name, sign):
    right_and_top = np.array([[1.0, 0.0, 2.0], [0.0, -1.0, 2.0]])
    (_, right_dy), (top_dx, _) = flow(right_and_top, **{name: STEP_RAD})
    assert sign * right_dy < -1
    assert sign * top_dx < -1
    before = project(NEAR, VIEW) - CENTRE
    after = before + flow(NEAR, **{name: STEP_RAD})
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), rtol=1e-12)


def test_mixed_actions_move_along_the_old_axes_and_turn_at_once():
    pose = continue_path(CameraPose.identity(), one_action(dolly_in=0.3, truck_left=0.2, pan_left=0.5))[0]
    np.testing.assert_allclose(pose.position, [-0.2, 0.0, 0.3], atol=1e-15)
    np.testing.assert_allclose(pose.rotation_w2c.T @ [0, 0, 1], [-math.sin(0.5), 0, math.cos(0.5)], atol=1e-15)
    two = continue_path(pose, one_action(dolly_in=1.0))[0]
    np.testing.assert_allclose(two.position - pose.position, [-math.sin(0.5), 0, math.cos(0.5)], atol=1e-15)


def test_the_order_of_a_mixed_turn_is_pan_then_tilt_then_roll():
    pan, tilt, roll = (
        continue_path(CameraPose.identity(), one_action(**{name: 0.4}))[0].rotation_w2c.T
        for name in ("pan_right", "tilt_up", "roll_cw")
    )
    mixed = continue_path(CameraPose.identity(), one_action(pan_right=0.4, tilt_up=0.4, roll_cw=0.4))[0]
    np.testing.assert_allclose(mixed.rotation_w2c.T, pan @ tilt @ roll, atol=1e-15)


def test_relative_motion_is_the_papers_equations_1_and_2():
    path = random_path(3, frames=5)
    translations, _ = motions_from_actions(actions_from_poses(path))
    for t in range(1, 5):
        r_before = path.rotations_w2c[t - 1]
        np.testing.assert_allclose(translations[t], r_before @ (path.positions[t] - path.positions[t - 1]), atol=1e-15)
        turned = continue_path(CameraPose.identity(), actions_from_poses(path)[t])[0].rotation_w2c
        np.testing.assert_allclose(turned, path.rotations_w2c[t] @ r_before.T, atol=1e-14)


def test_opposite_magnitudes_cancel_and_static_moves_nothing():
    both = one_action(dolly_in=0.4, dolly_out=0.4, pan_left=0.2, pan_right=0.2, roll_cw=1, roll_ccw=1, static=1)
    assert_same_path(continue_path(CameraPose.identity(), both), CameraPath.identity(), atol=0)
    assert_same_path(integrate(static_actions(4)), CameraPath.identity(4), atol=0)


def test_a_full_turn_and_an_out_and_back_walk_come_home():
    turn = one_action(dolly_in=0.1, pan_right=2 * math.pi / 64)
    end = continue_path(CameraPose.identity(), np.tile(turn, (64, 1)))[-1]
    np.testing.assert_allclose(end.position, 0, atol=1e-13)
    np.testing.assert_allclose(end.rotation_w2c, np.eye(3), atol=1e-13)


def test_the_worked_examples_of_the_conventions():
    turned = continue_path(CameraPose(np.eye(3), np.array([1.0, 0, 0])), one_action(pan_right=math.pi / 2))[0]
    np.testing.assert_allclose(turned.rotation_w2c, [[0, 0, -1], [0, 1, 0], [1, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(world_to_camera(np.array([4.0, 0, 0]), turned), [0, 0, 3], atol=1e-15)
    np.testing.assert_allclose(project(np.array([0.5, -0.25, 2]), VIEW), [100.785, 37.608], atol=5e-4)
    actions = np.stack([one_action(dolly_in=0.3, truck_left=0.2, pan_left=math.pi / 6), one_action(dolly_in=1)])
    end = continue_path(CameraPose.identity(), actions)[-1]
    np.testing.assert_allclose(end.position, [-0.7, 0, 1.166], atol=5e-4)
    walk = integrate(prepend_static(parse_script("w*16 d+left:0.5*8 none*4")))
    assert len(walk) == 29
    np.testing.assert_allclose(walk.positions[-1], [0.3734, 0, 0.7786], atol=5e-5)
    ten_degrees = one_action(pan_left=math.radians(10))
    np.testing.assert_allclose(
        walk.rotations_w2c[-1], continue_path(CameraPose.identity(), ten_degrees)[0].rotation_w2c, atol=1e-14
    )


# --- round trips --------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 0.05, 1.0, 3.1]))
def test_twenty_seconds_of_any_motion_survive_actions_to_1e_9(seed, max_angle):
    path = random_path(seed, max_angle=max_angle)
    actions = actions_from_poses(path)
    assert actions.shape == (320, NUM_ACTIONS)
    assert (actions >= 0).all()
    np.testing.assert_array_equal(actions[0], one_action(static=1.0))
    assert_same_path(integrate(actions, path[0]), path, atol=1e-9)
    assert_same_path(integrate(actions), path.rebased(), atol=1e-9)


angle = st.floats(-1.5, 1.5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), angle, angle, angle), min_size=1, max_size=20))
def test_actions_survive_poses(rows):
    motions = np.array([(0, 0, 0, 0), *rows])
    translations = motions[:, :1] * [1.0, -0.5, 0.25]
    actions = actions_from_motions(translations, motions[:, 1:])
    again = actions_from_poses(integrate(actions), static_threshold_m=0, static_threshold_rad=0)
    np.testing.assert_allclose(again[:, :12], actions[:, :12], atol=1e-10)


@pytest.mark.parametrize("tilt", [math.pi / 2, -math.pi / 2, math.pi / 2 - 1e-9])
def test_a_tilt_of_a_right_angle_in_one_frame_survives(tilt):
    actions = actions_from_motions(np.zeros((3, 3)), np.array([[0, 0, 0], [0.7, tilt, -0.4], [2.0, tilt, 3.0]]))
    path = integrate(actions)
    assert_same_path(integrate(actions_from_poses(path)), path, atol=1e-12)


def test_rotations_stay_orthonormal_over_5000_steps():
    rng = np.random.default_rng(0)
    actions = actions_from_motions(rng.normal(size=(5000, 3)), rng.normal(size=(5000, 3)))
    rotations = continue_path(CameraPose.identity(), actions).rotations_w2c
    products = rotations @ rotations.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=5e-15)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=5e-15)


@pytest.mark.parametrize("block", [1, 4, 7])
def test_block_by_block_equals_at_once(block):
    actions = actions_from_poses(random_path(5, frames=81))
    whole = integrate(actions)
    pose, parts = CameraPose.identity(), []
    for first in range(0, 81, block):
        parts.append(continue_path(pose, actions[first : first + block]))
        pose = parts[-1][-1]
    assert_same_path(CameraPath.concatenate(parts), whole, atol=1e-13)
    assert_same_path(integrate(actions[40:], whole[39]), whole[40:], atol=1e-13)


def test_a_reversed_path_plays_the_motions_backwards():
    path = integrate(prepend_static(parse_script("w*5 d+q*4 left*3")))
    back = actions_from_poses(path.reversed())
    expected = prepend_static(parse_script("right*3 a+e*4 s*5"))
    np.testing.assert_allclose(back, expected, atol=1e-14)
    home = integrate(back, path[-1])[-1]
    np.testing.assert_allclose(home.position, 0, atol=1e-14)
    np.testing.assert_allclose(home.rotation_w2c, np.eye(3), atol=1e-14)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_any_reversed_path_survives_actions(seed):
    path = random_path(seed, frames=40).reversed()
    assert_same_path(integrate(actions_from_poses(path), path[0]), path, atol=1e-10)


def test_a_first_action_that_moves_needs_a_start():
    moving = parse_script("w*4")
    with pytest.raises(ValueError, match=r"actions row 0 moves .* must be static; use prepend_static"):
        integrate(moving)
    assert len(integrate(moving, CameraPose.identity())) == 4
    assert integrate(moving, CameraPose.identity()).positions[0, 2] == pytest.approx(0.75 / 16)


# --- static and scale -----------------------------------------------------------------------------------------


def test_thresholds_only_decide_static():
    actions = static_actions(5)
    actions[1, ACTION_INDEX["dolly_in"]] = 0.9e-4
    actions[2, ACTION_INDEX["dolly_in"]] = 1.1e-4
    actions[3, ACTION_INDEX["pan_left"]] = 0.9e-4
    actions[4, ACTION_INDEX["pan_left"]] = 1.1e-4
    labels = actions_from_poses(integrate(actions))
    np.testing.assert_array_equal(labels[:, -1], [1, 1, 0, 1, 0])
    np.testing.assert_allclose(labels[:, :12], actions[:, :12], rtol=1e-9, atol=1e-18)
    strict = actions_from_poses(integrate(actions), static_threshold_m=0, static_threshold_rad=0)
    np.testing.assert_array_equal(strict[:, -1], [1, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="static_threshold_m is -1"):
        actions_from_poses(CameraPath.identity(), static_threshold_m=-1)
    with pytest.raises(ValueError, match="static_threshold_rad is nan"):
        actions_from_poses(CameraPath.identity(), static_threshold_rad=math.nan)


def test_scale_is_the_mean_of_the_steps_that_move():
    actions = static_actions(6)
    actions[1, ACTION_INDEX["dolly_in"]] = 2.0
    actions[3, ACTION_INDEX["truck_left"]] = 4.0
    actions[4, ACTION_INDEX["pan_right"]] = 0.5
    path = integrate(actions)
    assert mean_displacement(path) == pytest.approx(3.0, rel=1e-14)
    labels, scale = normalised_actions_from_poses(path)
    assert scale == pytest.approx(3.0, rel=1e-14)
    assert labels[1, ACTION_INDEX["dolly_in"]] == pytest.approx(2 / 3)
    assert labels[4, ACTION_INDEX["pan_right"]] == pytest.approx(0.5)
    assert_same_path(integrate(labels).scaled(scale), path, atol=1e-12)
    small, small_scale = normalised_actions_from_poses(path.scaled(1e-5))
    np.testing.assert_allclose(small, labels, atol=1e-12)
    assert small_scale == pytest.approx(3e-5)


def test_a_path_that_never_moves_has_scale_one():
    labels, scale = normalised_actions_from_poses(CameraPath.identity(3))
    assert scale == 1.0
    np.testing.assert_array_equal(labels, static_actions(3))
    assert mean_displacement(CameraPath.identity(1)) == 1.0


def test_a_pose_of_a_path_is_its_own_and_cannot_be_written() -> None:
    path = integrate(np.concatenate([static_actions(1), np.full((2, 13), 0.1)]))
    pose = path[-1]
    assert np.array_equal(pose.rotation_w2c, path.rotations_w2c[2])
    assert np.array_equal(pose.position, path.positions[2])
    for array in (pose.rotation_w2c, pose.position):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    with pytest.raises(IndexError):
        path[3]
