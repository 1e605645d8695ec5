"""The whole circle through the command line, as a newcomer runs it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from relic.actions import Speeds, action_from_keys
from relic.checkpoint import sha256_of
from relic.config import SamplerConfig
from relic.engine import WorldEngine
from relic.world import World
from relic_app.cli import main
from relic_distill.circle import STAGES
from relic_distill.smoke import tiny_smoke


@pytest.mark.render
def test_the_circle_ends_in_a_world_that_plays_and_is_not_run_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", "all", "--recipe", "tiny-smoke", "--out", str(tmp_path / "circle")]
    assert main(command) == 0
    out = tmp_path / "circle"
    assert list(json.loads((out / "circle.json").read_text())["done"]) == [name for name, _ in STAGES]
    for stage in ("vae", "depth", "causal", "teacher", "init", "dmd"):
        assert (out / stage / "curves.png").is_file()
        assert list((out / stage / "samples").glob("*.png"))
    world = World.load(out / "weights")
    assert world.config.sampler == tiny_smoke().dmd.world.sampler
    engine = WorldEngine(world)
    engine.start(np.zeros((96, 160, 3), np.uint8), "a room", 0)
    frames = engine.step(action_from_keys(("KeyW",), Speeds())).frames
    assert frames.shape == (4, 96, 160, 3)

    before = sha256_of(out / "weights" / "mini-world.safetensors")
    record = json.loads((out / "circle.json").read_text())
    for stage in ("dmd", "release"):
        del record["done"][stage]
    (out / "circle.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.split() == ["==", "dmd", "==", "release"]
    assert sha256_of(out / "weights" / "mini-world.safetensors") == before

    record["circle"]["teacher"]["guidance"] = 9.0
    (out / "circle.json").write_text(json.dumps(record))
    assert main(command) == 2
    assert "begun with other settings of teacher" in capsys.readouterr().err


def test_stages_that_do_not_fit_are_named_before_anything_starts() -> None:
    circle = tiny_smoke()
    four = dataclasses.replace(circle.init.world, sampler=SamplerConfig(steps=4))
    with pytest.raises(ValueError, match=r"init's student is played by .*steps=4.*, dmd's by .*steps=2"):
        dataclasses.replace(circle, init=dataclasses.replace(circle.init, world=four))
    with pytest.raises(ValueError, match=r"kept at 4 steps and shift 3, the student takes 2 at 3"):
        dataclasses.replace(circle, trajectories=dataclasses.replace(circle.trajectories, student_steps=4))
    with pytest.raises(ValueError, match=r"causal trains on 11 latent frames, clips of 2 s have 9"):
        dataclasses.replace(circle, render=dataclasses.replace(circle.render, seconds=2.0))


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "circle"
    assert main(["distill", "all", "--recipe", "tiny-smoke", "--out", str(out), "--dry-run"]) == 0
    assert "dmd: tiny" in capsys.readouterr().out
    assert not out.exists()
    assert main(["distill", "all", "--recipe", "huge", "--out", str(out)]) == 2
    assert "choose one of mini, tiny-smoke" in capsys.readouterr().err
