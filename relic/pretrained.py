"""Model folders of diffusers and transformers: read from the disk alone, from safetensors alone, and whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError


def load_pretrained(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Load a model folder onto the CPU, in evaluation mode.

    Args:
        model_class: a diffusers or transformers model class.
        folder: holds `config.json` and safetensors.
        dtype: of the weights.

    Returns:
        The model.

    Raises:
        FileNotFoundError: when there is no such folder or no `config.json` in it.
        ValueError: for a folder of another class, a damaged or missing file, or tensors that disagree with the
            configuration; it names the folder and the tensors.
    """
    name = model_class.__name__
    check_class(folder, name)
    try:
        model, report = model_class.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=dtype
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} is no whole {name}: {error}") from error
    faults = {kind: sorted(report[f"{kind}_keys"]) for kind in ("missing", "unexpected", "mismatched")}
    if any(faults.values()):
        told = "; ".join(f"{kind}: {', '.join(map(str, keys))}" for kind, keys in faults.items() if keys)
        raise ValueError(f"the tensors in {folder} disagree with its config.json ({told}): fetch the folder again")
    return model.eval()


def check_class(folder: Path, name: str) -> dict[str, Any]:
    """The values of a folder's `config.json`.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is no JSON or another class's.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {name} in {folder}: there is no config.json; name a folder in diffusers' layout")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch the folder again") from error
    found = values.get("_class_name") or ", ".join(values.get("architectures") or []) or "nothing"
    if found != name:
        raise ValueError(f"{path} describes {found}, not {name}: name the folder of a {name}")
    return dict(values)
