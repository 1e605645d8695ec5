"""Markdown tables of what static analysis, the roofline and the checks found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from relic_kernels.checks import Check
from relic_kernels.roofline import Count, Machine, Shape
from relic_kernels.static_analysis import Compiled
from relic_kernels.timing import Timing


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"


def static_table(compiled: Iterable[Compiled]) -> str:
    """One row a kernel, one column a target.

    A cell reads: queries x keys of a tile, warps, stages; registers; spilled bytes; KiB of shared memory; occupancy;
    instructions.
    """
    cells: dict[tuple[str, str], dict[str, str]] = {}
    limits: dict[str, int] = {}
    for one in compiled:
        limits[one.target] = one.shared_limit // 1024
        cells.setdefault((one.operator, one.kernel), {})[one.target] = _static_cell(one)
    header = ["operator", "kernel", *(f"{target} ({limit} KiB)" for target, limit in limits.items())]
    return table(header, ([*names, *(row.get(target, "") for target in limits)] for names, row in cells.items()))


def _static_cell(one: Compiled) -> str:
    shape = [one.tile.replace(" ", "")] if one.tile else []
    parts = [
        ", ".join([*shape, f"{one.warps} w", f"{one.stages} st"]),
        f"{one.registers} r",
        f"{one.spilled_bytes} sp",
        f"{one.shared_bytes / 1024:.0f} KiB",
        f"{one.occupancy:.0%}",
        *(f"{number} {name}" for name, number in one.instructions.items() if number),
    ]
    if one.tensor_memory:
        parts.append(f"{one.tensor_memory} columns")
    return "; ".join(parts)


def traffic_table(shape: Shape, counts: Mapping[Machine, Sequence[Count]]) -> str:
    """One row a kernel: bytes beside the least, and time on each machine.

    Args:
        shape: the world.
        counts: of each machine, the same kernels in the same order.
    """
    machines = list(counts)
    header = ["operator", "kernel", "least, MB", *(f"{machine.title}: bytes x, time" for machine in machines)]
    rows = []
    for index, first in enumerate(counts[machines[0]]):
        cells = [_time_cell(counts[machine][index]) for machine in machines]
        rows.append([first.operator, first.kernel, f"{first.least_bytes / 1e6:.0f}", *cells])
    return f"{shape.title}: {shape.tokens} tokens of the block, {_all_tokens(shape)} read.\n\n" + table(header, rows)


def request_table(machine: Machine, counts: Sequence[Count]) -> str:
    """What attention's programs ask of the L2 cache of one machine, and the operations of ragged tiles."""
    header = ("kernel", "GFLOP", "over the least", "requested, GB", "over the least", "L2 rate at that time, TB/s")
    rows = [
        [
            one.kernel, f"{one.flops / 1e9:.0f}", f"{one.flops / one.least_flops:.3f}",
            f"{one.requested_bytes / 1e9:.1f}", f"{one.requested_bytes / one.least_bytes:.0f}",
            f"{one.requested_bytes / one.seconds / 1e12:.1f}",
        ]
        for one in counts
        if one.least_flops
    ]  # fmt: skip
    return f"Attention on {machine.title}:\n\n" + table(header, rows)


def _time_cell(one: Count) -> str:
    milliseconds = one.seconds * 1e3
    bound = "compute" if one.compute_bound else "memory"
    return f"{one.memory_bytes / one.least_bytes:.2f}, {milliseconds:.3g} ms ({bound})"


def _all_tokens(shape: Shape) -> int:
    return sum(tokens for _, tokens, _, _ in shape.parts)


def accuracy_table(found: Iterable[Check]) -> str:
    """One row an operator: largest errors of outputs and of gradients, a dtype."""
    worst: dict[str, dict[tuple[str, bool], float]] = {}
    dtypes: list[str] = []
    for check in found:
        name = check.operator
        if "beside" in check.output:
            name += ", beside memory as it was"
        key = (check.dtype, check.output.startswith("gradient"))
        cells = worst.setdefault(name, {})
        cells[key] = max(check.error, cells.get(key, 0.0))
        if check.dtype not in dtypes:
            dtypes.append(check.dtype)
    header = ["operator", *(f"{dtype}: outputs, gradients" for dtype in dtypes)]
    return table(header, ([name, *(_errors(cells, dtype) for dtype in dtypes)] for name, cells in worst.items()))


def timing_table(timings: Iterable[Timing]) -> str:
    """One row a way; TFLOP/s where attention's products are timed."""
    rows = (
        [one.operator, one.way, f"{one.milliseconds:.3f}", f"{one.tflops:.0f}" if one.flops else ""] for one in timings
    )
    return table(("operator", "way", "median, ms", "TFLOP/s"), rows)


def _errors(cells: Mapping[tuple[str, bool], float], dtype: str) -> str:
    return ", ".join(f"{cells[key]:.1e}" for key in ((dtype, False), (dtype, True)) if key in cells)
