"""Trained checkpoints made into a weights folder that plays: bfloat16 tensors, manifest, provenance."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

from torch import Tensor

from relic.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from relic.config import RelicConfig, from_json, to_json
from relic.reprojection.config import Preference
from relic.vae.tiny_vae import TinyVae
from relic.weights import Manifest, write_manifest
from relic_distill.model_card import write_card
from relic_distill.stage_teacher import is_bidirectional

WORLD_FILE = "mini-world.safetensors"
VAE_FILE = "mini-vae.safetensors"
DEPTH_FILE = "mini-depth.safetensors"
SIZE_LIMIT_BYTES = 40_000_000


def release(
    world: Path,
    vae: Path,
    folder: Path,
    provenance: dict[str, Any],
    *,
    depth: Path | None = None,
    steps: int | None = None,
    prefer: Preference | None = None,
    average_with: Path | None = None,
    share: float = 0.5,
) -> Manifest:
    """Write `mini-world`, `mini-vae` and `mini-depth.safetensors`, `manifest.json`, and the facts of `MODEL_CARD.md`.

    The tensors of world and depth network become bfloat16; the auto-encoder, which is small and paints the picture,
    stays as trained.
    The folder's manifest is replaced last, so a stop in between leaves the old one with a digest that does not
    match, never a wrong world that loads.

    Args:
        world: exported weights of the world model, or the folder of a run: its best by validation.
        vae: exported weights of the auto-encoder it was trained on.
        folder: where the weights go; created if absent.
        provenance: free values for the manifest (recipe, data seed, hours, measured figures).
        depth: exported weights of the depth network, for a world with reprojection.
        steps: denoising steps a block that the world is to be played with; None keeps the training's.
        prefer: which view paints a guide first in play; None keeps the training's.
        average_with: exported weights that the world's training began from: the release is `share` of the world's own,
            the rest of these (Wortsman et al. 2022, arXiv 2109.01903).
        share: in (0, 1].

    Raises:
        ValueError: when a file would be larger than 40 MB, the two do not belong together, or the world cannot play.
    """
    world = world / "best.safetensors" if world.is_dir() else world
    commit = git_commit()  # before this changes the checkout itself
    state, values = load_checkpoint(world)
    if average_with is not None:
        state = _average(state, load_checkpoint(average_with)[0], share, average_with)
    config = _as_played(from_json(RelicConfig, values), steps, prefer)
    _check(world, config, vae, depth)
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(tensor.numel() * 2 for tensor in state.values())
    if max(size, vae.stat().st_size) > SIZE_LIMIT_BYTES:
        raise ValueError(f"{world} ({size} bytes as bfloat16) or {vae} is over {SIZE_LIMIT_BYTES} bytes")
    save_checkpoint(folder / WORLD_FILE, {name: _half(tensor) for name, tensor in state.items()}, to_json(config))
    shutil.copyfile(vae, folder / f".{VAE_FILE}.partial")
    (folder / f".{VAE_FILE}.partial").replace(folder / VAE_FILE)
    if depth is not None:
        network, sizes = load_checkpoint(depth)
        save_checkpoint(folder / DEPTH_FILE, {name: _half(tensor) for name, tensor in network.items()}, sizes)
    manifest = write_manifest(
        folder,
        WORLD_FILE,
        VAE_FILE,
        {"git_commit": commit, **provenance},
        depth=None if depth is None else DEPTH_FILE,
    )
    write_card(folder, manifest)
    return manifest


def _check(world: Path, config: RelicConfig, vae: Path, depth: Path | None) -> None:
    if is_bidirectional(world):
        raise ValueError(
            f"{world} is a bidirectional teacher, which sees a whole video at once: name the export of `relic distill "
            "causal` or `relic distill dmd`"
        )
    if read_metadata(world).get("vae") != TinyVae.load(vae).latent_space_digest():
        raise ValueError(f"{world} was not trained on the latents of {vae}: name its own VAE, or one with its encoder")
    if (depth is None) != (config.reprojection is None):
        raise ValueError(
            f"{world} is {'not ' if config.reprojection is None else ''}guided by reprojection: "
            f"{'leave the depth network out' if depth is not None else 'name its depth network'}"
        )


def _average(state: dict[str, Tensor], other: dict[str, Tensor], share: float, source: Path) -> dict[str, Tensor]:
    if not 0 < share <= 1:
        raise ValueError(f"share {share:g} must lie in (0, 1]")
    sizes, others = ({name: tuple(tensor.shape) for name, tensor in one.items()} for one in (state, other))
    if sizes != others:
        differing = sorted(name for name in sizes.keys() | others.keys() if sizes.get(name) != others.get(name))
        raise ValueError(f"{source} is no network of the same sizes: {', '.join(differing[:3])} differ")
    return {name: share * tensor.float() + (1 - share) * other[name].float() for name, tensor in state.items()}


def _as_played(config: RelicConfig, steps: int | None, prefer: Preference | None) -> RelicConfig:
    config = config.with_steps(steps)
    if prefer is not None and config.reprojection is not None:
        config = dataclasses.replace(config, reprojection=dataclasses.replace(config.reprojection, prefer=prefer))
    return config


def git_commit() -> str:
    """The commit the code is at, or `unknown` outside a checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with changes" if changed else head


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return found.stdout.strip()


def _half(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor
