"""What a training run must remember to go on bit for bit, as tensors with names, and its checkpoint folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from relic.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from relic_distill.ema import Ema
from relic_distill.shares import like, whole

_CHECKPOINT_NAME = re.compile(r"step-(\d{8})\.safetensors")


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        total: optimiser steps of the whole run; 0 until a time budget has been turned into steps.
        seconds: training time spent, all sessions together.
        skipped: steps thrown away because a loss or gradient was not finite.
        best: highest validation figure seen, None before the first.
        best_step: the step it was seen at.
    """

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    skipped: int = 0
    best: float | None = None
    best_step: int = 0


def collect_tensors(
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    averages: Mapping[str, Ema],
    *,
    keep: bool = True,
) -> dict[str, Tensor]:
    """Weights, buffers, optimiser state and averages, by name, on the processor.

    Every process must take part in gathering sharded ones; without `keep` it is left with none.
    """
    tensors = {f"module.{m}.{k}": v for m, module in modules.items() for k, v in module.state_dict().items()}
    tensors |= {f"average.{a}.{k}": v for a, ema in averages.items() for k, v in ema.average.items()}
    for name, optimizer in optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                tensors[f"optimizer.{name}.{index}.{key}"] = torch.as_tensor(value).clone()
    kept = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if keep:
            kept[name] = gathered.cpu()
    return kept


def restore_tensors(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    averages: Mapping[str, Ema],
) -> None:
    """Undo `collect_tensors`.

    Raises:
        ValueError: when the tensors are those of another network.
    """
    try:
        for name, module in modules.items():
            patterns = module.state_dict()
            saved = _under(tensors, f"module.{name}.")
            module.load_state_dict({key: like(patterns.get(key, value), value) for key, value in saved.items()})
    except RuntimeError as error:
        raise ValueError(f"the checkpoint is of another network: {error}; start in an empty folder") from error
    for name, ema in averages.items():
        ema.load_state_dict(_under(tensors, f"average.{name}."))
    for name, optimizer in optimizers.items():
        _restore_optimizer(optimizer, _under(tensors, f"optimizer.{name}."))


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # the same memory layout gives the same vector code, hence the same bits
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(like(parameter, value))
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


class CheckpointFolder:
    """`step-00000123.safetensors` files of one run: written atomically, the newest `keep` kept.

    Args:
        folder: created if absent.
        keep: whole checkpoints that stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(".*.partial-*"):
            partial.unlink(missing_ok=True)

    def paths(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted(path for path in self.folder.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name))

    def save(self, progress: Progress, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
        """Write one checkpoint, then drop the oldest.

        Raises:
            OSError: when it cannot be written (full disk); the checkpoints before it are untouched.
        """
        path = self.folder / f"step-{progress.step:08d}.safetensors"
        save_checkpoint(path, tensors, config, {"progress": json.dumps(asdict(progress))})
        for old in self.paths()[: -self.keep]:
            old.unlink()
        return path

    def load_latest(self) -> tuple[Progress, dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint that is whole, or None in a fresh folder.

        Raises:
            ValueError: when there are checkpoints and none is whole.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                tensors, config = load_checkpoint(path)
                return Progress(**json.loads(read_metadata(path)["progress"])), tensors, config
            except (ValueError, KeyError):
                continue
        if paths:
            raise ValueError(f"no checkpoint in {self.folder} can be read: delete the folder to start again")
        return None
