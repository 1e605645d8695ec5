import dataclasses

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from relic.actions import STATIC, parse_script, static_actions
from relic.camera import CameraPath, continue_path
from relic.engine import WorldEngine
from relic.world import World
from relic_app.cli import main
from relic_app.commands.rollout import fit_actions, roll_out
from relic_app.contact_sheet import contact_sheet


@pytest.fixture(scope="module")
def world() -> World:
    return World.tiny(seed=0)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def weights(world, tmp_path_factory):
    """The tiny world as a weights folder."""
    folder = tmp_path_factory.mktemp("weights")
    world.save(folder)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("frames", [1, 4, 6])
def test_a_rollout_is_the_engines_own_frames(world, picture, frames):
    actions = parse_script("w*3 d+left*3")[:frames]
    shown, poses = roll_out(world, picture, "", actions, seed=4)
    engine = WorldEngine(world)
    expected = [engine.start(picture, "", 4)]
    rows = np.concatenate([actions, static_actions(-frames % 4)])
    expected += [engine.step(rows[i : i + 4]).frames for i in range(0, len(rows), 4)]
    np.testing.assert_array_equal(shown, np.concatenate(expected)[: frames + 1])
    assert len(poses) == frames + 1
    walked = continue_path(CameraPath.identity()[0], actions)
    np.testing.assert_allclose(poses.positions[1:], walked.positions, atol=1e-12)


def test_a_short_script_stands_still_at_its_end():
    fitted = fit_actions(parse_script("w*8"), seconds=1.0, fps=16)
    assert fitted.shape == (16, 13)
    np.testing.assert_array_equal(fitted[:8], parse_script("w*8"))
    assert fitted[8:, STATIC].all()


def test_without_a_time_the_script_gives_it():
    np.testing.assert_array_equal(fit_actions(parse_script("w*5"), None, 16), parse_script("w*5"))


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0.25, "last 0.5 s but --seconds is 0.25"),
        (0.0, "--seconds is 0:"),
        (-1.0, "--seconds is -1:"),
        (float("nan"), "--seconds is nan"),
        (1e6, "at most 600"),
    ],
)
def test_a_time_that_does_not_fit_is_refused(seconds, message):
    with pytest.raises(ValueError, match=message):
        fit_actions(parse_script("w*8"), seconds, 16)


def test_the_command_writes_video_poses_and_contact_sheet(weights, picture, tmp_path, capsys):
    picture.save(tmp_path / "start.png")
    out = tmp_path / "out"
    out.mkdir()
    call = ["rollout", "--image", str(tmp_path / "start.png"), "--actions", "w*6", "--seconds", "0.5"]
    assert main([*call, "--out", str(out / "v.mp4"), "--weights", str(weights), "--seed", "2"]) == 0
    assert "wrote" in capsys.readouterr().out
    assert names(out) == ["v.mp4", "v.png", "v.poses.json"]
    assert iio.imread(out / "v.mp4").shape == (9, 384, 640, 3)
    poses = CameraPath.load(out / "v.poses.json")
    assert len(poses) == 9
    assert poses.positions[-1][2] == pytest.approx(6 * 0.75 / 16)
    assert Image.open(out / "v.png").size == (4 * 326 + 6, 3 * 198 + 6)
    first = (out / "v.mp4").read_bytes()
    assert main([*call, "--out", str(out / "v.mp4"), "--weights", str(weights), "--seed", "2"]) == 0
    assert (out / "v.mp4").read_bytes() == first


def test_the_command_writes_a_gif(weights, picture, tmp_path):
    picture.save(tmp_path / "start.png")
    call = ["rollout", "--image", str(tmp_path / "start.png"), "--actions", "left*8", "--weights", str(weights)]
    assert main([*call, "--out", str(tmp_path / "v.gif")]) == 0
    with Image.open(tmp_path / "v.gif") as film:
        assert film.size == (320, 192)
        assert film.n_frames == 9
        assert film.info["duration"] in (60, 70)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--image": "nothing.png"}, "No such file or directory: nothing.png"),
        ({"--image": "notes.txt"}, "notes.txt is not a picture"),
        ({"--actions": "w*8 fly*3"}, "'fly'"),
        ({"--actions": "walk.json"}, "No such file or directory: walk.json"),
        ({"--seconds": "0.1"}, "leave --seconds out"),
        ({"--out": "v.avi"}, "give the name of an .mp4"),
        ({"--out": "nowhere/v.mp4"}, "there is no folder 'nowhere'"),
        ({"--seed": "-1"}, "--seed is -1"),
        ({"--move": "-2"}, "translation_m_per_s is -2.0"),
        ({"--weights": "nowhere"}, "no manifest.json in nowhere"),
    ],
)
def test_bad_input_is_refused_before_the_world_is_loaded(changes, message, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(World, "load", lambda *_args: pytest.fail("the world was loaded"))
    picture.save("start.png")
    (tmp_path / "notes.txt").write_text("only text")
    (tmp_path / "weights").mkdir()
    options = {"--image": "start.png", "--actions": "w*8", "--out": "v.mp4", "--weights": "weights"} | changes
    if "--weights" not in changes:
        monkeypatch.setattr("relic.weights.read_manifest", lambda *_args, **_options: None)
    assert main(["rollout", *(part for pair in options.items() for part in pair)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "v.mp4").exists()


def test_a_rollout_that_fails_leaves_nothing(weights, picture, tmp_path, monkeypatch):
    picture.save(tmp_path / "start.png")
    monkeypatch.setattr("relic_app.video.VideoWriter.add", lambda *_args: 1 / 0)
    out = tmp_path / "out"
    out.mkdir()
    call = ["rollout", "--image", str(tmp_path / "start.png"), "--actions", "w*4", "--weights", str(weights)]
    with pytest.raises(ZeroDivisionError):
        main([*call, "--out", str(out / "v.mp4")])
    assert names(out) == []


@pytest.mark.parametrize(("frames", "size"), [(1, (332, 204)), (3, (984, 204)), (400, (1310, 798))])
def test_a_contact_sheet_shows_even_times(frames, size):
    film = np.zeros((frames, 96, 160, 3), np.uint8)
    film[-1] = 200
    sheet = contact_sheet(film, fps=16)
    assert sheet.size == size
    assert sheet.getpixel((size[0] - 20, size[1] - 20)) == (200, 200, 200)


def test_weights_of_another_preset_are_loaded_with_their_own_sizes(weights, world):
    loaded = World.load(weights)
    assert dataclasses.asdict(loaded.config.model) == dataclasses.asdict(world.config.model)
