import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relic.action_files import load_actions
from relic.actions import (
    ACTION_INDEX,
    ACTION_NAMES,
    KEY_BINDINGS,
    MAX_SCRIPT_FRAMES,
    NUM_ACTIONS,
    Speeds,
    action_from_keys,
    action_from_multi_hot,
    actions_from_motions,
    motions_from_actions,
    parse_script,
    prepend_static,
    static_actions,
    validate_actions,
)
from relic.camera import CameraPath, actions_from_poses, integrate

SPEEDS = Speeds(translation_m_per_s=1.6, rotation_deg_per_s=90.0)
METRES = 0.1
RADIANS = math.pi / 2 / 16

OPPOSITES = [
    ("KeyW", "KeyS"),
    ("KeyA", "KeyD"),
    ("KeyE", "KeyQ"),
    ("ArrowUp", "ArrowDown"),
    ("ArrowLeft", "ArrowRight"),
    ("KeyC", "KeyZ"),
]


def action(**magnitudes: float) -> np.ndarray:
    vector = np.zeros(NUM_ACTIONS)
    for name, value in magnitudes.items():
        vector[ACTION_INDEX[name]] = value
    return vector


def test_the_order_of_the_actions_is_the_contract():
    assert (
        *("dolly_in", "dolly_out", "truck_left", "truck_right", "pedestal_up", "pedestal_down"),
        *("tilt_up", "tilt_down", "pan_left", "pan_right", "roll_cw", "roll_ccw", "static"),
    ) == ACTION_NAMES
    assert set(KEY_BINDINGS.values()) == set(ACTION_NAMES) - {"static"}


@pytest.mark.parametrize("code", KEY_BINDINGS)
def test_one_key_gives_its_action_at_its_speed(code):
    name = KEY_BINDINGS[code]
    size = METRES if name.startswith(("dolly", "truck", "pedestal")) else RADIANS
    np.testing.assert_allclose(action_from_keys([code], SPEEDS), action(**{name: size}), rtol=1e-15)


def test_keys_held_together_mix_and_unknown_or_repeated_keys_change_nothing():
    mixed = action_from_keys(["KeyW", "ArrowRight", "KeyW", "Escape", "ShiftLeft"], SPEEDS)
    np.testing.assert_allclose(mixed, action(dolly_in=METRES, pan_right=RADIANS), rtol=1e-15)


@pytest.mark.parametrize("pair", OPPOSITES)
def test_opposite_keys_cancel(pair):
    np.testing.assert_array_equal(action_from_keys(pair, SPEEDS), action(static=1.0))
    third = "ArrowUp" if "ArrowUp" not in pair else "KeyW"
    np.testing.assert_array_equal(action_from_keys([*pair, third], SPEEDS), action_from_keys([third], SPEEDS))


def test_no_key_and_zero_speed_are_static():
    np.testing.assert_array_equal(action_from_keys([]), action(static=1.0))
    frozen = Speeds(translation_m_per_s=0.0, rotation_deg_per_s=0.0)
    np.testing.assert_array_equal(action_from_keys(["KeyW"], frozen), action(static=1.0))


def test_speed_is_a_second_and_not_a_frame():
    at_16 = action_from_keys(["KeyD", "ArrowUp"], SPEEDS, fps=16)
    at_24 = action_from_keys(["KeyD", "ArrowUp"], SPEEDS, fps=24)
    np.testing.assert_allclose(at_16 * 16, at_24 * 24, rtol=1e-15)
    np.testing.assert_allclose(action_from_keys(["KeyD"]), action(truck_right=0.75 / 16))


def test_multi_hot_takes_fractions_and_ignores_its_static_entry():
    gains = action(truck_left=0.25, roll_ccw=2.0, static=1.0)
    expected = action(truck_left=0.25 * METRES, roll_ccw=2 * RADIANS)
    np.testing.assert_allclose(action_from_multi_hot(gains, SPEEDS), expected, rtol=1e-15)
    np.testing.assert_array_equal(action_from_multi_hot(action(static=1.0)), action(static=1.0))


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_speeds_and_frame_rates_are_refused(value):
    with pytest.raises(ValueError, match="translation_m_per_s is"):
        Speeds(translation_m_per_s=value)
    with pytest.raises(ValueError, match="rotation_deg_per_s is"):
        Speeds(rotation_deg_per_s=value)
    with pytest.raises(ValueError, match="fps is"):
        action_from_keys(["KeyW"], fps=value)


signed = st.lists(st.lists(st.floats(-2, 2), min_size=6, max_size=6), min_size=1, max_size=8)


@settings(deadline=None)
@given(signed)
def test_motions_survive_actions_exactly(rows):
    motions = np.array(rows)
    actions = validate_actions(actions_from_motions(motions[:, :3], motions[:, 3:]))
    translations, angles = motions_from_actions(actions)
    np.testing.assert_array_equal(np.concatenate([translations, angles], axis=1), motions)
    np.testing.assert_array_equal(actions[:, -1], ~motions.any(axis=1))


def test_validate_takes_one_frame_and_copies():
    given_actions = static_actions(2)
    checked = validate_actions(given_actions)
    checked[0, 0] = 5.0
    assert given_actions[0, 0] == 0.0
    assert validate_actions(action(dolly_in=1)).shape == (1, NUM_ACTIONS)
    assert validate_actions(np.zeros((0, NUM_ACTIONS))).shape == (0, NUM_ACTIONS)
    assert validate_actions(static_actions(3).astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, r"actions row 2, column 4 \(pedestal_up\) is nan: magnitudes must be finite"),
        (math.inf, r"actions row 2, column 4 \(pedestal_up\) is inf: magnitudes must be finite"),
        (-0.5, r"actions row 2, column 4 \(pedestal_up\) is -0.5: .* use 'pedestal_down'"),
    ],
)
def test_bad_magnitudes_are_named_by_row_and_column(value, message):
    actions = static_actions(4)
    actions[2, 4] = value
    with pytest.raises(ValueError, match=message):
        validate_actions(actions)
    with pytest.raises(ValueError, match=message):
        integrate(actions)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([[0.0] * 13, [0.0] * 12], "actions row 1 has 12 columns: give 13"),
        (np.zeros((4, 12)), r"actions have shape \(4, 12\)"),
        (np.zeros((1, 4, 13)), r"actions have shape \(1, 4, 13\)"),
        (np.zeros(6), r"actions have shape \(6,\)"),
        ([], r"actions have shape \(0,\)"),
        ([["w"] * 13], "actions are not all numbers"),
        ([[10**400] * 13], "actions are not all numbers"),
        ([[0.0] * 12 + [-1.0]], r"row 0, column 12 \(static\) is -1.0: use 0 or 1"),
    ],
)
def test_wrong_shapes_and_kinds_are_refused(actions, message):
    with pytest.raises(ValueError, match=message):
        validate_actions(actions)


def test_prepend_static_aligns_motions_with_frames():
    aligned = prepend_static(parse_script("w*3"))
    assert aligned.shape == (4, NUM_ACTIONS)
    np.testing.assert_array_equal(aligned[0], action(static=1.0))
    assert integrate(aligned).positions[-1, 2] == pytest.approx(3 * 0.75 / 16)


def test_script_counts_mixes_gains_and_long_names():
    actions = parse_script(" w*2\n d+Left:0.5*3\tnone  tilt_up:.25+ROLL_CW:2. w+s*2 static ", SPEEDS)
    rows = [
        *[action(dolly_in=METRES)] * 2,
        *[action(truck_right=METRES, pan_left=RADIANS / 2)] * 3,
        action(static=1.0),
        action(tilt_up=RADIANS / 4, roll_cw=2 * RADIANS),
        *[action(static=1.0)] * 3,
    ]
    np.testing.assert_allclose(actions, rows, rtol=1e-15)


@pytest.mark.parametrize(
    ("short", "code"),
    [
        *((letter, f"Key{letter.upper()}") for letter in "wsadeqcz"),
        *((side, f"Arrow{side.title()}") for side in ("up", "down", "left", "right")),
    ],
)
def test_script_letters_are_the_keys(short, code):
    np.testing.assert_array_equal(parse_script(short, SPEEDS)[0], action_from_keys([code], SPEEDS))
    np.testing.assert_array_equal(parse_script(KEY_BINDINGS[code], SPEEDS), parse_script(short, SPEEDS))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("w*16 d+lft*8", r"token 2 'd\+lft\*8' at character 6: 'lft' is no motion; the names are w, "),
        ("w*16\n  x", "token 2 'x' at character 8: 'x' is no motion"),
        ("w**2", r"token 1 'w\*\*2' at character 1: '\*2' is no count"),
        ("w*", "'' is no count of frames"),
        ("w*0", "'0' is no count of frames"),
        ("w*-1", "'-1' is no count of frames"),
        ("w*2.5", "'2.5' is no count of frames"),
        ("w*1e3", "'1e3' is no count of frames"),
        ("w*٣", "is no count of frames"),
        ("w:-1", "'-1' is no gain"),
        ("w:nan", "'nan' is no gain"),
        ("w:", "'' is no gain"),
        ("w:1001", "'1001' is no gain; write a number from 0 to 1000"),
        ("d + a", r"token 2 '\+' at character 3: '' is no motion"),
        ("w+dolly_in", "dolly_in is given twice; use a gain"),
        ("none+w", "none cannot be mixed"),
        ("*8", "'' is no motion"),
        (f"w*{MAX_SCRIPT_FRAMES} d", r"token 2 'd' .*reaches 100001 frames; at most 100000"),
        ("w*999999999999", "is no count of frames"),
        ("", "the action script is empty"),
        (" \n", "the action script is empty"),
    ],
)
def test_bad_scripts_name_the_token_and_its_position(script, message):
    with pytest.raises(ValueError, match=message):
        parse_script(script)


tokens = st.builds(
    lambda names, count: ("+".join(names), count),
    st.lists(st.sampled_from(["w", "d", "e", "up", "left", "c"]), min_size=1, max_size=6, unique=True),
    st.integers(1, 20),
)


@settings(deadline=None)
@given(st.lists(tokens, min_size=1, max_size=6))
def test_scripts_concatenate(parts):
    whole = parse_script(" ".join(f"{names}*{count}" for names, count in parts))
    pieces = [parse_script(names).repeat(count, axis=0) for names, count in parts]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))


def test_load_reads_a_script_as_text_and_as_a_file(tmp_path):
    expected = parse_script("w*4 left*2", SPEEDS)
    np.testing.assert_array_equal(load_actions("w*4 left*2", SPEEDS), expected)
    file = tmp_path / "my walk.TXT"
    file.write_text("w*4\nleft*2\n")
    np.testing.assert_array_equal(load_actions(file, SPEEDS), expected)
    np.testing.assert_array_equal(load_actions(str(file), SPEEDS), expected)


def test_load_reads_json_vectors_and_holds(tmp_path):
    expected = parse_script("w+left:0.5*3 none*2 c", SPEEDS)
    vectors = json.dumps(expected.tolist())
    holds = json.dumps([{"keys": ["KeyW", "left:0.5"], "frames": 3}, {"keys": [], "frames": 2}, {"keys": ["roll_cw"]}])
    for text in (vectors, holds):
        file = tmp_path / "actions.json"
        file.write_text(text)
        np.testing.assert_array_equal(load_actions(text, SPEEDS), expected)
        np.testing.assert_array_equal(load_actions(file, SPEEDS), expected)


@pytest.mark.parametrize("name", ["poses.npz", "poses.json"])
def test_load_reads_the_motions_between_the_poses_of_a_file(tmp_path, name):
    path = integrate(prepend_static(parse_script("w*4 d+left*3 c+up*2 none")))
    path.save(tmp_path / name)
    actions = load_actions(tmp_path / name)
    assert actions.shape == (10, NUM_ACTIONS)
    np.testing.assert_array_equal(actions, actions_from_poses(path)[1:])
    np.testing.assert_allclose(actions, parse_script("w*4 d+left*3 c+up*2 none"), atol=1e-14)
    assert actions[-1, -1] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "actions: entry 0 is 1: give a 13-vector"),
        ("[", "actions: not valid JSON"),
        ("[" * 100_000, "actions: not valid JSON"),
        ("[]", "non-empty list"),
        ('{"frames": 3}', "non-empty list"),
        ("[[0, 1]]", "actions row 0 has 2 columns"),
        (json.dumps([[0.0] * 13, [0.0] * 3 + [math.nan] + [0.0] * 9]), r"row 1, column 3 \(truck_right\)"),
        (json.dumps([[0.0] * 12 + [None]]), r"row 0, column 12 \(static\) is nan"),
        ('[{"keys": ["w"]}, {"keys": ["ww"]}]', "entry 1: 'ww' is no motion"),
        ('[{"keys": "w"}]', "entry 0: keys are 'w': give a list"),
        ('[{"keys": ["w"], "frames": 0}]', "entry 0: frames is 0"),
        ('[{"keys": ["w"], "frames": true}]', "entry 0: frames is True"),
        ('[{"keys": ["w"], "frames": 100001}]', "entry 0: the list reaches 100001 frames"),
        ('[{"keys": ["w"], "frame": 2}]', "entry 0 is .*: give"),
        ('[{"keys": ["w"]}, [0]]', r"entry 1 is \[0\]"),
        ('{"rotations_w2c": []}', "actions is no pose file"),
        ("w*4 d*x", "token 2"),
    ],
)
def test_load_names_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        load_actions(text)


def test_load_names_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_actions(str(tmp_path / "missing.json"))
    (tmp_path / "a.npz").write_bytes(b"w*16")
    with pytest.raises(ValueError, match=r"a\.npz is no \.npz file"):
        load_actions(tmp_path / "a.npz")
    (tmp_path / "a.csv").write_text("w")
    with pytest.raises(ValueError, match=r"ends in '\.csv'"):
        load_actions(tmp_path / "a.csv")
    (tmp_path / "b.txt").write_text("w*2 q7")
    with pytest.raises(ValueError, match=r"b\.txt: script token 2 'q7'"):
        load_actions(tmp_path / "b.txt")
    CameraPath.identity().save(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="give at least 2"):
        load_actions(tmp_path / "one.npz")
