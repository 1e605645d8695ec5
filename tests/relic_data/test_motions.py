import numpy as np
import pytest

from relic.actions import actions_from_motions
from relic.camera import CameraPose, continue_path
from relic_data import motions
from relic_data.motions import PAN, SINGLE, WEIGHTS, Hand, X, eased, full_turn, make

HAND = Hand(speed=0.8, turn=np.radians(40))
START = CameraPose.identity()


def motion(kind, seed=0, frames=20):
    return make(kind, np.random.default_rng(seed), HAND, frames, distance=2.0, bearing=(0.4, 0.1))


def end_of(steps):
    return continue_path(START, actions_from_motions(steps[:, :3], steps[:, 3:]))[-1]


def test_a_held_key_eases_in_and_out_and_is_steady_between():
    shape = eased(20, 4)
    assert shape[0] == 0.125
    assert (shape[4:16] == 1).all()
    np.testing.assert_array_equal(shape, shape[::-1])


@pytest.mark.parametrize("kind", SINGLE)
def test_a_single_motion_moves_one_axis_one_way(kind):
    axis, sign = SINGLE[kind]
    steps = motion(kind)
    assert (steps[:, axis] * sign > 0).all()
    assert not np.delete(steps, axis, axis=1).any()


@pytest.mark.parametrize("kind", ["look away", "loop"])
def test_it_ends_where_it_began(kind):
    end = end_of(motion(kind))
    np.testing.assert_allclose(end.position, 0, atol=1e-9)
    np.testing.assert_allclose(end.rotation_w2c, np.eye(3), atol=1e-9)


def test_an_orbit_keeps_its_distance_and_its_target_in_the_middle():
    steps = motion("orbit")
    path = continue_path(START, actions_from_motions(steps[:, :3], steps[:, 3:]))
    to_target = np.array([0, 0, 2.0]) - path.positions
    np.testing.assert_allclose(np.linalg.norm(to_target, axis=1), 2.0, atol=0.03)
    seen = np.einsum("tij,tj->ti", path.rotations_w2c, to_target)
    assert np.abs(seen[:, 0] / seen[:, 2]).max() < 0.05
    assert np.abs(steps[:, X]).max() <= HAND.rate(X) + 1e-12


def test_a_full_turn_turns_once():
    steps = full_turn(np.random.default_rng(0), HAND, 150)
    assert np.abs(steps[:, PAN]).sum() == pytest.approx(2 * np.pi)
    np.testing.assert_allclose(end_of(steps).rotation_w2c, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_no_motion_is_faster_than_a_person(kind):
    for seed in range(4):
        hand = Hand.sample(np.random.default_rng(seed))
        steps = make(kind, np.random.default_rng(seed), hand, 24, distance=2.0, bearing=(0.5, 0.0))
        assert steps.shape[1] == 6
        assert np.abs(steps[:, :3]).max() * motions.FPS <= 1.4
        assert np.degrees(np.abs(steps[:, 3:]).max()) * motions.FPS <= 90
