import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from relic.actions import ACTION_NAMES
from relic.camera import CameraPath, integrate
from relic.checkpoint import save_checkpoint
from relic.config import to_json
from relic.pictures import frames_to_tensor
from relic.vae.config import VaeConfig
from relic.vae.tiny_vae import TinyVae
from relic_data.encode import LatentDataset, encode_dataset, palindrome

FRAMES, LATENTS = 89, 23


def path_of(frames: int) -> CameraPath:
    actions = np.zeros((frames, 13))
    actions[1:, ACTION_NAMES.index("dolly_in")] = 0.03
    actions[1:, ACTION_NAMES.index("pan_left")] = 0.01
    actions[0, ACTION_NAMES.index("static")] = 1.0
    return integrate(actions)


def coarse_frames(name: str) -> np.ndarray:
    coarse = np.random.default_rng(list(name.encode())).integers(0, 256, (FRAMES, 6, 10, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def write_vae(path: Path, seed: int = 0) -> TinyVae:
    torch.manual_seed(seed)
    vae = TinyVae(VaeConfig.tiny())
    torch.nn.init.normal_(vae.encoder.head.weight, std=0.3)
    save_checkpoint(path, vae.state_dict(), to_json(vae.config))
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., None]) -> Path:
    """A folder with clips under `data`, a VAE and its latents under `out`."""
    root = tmp_path_factory.mktemp("encoded")
    for name in ("train-s00002-c00", "train-s00003-c00", "validation-s00001-c00"):
        write_clip(root / "data", name, coarse_frames(name), path_of(FRAMES), ["a room", "its other end"])
    write_vae(root / "vae.safetensors")
    encode_dataset(root / "data", root / "vae.safetensors", root / "out", seed=5, progress=False)
    return root


def film_of(encoded: Path, positions: np.ndarray) -> Tensor:
    """Frames (3, T, H, W) of the first training clip at the places of the path where `positions` lie."""
    source = path_of(FRAMES).positions
    index = np.linalg.norm(source[None] - positions[:, None], axis=2).argmin(axis=1)
    return frames_to_tensor(np.load(encoded / "data" / "clips" / "train-s00002-c00" / "frames.npy")[index])


@pytest.mark.parametrize("version", [0, 1])
def test_each_version_is_encoded_as_a_film_of_its_own(encoded: Path, version: int) -> None:
    vae = write_vae(encoded / "again.safetensors")
    clip = LatentDataset(encoded / "out", "train").get(version)
    assert (clip.name, clip.augmented, clip.num_frames) == (f"train-s00002-c00-v{version}", version == 1, LATENTS)
    assert clip.latents.dtype == torch.float16
    film = film_of(encoded, clip.path.positions)
    expected = vae.encode(film[None])[0].transpose(0, 1)
    torch.testing.assert_close(clip.latents.float(), expected, atol=3e-3, rtol=1e-3)


@pytest.mark.parametrize("latent", [0, 1, LATENTS - 1])
def test_pictures_are_single_frames_encoded_alone(encoded: Path, latent: int) -> None:
    vae = write_vae(encoded / "again.safetensors")
    clip = LatentDataset(encoded / "out", "train").get(1)
    film = film_of(encoded, clip.path.positions)
    expected = vae.encode(film[None, :, 4 * latent : 4 * latent + 1])[0, :, 0]
    torch.testing.assert_close(clip.pictures[latent].float(), expected, atol=3e-3, rtol=1e-3)


def test_poses_actions_and_captions_follow_the_frames(encoded: Path) -> None:
    data = LatentDataset(encoded / "out", "train")
    assert data.lengths == [LATENTS] * 4
    source = path_of(FRAMES)
    plain, turned = data.get(0), data.get(1)
    np.testing.assert_allclose(plain.path.positions, source.positions, atol=1e-12)
    np.testing.assert_allclose(plain.path.rotations_w2c, source.rotations_w2c, atol=1e-12)
    for clip in (plain, turned):
        np.testing.assert_allclose(integrate(clip.actions.astype(np.float64)).positions, clip.path.positions, atol=1e-5)
        assert clip.captions == ("a room", "its other end")
        frames = np.linalg.norm(source.positions[None] - clip.path.positions[::4, None], axis=2).argmin(axis=1)
        np.testing.assert_array_equal(clip.caption_index, frames >= 80)
    forward = np.linalg.norm(np.diff(turned.path.positions, axis=0), axis=1)
    np.testing.assert_allclose(forward, 0.03, atol=1e-9)
    pivot = int(np.argmax(turned.actions[:, ACTION_NAMES.index("dolly_out")] > 0)) - 1
    assert pivot >= (FRAMES - 1) / 2
    assert turned.actions[pivot + 1, ACTION_NAMES.index("pan_right")] == pytest.approx(0.01, abs=1e-6)
    assert turned.actions[pivot, ACTION_NAMES.index("pan_left")] == pytest.approx(0.01, abs=1e-6)


def test_the_manifest_names_the_vae_and_only_training_clips_turn_back(encoded: Path) -> None:
    manifest = json.loads((encoded / "out" / "encoded.json").read_text())
    assert manifest["latent_space"] == TinyVae.load(encoded / "vae.safetensors").latent_space_digest()
    names = {
        split: [path.stem for path in LatentDataset(encoded / "out", split).paths] for split in ("train", "validation")
    }
    assert names == {
        "train": [f"train-s0000{scene}-c00-v{version}" for scene in (2, 3) for version in (0, 1)],
        "validation": ["validation-s00001-c00-v0"],
    }
    assert len(LatentDataset(encoded / "out", "test")) == 0


def test_encoding_goes_on_where_it_stopped(encoded: Path) -> None:
    folder = encoded / "out" / "latents"
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    lost = folder / "train-s00003-c00-v1.safetensors"
    lost.unlink()
    encode_dataset(encoded / "data", encoded / "vae.safetensors", encoded / "out", seed=5, progress=False)
    after = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    assert {name: content for name, (_, content) in after.items()} == {n: content for n, (_, content) in before.items()}
    assert [name for name in after if after[name][0] != before[name][0]] == [lost.name]


def test_another_vae_is_refused(encoded: Path, tmp_path: Path) -> None:
    write_vae(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ValueError, match="with another VAE"):
        encode_dataset(encoded / "data", tmp_path / "other.safetensors", encoded / "out", progress=False)


@pytest.mark.parametrize(
    ("frames", "pivot", "expected"),
    [(5, 4, [0, 1, 2, 3, 4]), (5, 3, [0, 1, 2, 3, 2]), (5, 2, [0, 1, 2, 1, 0]), (6, 3, [0, 1, 2, 3, 2, 1])],
)
def test_palindromes_run_to_the_pivot_and_back(frames: int, pivot: int, expected: list[int]) -> None:
    assert palindrome(frames, pivot).tolist() == expected


def test_bad_input_is_named(encoded: Path, tmp_path: Path) -> None:
    for pivot in (1, 5):
        with pytest.raises(ValueError, match=f"pivot {pivot} of 5 frames"):
            palindrome(5, pivot)
    with pytest.raises(ValueError, match="palindromes -1"):
        encode_dataset(encoded / "data", encoded / "vae.safetensors", tmp_path, palindromes=-1)
    with pytest.raises(FileNotFoundError, match=r"no encoded\.json"):
        LatentDataset(tmp_path, "train")
