import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from relic.camera import CameraPath
from relic.reprojection.config import DepthConfig
from relic.reprojection.depth import DepthNet
from relic_data.clips import ClipDataset
from relic_distill.loop import LoopConfig
from relic_distill.spoiling import recolour_pictures, spoil_pictures
from relic_distill.stage_depth import DepthStage, DepthTrainConfig, log_depth_loss, train_depth

CONFIG = DepthTrainConfig(
    depth=DepthConfig.tiny(), loop=LoopConfig(steps=100, warmup=5), batch=6, matrix_lr=0.02, lr=0.01, spoil=0.0
)


@pytest.fixture(scope="module")
def brightness_tells_depth(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., None]) -> Path:
    """Clips of two flat halves each, whose depth is a function of their brightness."""
    root = tmp_path_factory.mktemp("depth")
    for name in ("train-s00002-c00", "train-s00003-c00", "validation-s00001-c00"):
        rng = np.random.default_rng(list(name.encode()))
        shade = rng.uniform(0, 1, (21, 1, 2)).repeat(96, 1).repeat(80, 2)
        frames = (shade[..., None] * 255).astype(np.uint8).repeat(3, axis=3)
        write_clip(root, name, frames, CameraPath.identity(21), ["a room"])
        np.save(root / "clips" / name / "depth.npy", (1 + 6 * shade).astype(np.float16))
    return root


def test_training_learns_depth_from_brightness(brightness_tells_depth: Path, tmp_path: Path) -> None:
    clips = [list(ClipDataset(brightness_tells_depth, split)) for split in ("train", "validation")]
    (tmp_path / "before").mkdir()
    before = DepthStage(CONFIG, *clips).sample(tmp_path / "before", 0)
    assert train_depth(CONFIG, brightness_tells_depth, tmp_path / "run", progress_bar=False) == "finished"
    network = DepthNet.load(tmp_path / "run" / "latest.safetensors")
    held = clips[1][0]
    pictures = torch.from_numpy(held.frames[:8].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    truth = torch.from_numpy(held.depth[:8].astype(np.float32))
    with torch.no_grad():
        error = (network.depth(pictures) / truth).log().abs().expm1().mean()
    assert error < 0.5 * before["relative_error"]
    assert (tmp_path / "before" / "step-00000000.png").is_file()


def test_the_loss_is_zero_at_the_truth_and_counts_steps_in_depth() -> None:
    truth = torch.rand(2, 16, 16)
    assert log_depth_loss(truth, truth, 0.5) == 0
    two_metres = torch.full((1, 16, 16), 2.0).log()
    assert torch.isclose(log_depth_loss(two_metres + 0.3, two_metres, 0.5), torch.tensor(0.3))
    near, far, sky = (log_depth_loss(torch.full((1, 16, 16), z).log() + 0.1, torch.full((1, 16, 16), z).log(), 0.0)
                      for z in (1.0, 4.0, 30.0))  # fmt: skip
    assert [round(loss.item(), 4) for loss in (near, far, sky)] == [0.2, 0.05, 0.025]
    step = torch.zeros(1, 16, 16)
    step[:, :, 8:] = 1.0
    edges = sum(1 / (16 // scale - 1) for scale in (1, 2, 4, 8)) / 4
    assert torch.isclose(log_depth_loss(two_metres + step, two_metres, 0.5), torch.tensor(0.5 + 0.5 * edges))


def test_spoiled_pictures_stay_in_range_and_grow_worse_with_strength() -> None:
    pictures = torch.rand(4, 3, 32, 48) * 2 - 1
    errors = []
    for strength in (0.0, 0.3, 1.0):
        spoiled = spoil_pictures(pictures, strength, torch.Generator().manual_seed(0))
        assert spoiled.abs().max() <= 1
        errors.append((spoiled - pictures).square().mean().item())
    assert errors[0] < 1e-12 < errors[1] < errors[2]


def test_recoloured_pictures_keep_their_shapes() -> None:
    pictures = torch.rand(64, 3, 4, 6)
    same = recolour_pictures(pictures, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(same, pictures)
    shuffled = recolour_pictures(pictures, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(shuffled.sort(dim=1).values, pictures.sort(dim=1).values)
    moved = (shuffled != pictures).flatten(1).any(dim=1)
    assert 0.6 < moved.float().mean() < 1.0


def test_bad_settings_and_empty_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spoil -1 must not be negative"):
        dataclasses.replace(CONFIG, spoil=-1)
    (tmp_path / "clips").mkdir()
    with pytest.raises(ValueError, match="has no training clips"):
        train_depth(CONFIG, tmp_path, tmp_path / "out")
