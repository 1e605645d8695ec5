"""`relic bench history`: time and bytes of a block at histories up to minutes, for each memory and storage."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from relic_app.bench_options import add_computing_arguments, load_world, set_threads

if TYPE_CHECKING:
    from relic.benchmarks.histories import Subject
    from relic.config import MemoryConfig

MEMORIES = ("full", "compressed", "compressed-fp8", "window")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench history`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--weights", type=Path, help="weights folder; the shipped one when left out")
    what.add_argument("--preset", help="a preset's network with random weights instead, such as wan-14b")
    add_computing_arguments(parser)
    parser.add_argument("--device", help="where a preset's network computes; a GPU, in bfloat16, where there is one")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[1.0, 5.0, 20.0, 60.0, 300.0], help="histories before the block"
    )
    parser.add_argument("--memory", nargs="+", choices=MEMORIES, default=list(MEMORIES), help="policies and storages")
    parser.add_argument("--repeats", type=int, default=5, help="blocks each; medians are printed")
    parser.add_argument("--plot", type=Path, help="PNG to draw the times into")


def run(options: argparse.Namespace) -> int:
    """Measure, and print each row of a Markdown table as soon as it is known.

    Raises:
        ValueError: a bad number, an unknown preset or device, or one that is not here.
        FileNotFoundError: no such weights.
    """
    from relic.benchmarks.histories import HistoryCost, history_costs, history_table

    subject = _subject(options)
    memories = [_memory(subject.config.memory, name) for name in options.memory]
    costs: list[HistoryCost] = []

    def measured() -> Iterator[HistoryCost]:
        for cost in history_costs(subject, memories, options.seconds, options.repeats):
            costs.append(cost)
            yield cost

    for line in history_table(measured()):
        print(line, flush=True)
    if options.plot is not None:
        from relic_distill.curves import draw_comparison

        series = {
            f"{memory.policy}, {memory.storage}": [
                (c.seconds, c.milliseconds) for c in costs if c.memory == memory and c.milliseconds is not None
            ]
            for memory in memories
        }
        draw_comparison(series, "network time of a block, ms", "s of history", options.plot)
    return 0


def _subject(options: argparse.Namespace) -> Subject:
    import torch

    from relic.benchmarks.histories import Subject
    from relic.config import find_preset
    from relic.precision import find_dtype
    from relic_app.world_options import find_device

    if options.preset is None:
        if options.device is not None:
            raise ValueError(f"--device {options.device} without --preset: shipped weights are played on a processor")
        return Subject.of_world(load_world(options))
    config = find_preset(options.preset)
    device = find_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    set_threads(options)
    dtype = find_dtype(options.precision) if device.type == "cpu" else torch.bfloat16
    return Subject.of_preset(config, device, dtype)


def _memory(base: MemoryConfig, name: str) -> MemoryConfig:
    from dataclasses import replace

    match name:
        case "full":
            return replace(base, policy="full", storage="float")
        case "window":
            return replace(base, policy="window", storage="float")
        case "compressed-fp8":
            return replace(base, policy="compressed", storage="fp8")
        case _:
            return replace(base, policy="compressed", storage="float")
