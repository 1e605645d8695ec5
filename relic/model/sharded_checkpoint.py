"""A model's folder of safetensors, as diffusers shards it: checked by its headers, then read tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

SINGLE_FILE = "diffusion_pytorch_model.safetensors"
INDEX_FILE = SINGLE_FILE + ".index.json"

_FLOATS = ("F64", "F32", "F16", "BF16")
_LONGEST_HEADER = 100_000_000
_NAMED = 6
"""Tensors that an error lists before it only counts."""


@dataclass(frozen=True, kw_only=True)
class ShardedCheckpoint:
    """Where each tensor of a folder lies, and its shape; no tensor is read yet.

    Attributes:
        folder: of the files.
        shapes: by tensor name.
        shards: names of the tensors of each file.
    """

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    shards: Mapping[str, tuple[str, ...]]

    @classmethod
    def open(cls, folder: Path) -> ShardedCheckpoint:
        """Read the headers of all files.

        Args:
            folder: holds `diffusion_pytorch_model.safetensors`, or its index and the shards that it names.

        Raises:
            ValueError: for a folder without weights, a missing or truncated shard, an index that disagrees with its
                shards, or a tensor that is not of floating point.
        """
        index = folder / INDEX_FILE
        where = _read_index(index) if index.is_file() else None
        if where is None and not (folder / SINGLE_FILE).is_file():
            raise ValueError(
                f"no weights in {folder}: there is neither {SINGLE_FILE} nor {INDEX_FILE} "
                "(other formats, pickled ones above all, are not read)"
            )
        files = sorted(set(where.values())) if where is not None else [SINGLE_FILE]
        headers = {file: _read_header(folder / file, index) for file in files}
        found = [(name, file) for file, header in headers.items() for name in header]
        if where is not None:
            astray = sorted(set(where.items()) ^ set(found))
            if astray:
                told = _listed([f"{name} in {file}" for name, file in astray])
                raise ValueError(f"{index} and the shards disagree about {told}: fetch the folder again")
        return cls(
            folder=folder,
            shapes={name: headers[file][name] for name, file in found},
            shards={file: tuple(header) for file, header in headers.items()},
        )

    def check_shapes(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Compare names and shapes with those of a network.

        Raises:
            ValueError: when they differ; it names the tensors that are missing, too many or misshapen.
        """
        misshapen = [
            f"{name} {self.shapes[name]} instead of {shape}"
            for name, shape in wanted.items()
            if name in self.shapes and self.shapes[name] != shape
        ]
        faults = {
            "missing": sorted(wanted.keys() - self.shapes.keys()),
            "unknown": sorted(self.shapes.keys() - wanted.keys()),
            "misshapen": misshapen,
        }
        if any(faults.values()):
            told = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
            raise ValueError(f"the tensors in {self.folder} disagree with its config.json: {told}")

    def tensors(
        self, dtype_of: Callable[[str], torch.dtype], device: torch.device | str = "cpu"
    ) -> Iterator[tuple[str, Tensor]]:
        """Every tensor in memory of its own, one at a time.

        Args:
            dtype_of: wanted precision by tensor name.
            device: to put it on.
        """
        for file, names in self.shards.items():
            with safe_open(self.folder / file, framework="pt") as shard:
                for name in names:
                    yield name, shard.get_tensor(name).to(device=device, dtype=dtype_of(name), copy=True)


def _read_index(path: Path) -> dict[str, str]:
    try:
        where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        plain = all(isinstance(file, str) and Path(file).name == file for file in where.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of shards ({error!r}): fetch the folder again") from error
    if not where or not plain:
        raise ValueError(f"{path} is no index of shards: its weight_map must name files of its own folder")
    return dict(where)


def _read_header(path: Path, index: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name, from the first bytes alone: mapping a file that is larger than the memory fails."""
    if not path.is_file():
        raise ValueError(f"{index} names {path.name}, which is missing: fetch the folder again")
    total = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(_LONGEST_HEADER, total - 8):
                raise ValueError("no header")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        types = {name: entry["dtype"] for name, entry in header.items()}
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        end = max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): fetch it again") from error
    if 8 + length + end != total:
        raise ValueError(
            f"{path} is not a whole safetensors file ({total} bytes instead of {8 + length + end}): fetch it again"
        )
    strange = [f"{name} of {dtype}" for name, dtype in types.items() if dtype not in _FLOATS]
    if strange:
        raise ValueError(f"{path} holds {_listed(strange)}: only {', '.join(_FLOATS)} are read")
    return shapes


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
