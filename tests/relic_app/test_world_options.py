import argparse
import dataclasses
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from relic.wan_world import load_wan_world
from relic.weights import default_weights_dir
from relic.world import World
from relic_app.cli import main
from relic_app.commands.play import load_world
from relic_app.commands.rollout import roll_out
from relic_app.sessions import WorldHost
from relic_app.worker import Worker
from relic_app.world_options import WorldSource, add_world_arguments, world_source
from tests.wan_parts import save_lively_control, save_taehv, save_whole_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wan/`, `control.safetensors`, `taew2_1.safetensors` and `start.png`."""
    root = tmp_path_factory.mktemp("parts")
    save_whole_checkpoint(root / "wan")
    save_lively_control(root / "wan", root / "control.safetensors")
    save_taehv(root / "taew2_1.safetensors")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "start.png")
    return root


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_world_arguments(parser)
    return parser.parse_args(arguments)


def wan_options(folder: Path, *more: str) -> list[str]:
    return ["--wan", str(folder / "wan"), "--control", str(folder / "control.safetensors"), "--device", "cpu", *more]


def test_a_rollout_of_a_wan_world_is_the_engines_own_frames(folder: Path, tmp_path: Path) -> None:
    out, tiny = tmp_path / "film.mp4", folder / "taew2_1.safetensors"
    script = ["--image", str(folder / "start.png"), "--actions", "w*12", "--prompt", "a room", "--seed", "3"]
    options = wan_options(folder, "--vae-decoder", "taehv", "--taehv", str(tiny))
    assert main(["rollout", *options, *script, "--out", str(out)]) == 0
    world = load_wan_world(folder / "wan", control=folder / "control.safetensors", tiny_decoder=tiny)
    walk = np.zeros((12, 13))
    walk[:, 0] = 0.75 / 16
    frames, _ = roll_out(world, Image.open(folder / "start.png"), "a room", walk, 3)
    written = iio.imread(out)
    assert frames.shape == (13, 32, 48, 3)
    enlarged = written.shape[1] // 32
    shown = written[:, enlarged // 2 :: enlarged, enlarged // 2 :: enlarged].astype(float)
    assert np.abs(shown - frames).mean() < 12, "the video is an enlarged and lossy copy of the frames"


def test_a_wan_world_wakes_and_is_played(folder: Path) -> None:
    worker, threads = Worker(), torch.get_num_threads()
    source = world_source(parsed(*wan_options(folder)))
    host = WorldHost(worker, lambda report: load_world(source, threads, report))
    try:
        host.wake().result()
    finally:
        worker.close()
    assert (host.status.state, host.status.width, host.status.height) == ("awake", 48, 32)
    assert host.world.config.vae.decoder == "wan"
    assert host.world.device == torch.device("cpu")


def test_the_weights_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    World.tiny().save(tmp_path)
    assert world_source(parsed("--weights", str(tmp_path))) == WorldSource(weights=tmp_path)
    monkeypatch.setenv("RELIC_WEIGHTS", str(tmp_path))
    assert world_source(parsed()) == WorldSource(weights=default_weights_dir())


def test_a_world_is_played_with_as_many_steps_as_wanted(folder: Path, tmp_path: Path) -> None:
    World.tiny().save(tmp_path)
    own = World.tiny().config.sampler
    assert world_source(parsed("--weights", str(tmp_path))).load().config.sampler == own
    more = world_source(parsed("--weights", str(tmp_path), "--steps", "5")).load().config.sampler
    assert more == dataclasses.replace(own, steps=5)
    assert world_source(parsed(*wan_options(folder), "--steps", "3")).load().config.sampler.steps == 3
    with pytest.raises(ValueError, match="--steps is 0: give at least 1"):
        world_source(parsed("--weights", str(tmp_path), "--steps", "0"))


def test_a_wan_world_needs_no_gallery(folder: Path, tmp_path: Path) -> None:
    assert WorldSource(weights=tmp_path, wan=folder / "wan").gallery().pictures == []
    with pytest.raises(FileNotFoundError):
        WorldSource(weights=tmp_path).gallery()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--taehv", "x", "--vae-device", "cpu"], "--taehv and --vae-device without --wan"),
        (["--wan", "wan", "--weights", "x"], "--weights and --wan name two worlds"),
        (["--wan", "wan", "--vae-decoder", "taehv"], "--vae-decoder taehv without --taehv"),
        (["--wan", "wan", "--vae-decoder", "wan", "--taehv", "taew2_1.safetensors"], "--vae-decoder wan with --taehv"),
        (["--wan", "nowhere"], "no folder at nowhere"),
        (["--wan", "."], "is no Wan checkpoint in diffusers' layout"),
        (["--wan", "wan", "--control", "nothing"], "--control is 'nothing', but there is no such file"),
        (["--wan", "wan", "--device", "gpu9"], "there is no device 'gpu9' here"),
        (["--wan", "wan", "--vae-device", "cuda:77", "--device", "cpu"], "there is no device 'cuda:77' here"),
    ],
)
def test_a_bad_choice_is_told_in_one_line(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    script = ["--image", "start.png", "--actions", "w*4", "--out", "film.mp4"]
    assert main(["rollout", *arguments, *script]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (folder / "film.mp4").exists()
