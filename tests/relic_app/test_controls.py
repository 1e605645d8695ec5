import math

import numpy as np
import pytest

from relic.actions import ACTION_INDEX, STATIC, Speeds, action_from_keys
from relic_app.controls import Controls

FPS = 16
SPEEDS = Speeds(translation_m_per_s=0.8, rotation_deg_per_s=40.0)
STEP = 0.8 / FPS
TURN = math.radians(40.0) / FPS


@pytest.fixture
def controls() -> Controls:
    return Controls(SPEEDS, FPS)


def test_nothing_held_is_static(controls):
    sample = controls.sample(4, now=0.0)
    assert sample.actions.shape == (4, 13)
    np.testing.assert_array_equal(sample.actions.sum(axis=1), sample.actions[:, STATIC])
    assert sample.seq == 0


def test_held_keys_move_every_frame_and_mix(controls):
    controls.hold(["KeyW", "ArrowLeft", "KeyP"], seq=3, now=0.0)
    sample = controls.sample(4, now=0.1)
    np.testing.assert_allclose(sample.actions, np.tile(action_from_keys(["KeyW", "ArrowLeft"], SPEEDS, FPS), (4, 1)))
    assert sample.seq == 3


def test_releasing_stops(controls):
    controls.hold(["KeyW"], seq=1, now=0.0)
    controls.sample(4, now=0.1)
    controls.hold([], seq=2, now=0.2)
    sample = controls.sample(4, now=0.3)
    assert sample.actions[:, STATIC].all()
    assert sample.seq == 2


@pytest.mark.parametrize(("seconds", "frames"), [(0.0, 1), (0.03, 1), (0.0625, 1), (0.1, 2), (0.24, 4), (0.9, 4)])
def test_a_tap_between_two_samples_moves_for_as_long_as_it_lasted(controls, seconds, frames):
    controls.sample(4, now=0.0)
    controls.hold(["KeyD"], seq=1, now=0.01)
    controls.hold([], seq=2, now=0.01 + seconds)
    moved = controls.sample(4, now=2.0).actions[:, ACTION_INDEX["truck_right"]]
    np.testing.assert_allclose(moved, [STEP] * frames + [0.0] * (4 - frames))
    assert controls.sample(4, now=2.1).actions[:, STATIC].all()


def test_a_key_that_was_sampled_while_held_does_not_move_again_when_released(controls):
    controls.hold(["KeyD"], seq=1, now=0.0)
    controls.sample(4, now=0.1)
    controls.hold([], seq=2, now=0.15)
    assert controls.sample(4, now=0.3).actions[:, STATIC].all()


def test_two_taps_add_up_and_a_held_key_is_not_doubled(controls):
    controls.sample(4, now=0.0)
    for start in (0.1, 0.2):
        controls.hold(["KeyD"], seq=1, now=start)
        controls.hold([], seq=2, now=start + 0.0625)
    controls.hold(["KeyD"], seq=3, now=0.3)
    moved = controls.sample(4, now=0.4).actions[:, ACTION_INDEX["truck_right"]]
    np.testing.assert_allclose(moved, STEP)


def test_analog_gains_scale_and_add_to_keys_up_to_full_speed(controls):
    gains = [0.0] * 13
    gains[ACTION_INDEX["pan_right"]] = 0.25
    gains[ACTION_INDEX["dolly_in"]] = 0.5
    controls.lean(gains, seq=7)
    controls.hold(["KeyW"], seq=8, now=0.0)
    sample = controls.sample(1, now=0.1)
    assert sample.actions[0, ACTION_INDEX["pan_right"]] == pytest.approx(0.25 * TURN)
    assert sample.actions[0, ACTION_INDEX["dolly_in"]] == pytest.approx(STEP)
    assert sample.seq == 8


def test_opposite_controls_cancel(controls):
    gains = [0.0] * 13
    gains[ACTION_INDEX["dolly_out"]] = 1.0
    controls.lean(gains, seq=1)
    controls.hold(["KeyW"], seq=2, now=0.0)
    assert controls.sample(1, now=0.0).actions[0, STATIC] == 1.0


def test_speeds_take_effect_at_the_next_sample(controls):
    controls.hold(["KeyW"], seq=1, now=0.0)
    controls.set_speeds(Speeds(translation_m_per_s=1.6, rotation_deg_per_s=0.0))
    assert controls.sample(1, now=0.0).actions[0, ACTION_INDEX["dolly_in"]] == pytest.approx(2 * STEP)
