"""Where a run's figures are written as it goes: `log.jsonl` always, TensorBoard's event files on demand."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes the lines of a run's log."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Take a line: `step`, `seconds`, and either figures or an `event`."""

    def close(self) -> None:
        """Finish writing."""


class RunLog:
    """One JSON object a line.

    Args:
        path: the file; its folder exists.
        step: lines of later steps, and a last line torn by a kill, are dropped; None starts an empty log.
    """

    def __init__(self, path: Path, step: int | None) -> None:
        self.path = path
        kept = [] if step is None or not path.exists() else _lines_up_to(path, step)
        partial = path.with_name(f".log.partial-{os.getpid()}")
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, path)

    def write(self, line: Mapping[str, Any]) -> None:
        """See `Tracker.write`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """See `Tracker.close`."""


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return kept


class TensorBoard:
    """Figures as TensorBoard's scalars, `train/...` and `validation/...`.

    Args:
        folder: of event files.
        step: what an earlier session logged of later steps is no longer shown.

    Raises:
        ValueError: when the package is missing.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                f"--tensorboard needs a package that is not here ({error}): pip install -c constraints.txt tensorboard"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """See `Tracker.write`."""
        event = line.get("event")
        if event not in (None, "validation"):
            return
        for name, value in line.items():
            if name not in ("step", "event") and isinstance(value, int | float):
                self._writer.add_scalar(f"{event or 'train'}/{name}", value, line["step"])
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()
