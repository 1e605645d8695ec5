"""Options of `relic distill` that contradict each other, or a machine, end in one line before anything starts."""

import re
from pathlib import Path

import pytest

from relic_app.cli import main

WORLD = ["--data", "data", "--vae", "vae.safetensors", "--depth", "depth.safetensors", "--out", "out"]
COMMANDS = {
    "vae": ["--data", "data", "--out", "out"],
    "depth": ["--data", "data", "--out", "out"],
    "causal": WORLD,
    "teacher": WORLD,
    "init": [*WORLD, "--teacher", "teacher.safetensors", "--paths", "paths"],
    "dmd": [*WORLD, "--student", "student.safetensors", "--teacher", "teacher.safetensors"],
}


@pytest.fixture(autouse=True)
def somewhere_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "-1"], "steps -1"),
        (["--minutes", "-2"], "minutes -2.0"),
        (["--steps", "4", "--accumulate", "0"], "accumulate 0 must be at least 1"),
    ],
)
def test_every_stage_refuses_numbers_that_mean_nothing(
    stage: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", stage, *COMMANDS[stage], *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("stage", COMMANDS)
def test_every_stage_takes_the_options_of_a_session(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    session = ["--steps", "2", "--accumulate", "2", "--mixed-precision", "bf16", "--tensorboard", "--shard"]
    assert main(["distill", stage, *COMMANDS[stage], *session]) == 2
    told = capsys.readouterr().err
    assert "data" in told or ".safetensors" in told, "what is missing is a file, not the options"
    with pytest.raises(SystemExit):
        main(["distill", stage, *COMMANDS[stage], "--mixed-precision", "fp16"])
    assert "invalid choice: 'fp16'" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["all", "trajectories"])
def test_what_one_process_does_takes_its_options_and_says_why_it_refuses_others(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["--out", "out"] if stage == "all" else [*WORLD, "--teacher", "teacher.safetensors"]
    refused = {"--shard": "one process"}
    if stage == "all":
        session = ["--recipe", "tiny-smoke", "--accumulate", "2", "--mixed-precision", "bf16", "--tensorboard"]
        assert main(["distill", stage, *needed, *session, "--dry-run"]) == 0
        assert main(["distill", stage, *needed, "--accumulate", "0"]) == 2
        assert "accumulate 0 must be at least 1" in capsys.readouterr().err
    else:
        assert main(["distill", stage, *needed, "--mixed-precision", "bf16"]) == 2
        assert "teacher.safetensors" in capsys.readouterr().err, "what is missing is the teacher, not the option"
        refused |= {"--accumulate 2": "no optimiser steps", "--tensorboard": "no figures to log"}
    for option, why in refused.items():
        with pytest.raises(SystemExit) as stop:
            main(["distill", stage, *needed, *option.split()])
        assert stop.value.code == 2
        told = " ".join(capsys.readouterr().err.split())
        assert f"error: {option.split()[0]} is refused: " in told
        assert why in told
    assert not Path("out").exists()


@pytest.mark.parametrize("stage", ["depth", "causal", "teacher", "init", "dmd"])
def test_an_unknown_recipe_is_told_with_the_known_ones(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", stage, *COMMANDS[stage], "--recipe", "huge"]) == 2
    assert "unknown recipe 'huge': choose one of mini" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", *COMMANDS["init"], "--forcing", "consistency"], "follows a network and reads no paths: "
         "leave --paths paths out"),
        (["init", *COMMANDS["init"][:-2], "--forcing", "teacher"], "--forcing teacher regresses trajectories"),
        (["vae", *COMMANDS["vae"], "--decoder-only"], "decoder_only needs start_from"),
        (
            ["vae", *COMMANDS["vae"], "--encoder-blocks", "2", "3"],
            "encoder_blocks (2, 3) deepens the encoder of start_from",
        ),
        (
            ["vae", *COMMANDS["vae"], "--encoder-blocks", "2", "3", "--start-from", "a", "--decoder-only"],
            "which decoder_only keeps",
        ),
        (["trajectories", *WORLD, "--teacher", "t", "--count", "0"], "count 0, batch 4"),
        (["dmd", *COMMANDS["dmd"], "--anchor", "-0.5"], "anchor -0.5 must not be negative"),
        (["release", "--world", "w", "--vae", "v", "--out", "o", "--note", "plain"], "--note must be KEY=VALUE"),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_cameras_encoding_is_chosen_by_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """One vector a frame keeps less for the backward pass than one a token."""
    kept = {}
    for encoding in ("frame", "ray"):
        options = ["--recipe", "tiny-smoke", "--pose-encoding", encoding, "--dry-run"]
        assert main(["distill", "causal", *COMMANDS["causal"], *options]) == 0
        found = re.search(r"(\d+) MB kept for backward", capsys.readouterr().out)
        assert found is not None
        kept[encoding] = int(found[1])
    assert kept["frame"] < kept["ray"]
