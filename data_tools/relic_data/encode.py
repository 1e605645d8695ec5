"""Clips to latents: each clip as it is, and time-reversed as palindromes that look back at what they showed.

Axes: T pixel frames, L latent frames, C latent channels, h w latent cells.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from relic.camera import CameraPath, actions_from_poses
from relic.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from relic.json_files import write_json
from relic.pictures import frames_to_tensor
from relic.vae.config import TEMPORAL_FACTOR
from relic.vae.tiny_vae import TinyVae
from relic_data.clips import FPS, Clip, ClipDataset

MANIFEST = "encoded.json"
CAPTION_SECONDS = 5
_PICTURE_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class LatentClip:
    """An encoded clip.

    Attributes:
        name: of the rendered clip, with the version's number.
        latents: `(L, C, h, w)` float16, encoded causally from the clip's first frame on.
        pictures: `(L, C, h, w)` float16; the last pixel frame of each latent frame encoded alone, so that a
            rollout may start there.
        path: T camera poses.
        actions: `(T, 13)` float32.
        captions: one for each five seconds of the rendered clip.
        caption_index: for each latent frame, which caption describes it.
        augmented: whether the clip turns back in time.
    """

    name: str
    latents: Tensor
    pictures: Tensor
    path: CameraPath
    actions: NDArray[np.float32]
    captions: tuple[str, ...]
    caption_index: tuple[int, ...]
    augmented: bool

    @property
    def num_frames(self) -> int:
        """Latent frames L."""
        return len(self.latents)


def palindrome(frames: int, pivot: int) -> NDArray[np.intp]:
    """Frame numbers of a clip that runs to `pivot` and back, `frames` long (paper, section 3).

    Raises:
        ValueError: when the way back would go past the start, or the pivot past the end.
    """
    if not (frames - 1) / 2 <= pivot <= frames - 1:
        raise ValueError(f"pivot {pivot} of {frames} frames must lie in [{(frames - 1) / 2}, {frames - 1}]")
    back = np.arange(pivot - 1, 2 * pivot - frames, -1)
    return np.concatenate([np.arange(pivot + 1), back])


def encode_dataset(
    data: Path, vae_checkpoint: Path, out: Path, *, palindromes: int = 1, seed: int = 0, progress: bool = True
) -> None:
    """Encode every clip of a rendered data set; complete files are kept, so a stopped run goes on.

    The auto-encoder computes on the accelerator that torch finds, else on the processor.

    Args:
        data: folder written by `relic_data.render`.
        vae_checkpoint: exported weights of the tiny VAE.
        out: `out/latents/<clip>-v<k>.safetensors`, version 0 the clip itself, and `out/encoded.json`.
        palindromes: time-reversed versions of each clip of the training split.
        seed: of the pivots, U(T/2, T).
        progress: show a bar.

    Raises:
        ValueError: when `out` was encoded with another VAE or seed, or `palindromes` is negative.
    """
    if palindromes < 0:
        raise ValueError(f"palindromes {palindromes} must be at least 0")
    vae = TinyVae.load(vae_checkpoint).eval()
    latent_space = vae.latent_space_digest()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    vae.to(device)
    if (out / MANIFEST).is_file():
        check_latent_space(out, latent_space)
        before = _read_manifest(out)["seed"]
        if before != seed:
            raise ValueError(f"{out} was encoded with seed {before}, not {seed}: keep it, or choose an empty folder")
    (out / "latents").mkdir(parents=True, exist_ok=True)
    write_json(out / MANIFEST, {"latent_space": latent_space, "seed": seed, "palindromes": palindromes})
    for clip in tqdm(ClipDataset(data, validate=False), desc="encode", disable=not progress):
        for version in range(1 + (palindromes if clip.name.startswith("train-") else 0)):
            target = out / "latents" / f"{clip.name}-v{version}.safetensors"
            if not target.exists():
                random = np.random.default_rng((seed, zlib.crc32(clip.name.encode()), version))
                index = _frame_index(len(clip.path), version, random)
                _encode_version(vae, device, clip, index, target, augmented=version > 0)


def _frame_index(frames: int, version: int, random: np.random.Generator) -> NDArray[np.intp]:
    if version == 0:
        return np.arange(frames)
    return palindrome(frames, int(random.integers((frames - 1) // 2 + 1, frames)))


@torch.inference_mode()
def _encode_version(
    vae: TinyVae, device: torch.device, clip: Clip, index: NDArray[np.intp], target: Path, *, augmented: bool
) -> None:
    with device:
        frames = frames_to_tensor(clip.frames[index])
    latents = vae.encode(frames[None])[0].transpose(0, 1)
    stills = frames[:, ::TEMPORAL_FACTOR].transpose(0, 1).unsqueeze(2)
    pictures = torch.cat([vae.encode(part)[:, :, 0] for part in stills.split(_PICTURE_BATCH)])
    path = clip.path
    path = CameraPath(path.rotations_w2c[index], path.positions[index])
    captions = clip.captions
    segment = index[::TEMPORAL_FACTOR] // (CAPTION_SECONDS * FPS)
    tensors = {
        "latents": latents.half().cpu(),
        "pictures": pictures.half().cpu(),
        "rotations_w2c": torch.from_numpy(np.array(path.rotations_w2c)),
        "positions": torch.from_numpy(np.array(path.positions)),
        "actions": torch.from_numpy(actions_from_poses(path).astype(np.float32)),
        "caption_index": torch.from_numpy(np.minimum(segment, len(captions) - 1)),
    }
    save_checkpoint(target, tensors, {"captions": captions, "augmented": augmented, "frames": len(latents)})


class LatentDataset:
    """Reader of an encoded data set.

    Args:
        root: folder written by `encode_dataset`.
        split: `train`, `validation` or `test`.

    Raises:
        FileNotFoundError: when the folder was not encoded.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.root = Path(root)
        _read_manifest(self.root)
        self.paths = sorted((self.root / "latents").glob(f"{split}-*.safetensors"))
        self.lengths = [int(read_metadata(path)["config"]["frames"]) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def get(self, index: int) -> LatentClip:
        """Read one clip.

        Raises:
            DamagedFileError: when the file is damaged; it is named.
        """
        path = self.paths[index]
        tensors, values = load_checkpoint(path)
        return LatentClip(
            name=path.stem,
            latents=tensors["latents"],
            pictures=tensors["pictures"],
            path=CameraPath(tensors["rotations_w2c"].numpy(), tensors["positions"].numpy()),
            actions=tensors["actions"].numpy(),
            captions=tuple(values["captions"]),
            caption_index=tuple(tensors["caption_index"].tolist()),
            augmented=bool(values["augmented"]),
        )


def check_latent_space(root: Path, latent_space: str) -> None:
    """Check that an encoded data set belongs to an auto-encoder (see `TinyVae.latent_space_digest`).

    Raises:
        FileNotFoundError: when the folder was not encoded.
        ValueError: when another encoder made its latents.
    """
    if _read_manifest(root).get("latent_space") != latent_space:
        raise ValueError(f"{root} was encoded with another VAE: name that one, or encode into an empty folder")


def _read_manifest(root: Path) -> dict[str, Any]:
    if not (root / MANIFEST).is_file():
        raise FileNotFoundError(f"no {MANIFEST} in {root}: run `relic data encode --out {root}`")
    values: dict[str, Any] = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    return values
