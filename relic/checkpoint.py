"""Checkpoints: safetensors with their configuration inside. The only place that reads or writes weights.

What is said of the tensors is one JSON object under one key of the file's metadata: safetensors writes several keys in
no fixed order, and equal checkpoints are to be equal files. Files with a key for each entry are read as well.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from relic.failures import DamagedFileError

_METADATA, _CONFIG = "relic", "config"


def save_checkpoint(
    path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], extra: Mapping[str, str] | None = None
) -> None:
    """Write tensors and their configuration atomically; equal ones give equal files.

    Args:
        path: file to write; its folder must exist.
        state: tensors by name.
        config: JSON-able description from which the module is built again.
        extra: further metadata (recipe, commit, ...).

    Raises:
        OSError: when it cannot be written; what was there before is untouched.
    """
    metadata = {_METADATA: json.dumps({**(extra or {}), _CONFIG: config}, sort_keys=True)}
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        _write({name: tensor.detach().contiguous() for name, tensor in state.items()}, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        number = errno.EIO if told is None else int(told[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration of a checkpoint.

    On the processor the file is mapped: what is not used of a tensor is not read, and processes share what is.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no whole safetensors checkpoint of ours; `DamagedFileError` where it is not whole.
    """
    state, metadata = _read(path, with_tensors=True)
    return state, _ours(path, metadata)[_CONFIG]


def read_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its tensors: `config`, and the further metadata; raises as `load_checkpoint`."""
    return _ours(path, _read(path, with_tensors=False)[1])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file that others wrote.

    Raises:
        FileNotFoundError: when there is no such file.
        DamagedFileError: when it is no whole safetensors file.
    """
    return _read(path, with_tensors=True)[0]


def _read(path: Path, *, with_tensors: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is not a whole safetensors file ({error}): fetch or train it again") from error
    return state, metadata


def _ours(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if _METADATA in metadata:
        return dict(json.loads(metadata[_METADATA]))
    if _CONFIG in metadata:
        return {**metadata, _CONFIG: json.loads(metadata[_CONFIG])}
    raise ValueError(f"{path} carries no configuration: it was not written by RELIC")


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a module, in float32.

    Raises:
        ValueError: when they do not fit; it names the file and the parameters.
    """
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit its configuration: {error}") from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of tensors by name, shape and float32 value."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().float().contiguous().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
