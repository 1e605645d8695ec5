"""`relic bench kernels`: what the GPU kernels compile to, move, get right, and take."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relic_kernels.roofline import Machine, Shape

PRESETS = ("wan-1.3b", "wan-14b")
HISTORY_LATENTS = 80
"""20 s: 317 pixel frames."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic bench kernels`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--static", action="store_true", help="compile ahead of time for GPUs that are not here; count")
    what.add_argument("--roofline", action="store_true", help="bytes, operations and the least time on each GPU")
    what.add_argument("--accuracy", action="store_true", help="errors beside float64, in Triton's interpreter")
    parser.add_argument("--targets", nargs="+", help="architectures of --static; all when left out")
    parser.add_argument("--only", default="", help="kernels of --static, or operators to time, of such names")
    parser.add_argument("--out", type=Path, help="also write the Markdown tables to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and print Markdown tables; without a choice, check and time every operator on this machine's GPU.

    Returns:
        0, or 1 where a kernel spills, takes more shared memory than there is, or is too far from its reference.

    Raises:
        ValueError: no GPU to time on, an unknown architecture, or nothing of that name.
    """
    if options.static:
        text, faults = _static(options.targets, options.only)
    elif options.roofline:
        text, faults = _roofline(), []
    elif options.accuracy:
        text, faults = _accuracy()
    else:
        text, faults = _times(options.only)
    print(text, end="")
    if options.out is not None:
        _write(options.out, text)
    for fault in faults:
        print(f"relic: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _static(targets: list[str] | None, only: str) -> tuple[str, list[str]]:
    from relic_kernels.static_analysis import TARGETS, measure_apart
    from relic_kernels.tables import static_table

    unknown = sorted(set(targets or ()) - set(TARGETS))
    if unknown:
        raise ValueError(f"unknown targets {unknown}: choose from {', '.join(TARGETS)}")
    compiled = []
    for one in measure_apart([(target, only) for target in TARGETS if targets is None or target in targets]):
        compiled.append(one)
        print(f"{len(compiled)} compiled: {one.operator}, {one.kernel}, {one.target}", file=sys.stderr)
    if not compiled:
        raise ValueError(f"no kernel's name contains {only!r}")
    return static_table(compiled), [fault for one in compiled for fault in one.faults]


def _roofline() -> str:
    from relic_kernels.roofline import count
    from relic_kernels.tables import request_table, traffic_table

    texts = []
    for shape in map(_shape, PRESETS):
        counts = {machine: count(shape, machine) for machine in _machines()}
        texts.append(traffic_table(shape, counts))
        texts += [request_table(machine, counted) for machine, counted in counts.items()]
    return "\n".join(texts)


def _accuracy() -> tuple[str, list[str]]:
    from relic_kernels.checks import measure_apart
    from relic_kernels.tables import accuracy_table

    found = list(measure_apart())
    return accuracy_table(found), [check.fault for check in found if not check.passed]


def _times(only: str) -> tuple[str, list[str]]:
    from relic_kernels.tables import accuracy_table, timing_table
    from relic_kernels.timing import check_all, gpu, operators_named, timings

    operators = operators_named(only)
    device = gpu()
    found = check_all(device)
    faults = [check.fault for check in found if not check.passed]
    text = accuracy_table(found)
    if faults:
        return text, [*faults, "no times: an operator is wrong here"]
    for shape in map(_shape, PRESETS):
        text += f"\n{shape.title}:\n\n" + timing_table(timings(shape, device, operators))
    return text, []


def _shape(preset: str) -> Shape:
    """A block at 20 s of history, as the preset's memory keeps it."""
    from relic.config import find_preset
    from relic.memory.compression import frame_factor, pooled_positions, pooled_tokens
    from relic.model.rope import grid_positions
    from relic_kernels.roofline import Shape

    config = find_preset(preset)
    model, memory, block = config.model, config.memory, config.sampler.block_frames
    factors = [frame_factor(i, memory.schedule) for i in range(HISTORY_LATENTS - memory.window - block)]
    space = grid_positions(model.grid)
    rows, columns = (
        len({float(cell[axis]) for factor in set(factors) for cell in pooled_positions(space, model.grid, factor)})
        for axis in (0, 1)
    )
    return Shape(
        title=preset,
        heads=model.num_heads,
        head_width=model.head_dim,
        grid=model.grid,
        block_frames=block,
        window_frames=memory.window,
        pooled_tokens=sum(pooled_tokens(model.grid, factor) for factor in factors),
        pooled_places=(len(factors), rows, columns),
    )


def _machines() -> list[Machine]:
    """GPUs of `relic.planning`, with what a roofline needs besides: architecture, L2 cache in bytes, multiprocessors.

    From NVIDIA's architecture papers of A100, H100 and RTX Blackwell; B200's figures are not from one.
    """
    from relic.planning.hardware import GPUS
    from relic_kernels.configurations import Target
    from relic_kernels.roofline import Machine

    caches: dict[str, tuple[Target, float, int]] = {
        "a100": ("sm_80", 40e6, 108),
        "h100": ("sm_90", 50e6, 132),
        "h200": ("sm_90", 50e6, 132),
        "b200": ("sm_100", 126e6, 148),
        "rtx5090": ("sm_120", 96e6, 170),
    }
    return [
        Machine(
            title=GPUS[name].title,
            target=target,
            flops=GPUS[name].flops["bf16"],
            bandwidth=GPUS[name].bandwidth,
            l2_bytes=l2_bytes,
            multiprocessors=multiprocessors,
        )
        for name, (target, l2_bytes, multiprocessors) in caches.items()
    ]


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
