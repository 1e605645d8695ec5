import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from relic.checkpoint import load_checkpoint
from relic.config import from_json
from relic.pictures import frames_to_tensor, tensor_to_frames
from relic.vae.config import VaeConfig
from relic.vae.tiny_vae import TinyVae
from relic_data.clips import HEIGHT, WIDTH
from relic_distill.images import contact_sheet
from relic_distill.loop import LoopConfig, train
from relic_distill.stage_vae import (
    VaeStage,
    VaeTrainConfig,
    draw_windows,
    edge_error,
    psnr_of,
    train_vae,
    with_deeper_encoder,
)
from relic_distill.vae_init import calibrate_latents, start_from_principal_components


def moving_texture(seed: int, frames: int = 29, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """A smooth random texture that slides: (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [(rng.uniform(-0.5, 0.5, 2), rng.uniform(0, 6, 3), rng.uniform(10, 40, 3)) for _ in range(6)]
    speed = rng.uniform(-1.5, 1.5, 2)
    video = np.full((frames, height, width, 3), 128.0)
    for t in range(frames):
        for (fy, fx), phase, size in waves:
            angle = fy * (y + speed[0] * t) + fx * (x + speed[1] * t)
            video[t] += size * np.sin(angle[..., None] + phase)
    return video.clip(0, 255).astype(np.uint8)


def videos(first: int, count: int) -> list[NDArray[np.uint8]]:
    return [moving_texture(seed) for seed in range(first, first + count)]


def small(**values: Any) -> VaeTrainConfig:
    settings: dict[str, Any] = {"vae": VaeConfig.tiny(), "loop": LoopConfig(steps=6), "batch": 2, "window_frames": 9}
    return VaeTrainConfig(**{**settings, **values})


def test_the_start_is_the_best_linear_code() -> None:
    """The silent network reconstructs patches as PCA does: the lost energy is that of the components left out."""
    windows = frames_to_tensor(np.stack([moving_texture(seed, 17) for seed in range(8)]))
    vae = TinyVae(VaeConfig(latent_channels=4, encoder_blocks=(1, 1), decoder_blocks=(1, 1)))
    start_from_principal_components(vae, windows)
    with torch.no_grad():
        error = (vae.decode(vae.encode(windows)) - windows)[:, :, 1:].square().mean()
    groups = windows[:, :, 1:].unfold(2, 4, 4).unfold(3, 8, 8).unfold(4, 8, 8)  # (B, 3, 4, h, w, 4, 8, 8)
    patches = groups.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(0, 3)
    spectrum = torch.linalg.svdvals(patches - patches.mean(dim=0)).square()
    expected = spectrum[4:].sum() / patches.numel()
    assert error.item() == pytest.approx(expected.item(), rel=1e-3)


def test_calibration_normalises_and_leaves_the_reconstruction_alone() -> None:
    windows = frames_to_tensor(np.stack(videos(0, 4)))
    torch.manual_seed(1)
    vae = TinyVae(VaeConfig.tiny())
    vae.latent_mean.normal_()
    with torch.no_grad():
        before = vae.decode(vae.encode(windows))
        calibrate_latents(vae, windows)
        latents = vae.encode(windows)
        torch.testing.assert_close(vae.decode(latents), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(16), atol=1e-4, rtol=0)
    assert latents.var(dim=(0, 2, 3, 4)).mean().item() == pytest.approx(1.0, rel=1e-4)


def test_windows_are_pieces_mirrored_and_reversed() -> None:
    video = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3) % 251
    found = set()
    for step in range(40):
        (window,) = draw_windows([video], 1, 5, np.random.default_rng(step))
        pixels = tensor_to_frames(window)
        for start in (0, 1):
            piece = video[start : start + 5]
            for reverse in (1, -1):
                for mirror in (1, -1):
                    if np.array_equal(pixels, piece[::reverse, :, ::mirror]):
                        found.add((start, reverse, mirror))
    assert len(found) == 8
    with pytest.raises(ValueError, match="no video has 9 frames \\(longest 6\\)"):
        draw_windows([video], 1, 9, np.random.default_rng(0))


def test_errors_of_known_pictures() -> None:
    truth = torch.zeros(1, 3, 2, 4, 4)
    guess = truth.clone()
    guess[:, :, 1] = 0.2
    psnr = psnr_of(guess, truth)
    assert psnr[0].tolist() == pytest.approx([106.02, 20.0], abs=0.01)
    assert edge_error(guess, truth).item() == 0.0
    ramp = torch.arange(4.0).expand(1, 3, 2, 4, 4)
    assert edge_error(ramp, truth).item() == pytest.approx(1.0)


def test_training_improves_on_principal_components(tmp_path: Path) -> None:
    config = small(loop=LoopConfig(steps=60, checkpoint_steps=30, warmup=5), lr=3e-3, matrix_lr=2e-2, ema_decay=0.9)
    stage = VaeStage(config, videos(0, 6), videos(100, 2))
    before = stage.sample(tmp_path, 0)["psnr"]
    assert train(stage, config.loop, tmp_path / "run", progress_bar=False) == "finished"
    after = stage.sample(tmp_path, 60)["psnr"]
    assert after > before + 0.5
    with Image.open(tmp_path / "run" / "samples" / "step-00000060.png") as sheet:
        assert sheet.size == (4 * 48 + 3 * 2, 12 * 32 + 11 * 2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("event") == "validation"] == [30, 60]


def test_the_exported_file_is_a_vae_with_normal_latents(tmp_path: Path) -> None:
    training = videos(0, 6)
    config = small()
    train(VaeStage(config, training, []), config.loop, tmp_path, progress_bar=False)
    state, values = load_checkpoint(tmp_path / "latest.safetensors")
    vae = TinyVae(from_json(VaeConfig, values))
    vae.load_state_dict(state)
    with torch.no_grad():
        latents = vae.encode(frames_to_tensor(np.stack(training)))
    assert latents.var(dim=(0, 2, 3, 4)).mean().item() == pytest.approx(1.0, abs=0.15)


def test_decoder_only_leaves_encoder_and_latents(tmp_path: Path) -> None:
    training = videos(0, 4)
    config = small()
    train(VaeStage(config, training, []), config.loop, tmp_path / "first", progress_bar=False)
    start = tmp_path / "first" / "latest.safetensors"
    config = small(decoder_only=True, start_from=start, seed=3)
    train(VaeStage(config, training, []), config.loop, tmp_path / "second", progress_bar=False)
    before, after = load_checkpoint(start)[0], load_checkpoint(tmp_path / "second" / "latest.safetensors")[0]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)


def test_a_deeper_encoder_begins_as_the_same_function_and_learns(tmp_path: Path) -> None:
    training = videos(0, 4)
    config = small()
    train(VaeStage(config, training, []), config.loop, tmp_path / "first", progress_bar=False)
    start = tmp_path / "first" / "latest.safetensors"
    stage = VaeStage(small(start_from=start, encoder_blocks=(2, 3)), training, [])
    frames = frames_to_tensor(np.stack(training))
    with torch.no_grad():
        assert torch.equal(stage.vae.encode(frames), TinyVae.load(start).encode(frames))
    train(stage, config.loop, tmp_path / "second", progress_bar=False)
    after = TinyVae.load(tmp_path / "second" / "latest.safetensors")
    assert after.config.encoder_blocks == (2, 3)
    assert after.encoder.eighth[2].narrow.weight.abs().max() > 0
    with pytest.raises(ValueError, match=r"\(2, 2\) must be no fewer than the \(2, 3\)"):
        with_deeper_encoder(after, (2, 2))


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    training = videos(0, 4)
    whole = small(loop=LoopConfig(steps=8, checkpoint_steps=4))
    train(VaeStage(whole, training, []), whole.loop, tmp_path / "whole", progress_bar=False)
    for end in (4, 8):
        stage = VaeStage(small(loop=LoopConfig(steps=end, decay=1e-6)), training, [])
        train(stage, LoopConfig(steps=end, decay=1e-6), tmp_path / "parts", progress_bar=False)
    once = VaeStage(small(loop=LoopConfig(steps=8, decay=1e-6)), training, [])
    train(once, LoopConfig(steps=8, decay=1e-6), tmp_path / "once", progress_bar=False)
    parts, straight = (load_checkpoint(tmp_path / name / "latest.safetensors")[0] for name in ("parts", "once"))
    assert all(torch.equal(parts[name], straight[name]) for name in straight)


def write_clip(root: Path, name: str, seed: int, frames: int) -> None:
    folder = root / "clips" / name
    folder.mkdir(parents=True)
    np.save(folder / "frames.npy", moving_texture(seed, frames, HEIGHT, WIDTH))
    np.save(folder / "depth.npy", np.ones((frames, HEIGHT, WIDTH), np.float16))
    np.save(folder / "actions.npy", np.zeros((frames, 13), np.float32))
    identity = np.tile(np.eye(3), (frames, 1, 1))
    np.savez(
        folder / "poses.npz",
        rotations_w2c=identity,
        positions=np.zeros((frames, 3)),
        intrinsics=np.array([83.138, 83.138, 80.0, 48.0]),
    )
    keys = ("captions", "split", "scene", "seed", "path_kind", "objects", "credits")
    (folder / "clip.json").write_text(json.dumps({key: [] for key in keys}))


def test_train_vae_reads_rendered_clips(tmp_path: Path) -> None:
    write_clip(tmp_path / "data", "train-s00002-c00", 0, 17)
    write_clip(tmp_path / "data", "validation-s00001-c00", 1, 17)
    config = small(loop=LoopConfig(steps=1), batch=1)
    assert train_vae(config, tmp_path / "data", tmp_path / "out", progress_bar=False) == "finished"
    assert (tmp_path / "out" / "best.safetensors").is_file()
    (tmp_path / "empty" / "clips").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no training clips"):
        train_vae(config, tmp_path / "empty", tmp_path / "none", progress_bar=False)


def test_contact_sheet_lays_out_rows() -> None:
    black, grey = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 99, np.uint8)
    sheet = contact_sheet([[black, grey], [grey]])
    assert sheet.shape == (6, 8, 3)
    assert sheet[0, 0, 0] == 0
    assert sheet[0, 5, 0] == 99
    assert sheet[4, 0, 0] == 99
    assert sheet[4, 5, 0] == 255
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([[black], [np.zeros((1, 1, 3), np.uint8)]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "batch 0"),
        ({"window_frames": 8}, "1 \\+ 4k"),
        ({"lr": -1.0}, "lr -1.0"),
        ({"decoder_only": True}, "start_from"),
        ({"encoder_blocks": (2, 2)}, "encoder_blocks \\(2, 2\\)"),
    ],
)
def test_bad_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VaeTrainConfig(**values)
