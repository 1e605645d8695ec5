"""`relic distill status`: how far training runs are, read from their logs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_EVENTS = ("planned", "resume")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill status`."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")


def run(options: argparse.Namespace) -> int:
    """Print one line a run.

    Raises:
        FileNotFoundError: a folder holds no run.
    """
    for folder in options.runs:
        print(f"{folder}: {describe(folder)}")
    return 0


def describe(folder: Path) -> str:
    """Tell a run's step, loss, time and time left.

    Args:
        folder: of a run, with its `log.jsonl`.

    Raises:
        FileNotFoundError: no log there.
    """
    log = folder / "log.jsonl"
    if not log.is_file():
        raise FileNotFoundError(f"{folder} holds no run: there is no log.jsonl")
    lines = _read(log)
    if not lines:
        return "no step yet"
    newest = lines[-1]
    figures: dict[str, Any] = next((line for line in reversed(lines) if "loss" in line), {})
    total = next((line["total"] for line in reversed(lines) if line.get("total")), None)
    parts = [f"step {newest['step']}{f' of {total}' if total else ''}"]
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.4g}")
    parts.append(f"{_duration(newest['seconds'])} trained")
    if figures.get("eta_s"):
        parts.append(f"about {_duration(figures['eta_s'])} left")
    if newest.get("event") not in (None, *_EVENTS):
        parts.append(str(newest["event"]))
    return ", ".join(parts)


def _read(log: Path) -> list[dict[str, Any]]:
    """The log's lines; one torn by a kill is left out."""
    lines = []
    for text in log.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and {"step", "seconds"} <= line.keys():
            lines.append(line)
    return lines


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
