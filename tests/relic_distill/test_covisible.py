import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relic.actions import parse_script, prepend_static, static_actions
from relic.camera import CameraPath, CameraPose, Intrinsics, integrate, pixel_rays, project, unproject, world_to_camera
from relic_distill.covisible import covisible_mask, earlier_frames, psnr

VIEW = Intrinsics.from_fov(60, 160, 96)
ROOM = np.array([2.5, 1.4, 3.0])  # half sizes: a box around the origin
CARD = (0.5, 0.4, 2.0)  # half width, half height, z: a card before the wall at z = 4
WALL_Z = 4.0


def rays_in_world(pose: CameraPose) -> np.ndarray:
    return pixel_rays(VIEW) @ pose.rotation_w2c


def room_depth(path: CameraPath) -> np.ndarray:
    """The inside of the box: on each ray, z-depth of the first of its three faces that it reaches."""
    depths = []
    for t in range(len(path)):
        rays = rays_in_world(path[t])
        with np.errstate(divide="ignore"):
            depths.append(((np.sign(rays) * ROOM - path[t].position) / rays).min(axis=-1))
    return np.array(depths)


def card_depth(path: CameraPath) -> np.ndarray:
    """A card parallel to an endless wall; cameras look along +z."""
    half_width, half_height, card_z = CARD
    depths = []
    for t in range(len(path)):
        rays = rays_in_world(path[t])
        to_card = card_z - path[t].position[2]
        hit = path[t].position + rays * to_card
        on_card = (np.abs(hit[..., 0]) < half_width) & (np.abs(hit[..., 1]) < half_height)
        depths.append(np.where(on_card, to_card, WALL_Z - path[t].position[2]))
    return np.array(depths)


def in_picture(points: np.ndarray, pose: CameraPose, margin: float = 0.0) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        x, y = np.moveaxis(project(world_to_camera(points, pose), VIEW), -1, 0)
        return (x >= margin) & (x < VIEW.width - margin) & (y >= margin) & (y < VIEW.height - margin)


def at(*positions: tuple[float, float, float]) -> CameraPath:
    return CameraPath(np.tile(np.eye(3), (len(positions), 1, 1)), np.array(positions))


def test_a_wall_is_seen_as_far_as_the_first_picture_reached():
    path = at((0, 0, 0), (1, 0, 0), (0, 0, 2), (0, 0, -4))
    depth = np.stack([np.full((96, 160), WALL_Z - z) for z in path.positions[:, 2]])
    shift = VIEW.fx * 1 / WALL_Z  # 20.78 pixels
    expected = np.broadcast_to(np.arange(160) + 0.5 + shift < 160, (96, 160))
    np.testing.assert_array_equal(covisible_mask(depth, path, VIEW, 1), expected)
    assert covisible_mask(depth, path, VIEW, 2).all()
    # Twice as far away, the first picture is the middle half.
    expected = np.zeros((96, 160), dtype=bool)
    expected[24:72, 40:120] = True
    np.testing.assert_array_equal(covisible_mask(depth, path, VIEW, 3), expected)


def test_what_a_card_hid_is_not_seen_and_the_rest_is():
    path = at((0, 0, 0), (0.6, 0.1, 0.0))
    depth = card_depth(path)
    points = unproject(depth[1], VIEW, path[1])
    on_wall = depth[1] == WALL_Z
    on_the_way = points * (CARD[2] / WALL_Z)
    beyond = np.maximum(np.abs(on_the_way[..., 0]) - CARD[0], np.abs(on_the_way[..., 1]) - CARD[1])
    hidden = on_wall & (beyond < 0)
    expected = in_picture(points, path[0]) & ~hidden
    mask = covisible_mask(depth, path, VIEW, 1)
    # Within a pixel of the card's edge in the first picture, the edge is not known better.
    sure = ~on_wall | (np.abs(beyond) > CARD[2] / VIEW.fx)
    np.testing.assert_array_equal(mask[sure], expected[sure])
    assert hidden[sure].sum() > 100
    assert not mask[hidden & sure].any()
    assert mask[~on_wall].all()


def test_a_floor_is_known_up_to_its_horizon():
    """Depth doubles within a few rows there: only interpolation knows it between pixel centres."""
    height = 0.15
    rows = np.arange(96) + 0.5 - VIEW.cy
    floor = np.where(rows > 0, height * VIEW.fy / np.maximum(rows, 0.5), np.inf)
    path = at((0, 0, 0), (0, 0, 0.05), (0, 0, 0.3))
    depth = np.broadcast_to(floor[:, None], (3, 96, 160))
    for frame in (1, 2):
        points = unproject(np.where(np.isfinite(depth[frame]), depth[frame], 1), VIEW, path[frame])
        known = np.isfinite(depth[frame]) & in_picture(points, path[0])
        known &= project(world_to_camera(points, path[0]), VIEW)[..., 1] >= VIEW.cy + 0.5
        mask = covisible_mask(depth, path, VIEW, frame)
        assert mask[known].all()
        assert known.mean() > 0.3
        assert not mask[:48].any()


def test_the_last_pixel_before_an_edge_is_known():
    """The card ends 0.285 pixels right of a pixel centre; its last pixel moves 0.2 pixels towards that edge."""
    path = at((0, 0, 0), (0.2 * CARD[2] / VIEW.fx, 0, 0))
    depth = card_depth(path)
    assert covisible_mask(depth, path, VIEW, 1)[depth[1] == CARD[2]].all()


def test_any_of_the_earlier_frames_will_do():
    path = at((0, 0, 0), (0.8, 0, 0), (-0.6, 0, 0), (0.6, 0, 0))
    depth = card_depth(path)
    one = [covisible_mask(depth, path, VIEW, 3, earlier=(e,)) for e in (0, 1, 2)]
    np.testing.assert_array_equal(covisible_mask(depth, path, VIEW, 3, earlier=(2, 0, 1, 1)), one[0] | one[1] | one[2])
    assert one[1].mean() > one[0].mean() > one[2].mean()
    assert not covisible_mask(depth, path, VIEW, 3, earlier=()).any()


pose = st.tuples(*[st.floats(-1, 1)] * 3, *[st.floats(-math.pi, math.pi)] * 3)


@settings(deadline=None, max_examples=30)
@given(pose, pose)
def test_in_an_empty_room_everything_in_the_picture_was_seen(first, second):
    """A convex room hides nothing; its floor and walls are seen at grazing angles, from any turn of the camera."""
    path = CameraPath.concatenate([posed(first), posed(second)])
    depth = room_depth(path)
    points = unproject(depth[1], VIEW, path[1])
    mask = covisible_mask(depth.astype(np.float16), path, VIEW, 1)
    assert not mask[~in_picture(points, path[0], margin=-0.5)].any()
    seen = in_picture(points, path[0], margin=0.5)
    # Where two faces meet, depth between two pixels is known to neither of them.
    corners = np.sort(ROOM - np.abs(points), axis=-1)[..., 1] < 0.15
    assert mask[seen & ~corners].all()


def posed(values: tuple[float, ...]) -> CameraPath:
    x, y, z, pan, tilt, roll = values
    names = {"pan_right": pan, "tilt_up": tilt, "roll_cw": roll}
    actions = static_actions(1)
    columns = {"pan_right": (9, 8), "tilt_up": (6, 7), "roll_cw": (10, 11)}
    for name, angle in names.items():
        positive, negative = columns[name]
        actions[0, positive if angle > 0 else negative] = abs(angle)
    turned = integrate(actions, CameraPose.identity())
    return CameraPath(turned.rotations_w2c, np.array([[x, y * 0.8, z]]))


def test_a_camera_that_turned_round_sees_nothing_known_and_then_all_of_it_again():
    path = integrate(prepend_static(parse_script("right*36 right*36")))  # 40 deg/s at 16 FPS: 2.5 deg a frame
    path = CameraPath.concatenate([path, path.reversed()])
    depth = room_depth(path)
    assert not covisible_mask(depth, path, VIEW, 72).any()
    points = unproject(depth[72], VIEW, path[72])
    passed_by = np.any([in_picture(points, path[e]) for e in earlier_frames(72)], axis=0)
    np.testing.assert_array_equal(covisible_mask(depth, path, VIEW, 72, earlier_frames(72)), passed_by)
    assert 0.8 < passed_by.mean() < 0.85
    assert covisible_mask(depth, path, VIEW, len(path) - 1).all()


def test_the_tolerance_is_relative_to_the_depth():
    path = at((0, 0, 0), (0, 0, 0))
    depth = np.stack([np.full((96, 160), 4.0), np.full((96, 160), 4.3)])
    assert not covisible_mask(depth, path, VIEW, 1).any()
    assert covisible_mask(depth, path, VIEW, 1, depth_tolerance=0.08).all()
    assert covisible_mask(depth * 10, path, VIEW, 1, depth_tolerance=0.08).all()


@pytest.mark.parametrize("nothing", [0.0, -1.0, np.inf, np.nan])
def test_pixels_without_depth_are_never_covisible(nothing):
    path = at((0, 0, 0), (0, 0, 0))
    depth = np.full((2, 96, 160), 4.0, dtype=np.float16)
    depth[0, :, :20] = nothing
    depth[1, :10] = nothing
    expected = np.ones((96, 160), dtype=bool)
    expected[:, :20] = False
    expected[:10] = False
    np.testing.assert_array_equal(covisible_mask(depth, path, VIEW, 1), expected)


def test_earlier_frames_are_every_fourth():
    assert list(earlier_frames(9)) == [0, 4, 8]
    assert list(earlier_frames(8)) == [0, 4]
    assert list(earlier_frames(0)) == []
    assert list(earlier_frames(5, stride=2)) == [0, 2, 4]
    with pytest.raises(ValueError, match="stride is 0"):
        earlier_frames(5, stride=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": np.ones((2, 96, 80))}, r"depth has shape \(2, 96, 80\) for 2 poses"),
        ({"depth": np.ones((3, 96, 160))}, r"depth has shape \(3, 96, 160\) for 2 poses"),
        ({"frame": 2}, "frame is 2: there are 2 frames"),
        ({"frame": -1}, "frame is -1"),
        ({"earlier": (0, 1)}, "earlier holds frame 1, which is not before frame 1"),
        ({"earlier": (-1,)}, "earlier holds frame -1"),
        ({"depth_tolerance": 0.0}, "depth_tolerance is 0.0"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"depth": np.ones((2, 96, 160)), "path": CameraPath.identity(2), "intrinsics": VIEW, "frame": 1}
    with pytest.raises(ValueError, match=message):
        covisible_mask(**(arguments | change))


def test_psnr_of_a_known_error_inside_the_mask_only():
    truth = np.full((4, 6, 3), 120, dtype=np.uint8)
    guess = truth + np.uint8(10)
    guess[:2] = 0
    mask = np.zeros((4, 6), dtype=bool)
    mask[2:] = True
    expected = 20 * math.log10(255 / 10)
    assert psnr(guess, truth, mask) == pytest.approx(expected, abs=1e-12)
    assert psnr(truth, guess, mask) == pytest.approx(expected, abs=1e-12)
    assert psnr(guess, truth) == pytest.approx(10 * math.log10(255**2 / ((120**2 + 100) / 2)), abs=1e-12)
    scaled = psnr(guess / 127.5 - 1, truth / 127.5 - 1, mask, peak=2)
    assert scaled == pytest.approx(expected, abs=1e-12)
    single = psnr((guess / 255).astype(np.float32), (truth / 255).astype(np.float32), mask, peak=1)
    assert single == pytest.approx(expected, abs=1e-4)


def test_psnr_of_equal_and_of_no_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    assert psnr(picture, picture) == math.inf
    empty = np.zeros((2, 4, 6), dtype=bool)
    assert math.isnan(psnr(picture, 255 - picture, empty))
    broken = picture / 255
    broken[0, 0, 0] = np.nan
    assert math.isnan(psnr(broken, picture / 255, peak=1))
    rest = ~empty
    rest[0, 0, 0] = False
    assert psnr(broken, picture / 255, rest, peak=1) == math.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 2, 3)), np.zeros((2, 3, 3))), r"shapes \(2, 2, 3\) and \(2, 3, 3\)"),
        ((np.zeros((2, 3)), np.zeros((2, 3))), r"give two \(\.\.\., H, W, C\) alike"),
        ((np.zeros((2, 2, 3)), np.zeros((2, 2, 3), np.uint8)), "pictures are float64 and uint8"),
        ((np.zeros((2, 2, 3), int), np.zeros((2, 2, 3), int)), "pictures are int64 and int64"),
        ((np.zeros((2, 2, 3)), np.zeros((2, 2, 3))), "float pictures need peak"),
        ((np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), None, -1.0), "peak is -1.0"),
        ((np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), np.ones((2, 3), bool), 1.0), r"mask is bool \(2, 3\)"),
        ((np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), np.ones((2, 2)), 1.0), "mask is float64"),
    ],
)
def test_psnr_refuses_what_cannot_be_compared(arguments, message):
    with pytest.raises(ValueError, match=message):
        psnr(*arguments)
