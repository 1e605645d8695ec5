"""Where a world's weights lie, and the manifest that vouches for them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relic.checkpoint import sha256_of
from relic.json_files import write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `manifest.json` says of a weights folder.

    Attributes:
        world: file name of the world model's checkpoint.
        vae: file name of the video auto-encoder's checkpoint.
        depth: file name of the depth network's checkpoint; None for a world without reprojection.
        sha256: digest of each file.
        provenance: recipe, git commit, data seed, training time: free values for people and model cards.
    """

    world: str
    vae: str
    depth: str | None = None
    sha256: dict[str, str]
    provenance: dict[str, Any]

    @property
    def files(self) -> tuple[str, ...]:
        """Every checkpoint of the folder."""
        return tuple(name for name in (self.world, self.vae, self.depth) if name is not None)


def default_weights_dir() -> Path:
    """`$RELIC_WEIGHTS` if set, else the repository's `weights/`."""
    override = os.environ.get("RELIC_WEIGHTS")
    return Path(override) if override else Path(__file__).resolve().parent.parent / "weights"


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read and check a weights folder.

    Args:
        folder: holds `manifest.json` and the files it names.
        verify: compare every file's sha256.

    Raises:
        FileNotFoundError: when the manifest or a file is missing.
        ValueError: when a file is not the one the manifest was written for.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no {MANIFEST} in {folder}: name a weights folder with --weights or $RELIC_WEIGHTS")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(
            world=values["world"],
            vae=values["vae"],
            depth=values.get("depth"),
            sha256=values["sha256"],
            provenance=values.get("provenance", {}),
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of a world ({error!r}): fetch the weights folder whole") from error
    for name in manifest.files:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{path} names {name}, which is missing: fetch the weights folder whole")
        if verify and sha256_of(folder / name) != manifest.sha256.get(name):
            raise ValueError(f"{folder / name} differs from its sha256 in {MANIFEST}: fetch it again")
    return manifest


def write_manifest(
    folder: Path, world: str, vae: str, provenance: dict[str, Any], depth: str | None = None
) -> Manifest:
    """Write `manifest.json` for files that lie in `folder`, atomically."""
    manifest = Manifest(
        world=world,
        vae=vae,
        depth=depth,
        sha256={name: sha256_of(folder / name) for name in (world, vae, depth) if name is not None},
        provenance=provenance,
    )
    values = {
        "world": manifest.world,
        "vae": manifest.vae,
        "depth": manifest.depth,
        "sha256": manifest.sha256,
        "provenance": manifest.provenance,
    }
    write_json(folder / MANIFEST, values)
    return manifest
