"""Views that are kept on the disk between runs."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from relic_distill.loop import step_generator
from relic_distill.seen_views import SeenViews
from relic_distill.smoke import tiny_causal
from relic_distill.stage_causal import CausalStage
from tests.tiny_networks import ingredients


class Counting:
    """A viewer that tells how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, stills: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        pictures = stills[:, :3].clamp(-2, 2)
        return pictures, stills[:, 0].abs() + 1


def test_what_was_shown_once_is_read_from_then_on(tmp_path: Path) -> None:
    viewer, network = Counting(), nn.Linear(2, 2)
    stills = torch.randn(5, 4, 6, 10, generator=torch.Generator().manual_seed(0)).half()
    pictures, depth = SeenViews(tmp_path / "views", viewer, [network])(stills)
    expected = ((stills[:, :3].float().clamp(-1, 1) + 1) * 127.5).round()
    torch.testing.assert_close(pictures.float(), expected)
    torch.testing.assert_close(depth, (stills[:, 0].float().abs() + 1).half())
    for again in (SeenViews(tmp_path / "views", viewer, [network])(stills) for _ in range(2)):
        assert torch.equal(again[0], pictures)
        assert torch.equal(again[1], depth)
    assert viewer.calls == 1


def test_other_latents_weights_and_precisions_have_views_of_their_own(tmp_path: Path) -> None:
    viewer, stills = Counting(), torch.zeros(2, 4, 6, 10)
    torch.manual_seed(0)
    for network in (nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).to(torch.bfloat16)):
        SeenViews(tmp_path, viewer, [network])(stills)
    SeenViews(tmp_path, viewer, [network])(stills + 1)
    assert viewer.calls == 4


def test_a_damaged_file_is_made_anew_and_a_full_disk_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    viewer, stills = Counting(), torch.zeros(2, 4, 6, 10)
    kept = SeenViews(tmp_path, viewer, [])(stills)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    assert torch.equal(SeenViews(tmp_path, viewer, [])(stills)[0], kept[0])
    assert torch.equal(SeenViews(tmp_path, viewer, [])(stills)[0], kept[0])
    assert viewer.calls == 2
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        shown = SeenViews(tmp_path / "file", viewer, [])(stills)
    assert torch.equal(shown[0], kept[0])
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("all_before", [False, True])
def test_a_second_run_sees_the_same_without_looking(
    all_before: bool, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(encoded, tmp_path / "data", ignore=shutil.ignore_patterns("views"))
    first, second = (CausalStage(tiny_causal(4), ingredients(data)) for _ in range(2))
    if all_before:
        first.train_clips.see_all()
        monkeypatch.setattr(type(first.vae), "decode", None)
    seen = first.train_clips.draw(2, 4, step_generator(0, 0)).views
    monkeypatch.setattr(type(second.vae), "decode", None)
    again = second.train_clips.draw(2, 4, step_generator(0, 0)).views
    assert seen is not None
    assert again is not None
    assert torch.equal(again.pictures, seen.pictures)
    assert torch.equal(again.depth, seen.depth)
