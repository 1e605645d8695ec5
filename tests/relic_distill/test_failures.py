"""Trainings that cannot go on end the command line in one line and exit status 1."""

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from relic.checkpoint import load_checkpoint, save_checkpoint
from relic_app.cli import main
from relic_data.encode import LatentDataset


@pytest.fixture
def data(encoded: Path, tmp_path: Path) -> Path:
    """A copy of the rendered and encoded clips, to damage."""
    shutil.copytree(encoded, tmp_path / "copy")
    return tmp_path / "copy"


def depth(data: Path, out: Path) -> list[str]:
    length = ["--recipe", "tiny-smoke", "--steps", "1"]
    return ["distill", "depth", *length, "--data", str(data / "data"), "--out", str(out)]


def causal(data: Path, out: Path, steps: int) -> list[str]:
    files = ["--data", "latents", "--vae", "vae.safetensors", "--depth", "depth.safetensors"]
    named = [word if word.startswith("--") else str(data / word) for word in files]
    return ["distill", "causal", "--recipe", "tiny-smoke", "--steps", str(steps), *named, "--out", str(out)]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command said last; the progress bar's line is ended before."""
    output = capsys.readouterr().err
    assert "Traceback" not in output
    assert output.endswith("\n")
    return output.splitlines()[-1]


def test_a_disk_without_room(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        status = main(depth(data, tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    line = told(capsys)
    assert line.startswith(f"relic: cannot write step 1 to {tmp_path / 'out'}: [Errno 27] File too large")
    assert line.endswith("the last good checkpoint is none yet: make room and run again")
    assert main(depth(data, tmp_path / "out")) == 0


def test_numbers_that_stay_not_finite(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in LatentDataset(data / "latents", "train").paths:
        tensors, values = load_checkpoint(path)
        save_checkpoint(path, {**tensors, "latents": torch.full_like(tensors["latents"], torch.nan)}, values)
    assert main(causal(data, tmp_path / "out", 30)) == 1
    line = told(capsys)
    assert line.startswith("relic: 20 steps in a row up to 19 had a loss (nan) or gradient norm (nan)")
    assert line.endswith(f"lower the learning rate and go on from {tmp_path / 'out' / 'checkpoint'}")


@pytest.mark.parametrize("file", ["depth.npy", "poses.npz", "clip.json"])
def test_a_damaged_clip(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    clip = data / "data" / "clips" / "train-s00002-c00"
    whole = (clip / file).read_bytes()
    (clip / file).write_bytes(whole[: len(whole) // 2])
    assert main(depth(data, tmp_path / "out")) == 1
    assert told(capsys).startswith(f"relic: clip train-s00002-c00: cannot read {file}")
    (clip / file).write_bytes(b"")
    assert main(depth(data, tmp_path / "out")) == 1
    assert told(capsys).startswith(f"relic: clip train-s00002-c00: cannot read {file}")


def test_a_damaged_encoded_clip(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = LatentDataset(data / "latents", "train").paths[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert main(causal(data, tmp_path / "out", 2)) == 1
    assert told(capsys).startswith(f"relic: {damaged} is not a whole safetensors file")


def test_a_clip_without_captions_is_damaged(data: Path) -> None:
    from relic_data.clips import ClipDataset, DamagedClipError

    clip = next(iter(ClipDataset(data / "data", "train", validate=False)))
    assert clip.frames.dtype == np.uint8
    (clip.folder / "clip.json").write_text("{}")
    with pytest.raises(DamagedClipError, match=r"lacks \['captions'\]; delete"):
        _ = clip.captions
