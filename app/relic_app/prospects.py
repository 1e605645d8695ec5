"""What each preset needs, and what of it will run on this machine and how fast: plans for the doctor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relic.config import RelicConfig
    from relic.planning.hardware import Device, Dtype
    from relic.planning.prediction import Plan

HISTORY_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prospect:
    """A preset on this machine.

    Attributes:
        preset: its name.
        needed_bytes: in bfloat16 on one GPU; for a world that plays on the processor, in float32 there.
        runs: whether it fits here.
        fps: predicted frames a second here; None where it does not run or nothing is known of the GPU.
        detail: in words.
    """

    preset: str
    needed_bytes: int
    runs: bool
    fps: float | None
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What presets are planned for.

    Attributes:
        processor: measured.
        gpu: the table's row of the first GPU, with the memory that it reports; None without a known one.
        gpu_count: GPUs of that kind.
        unknown: name of a GPU that is not in the table.
    """

    processor: Device
    gpu: Device | None = None
    gpu_count: int = 0
    unknown: str = ""


def this_machine() -> Machine:
    """Look at the GPUs and measure the processor for a second."""
    import torch

    from relic.planning.hardware import find_gpu_by_title, this_processor
    from relic.precision import suits_bfloat16

    processor = this_processor("fp32", "bf16") if suits_bfloat16() else this_processor("fp32")
    if not torch.cuda.is_available():
        return Machine(processor=processor)
    first = torch.cuda.get_device_properties(0)
    known = find_gpu_by_title(first.name)
    if known is None:
        return Machine(processor=processor, unknown=first.name)
    alike = sum(torch.cuda.get_device_name(index) == first.name for index in range(torch.cuda.device_count()))
    gpu = dataclasses.replace(known, memory_bytes=float(first.total_memory))
    return Machine(processor=processor, gpu=gpu, gpu_count=alike)


def prospects(machine: Machine, weights: Path) -> Iterator[Prospect]:
    """Every preset's prospect; the mini world with the sampler of the weights in `weights`, where they are readable."""
    from relic.config import PRESETS

    for name, preset in PRESETS.items():
        yield _prospect(machine, shipped_config(weights) if name == "mini" else preset())


def shipped_config(weights: Path) -> RelicConfig:
    """The configuration that a weights folder's world was saved with; the mini preset where it cannot be read."""
    from relic.checkpoint import read_metadata
    from relic.config import RelicConfig, from_json, mini
    from relic.weights import read_manifest

    try:
        manifest = read_manifest(weights, verify=False)
        return from_json(RelicConfig, read_metadata(weights / manifest.world)["config"])
    except (OSError, ValueError):
        return mini()


def _prospect(machine: Machine, config: RelicConfig) -> Prospect:
    alone, home = _need(config, "bf16", on_gpu=True), _need(config, "fp32", on_gpu=False)
    at_home = config.preset == "mini" and machine.gpu is None
    needed = f"{home / 1e9:.2f} GB" if at_home else f"{alone / 1e9:.1f} GB in bf16 on one GPU"
    plan, where = _fastest(machine, config, home)
    return Prospect(
        preset=config.preset,
        needed_bytes=home if at_home else alone,
        runs=plan is not None,
        fps=None if plan is None else plan.speed.fps,
        detail=f"needs {needed} after {HISTORY_SECONDS:g} s; {where}",
    )


def _need(config: RelicConfig, dtype: Dtype, *, on_gpu: bool) -> int:
    from relic.planning.memory_plan import count_tokens, memory_need

    tokens = count_tokens(config, HISTORY_SECONDS)
    return memory_need(config, tokens, gpus=1, dtype=dtype, on_gpu=on_gpu).total


def _fastest(machine: Machine, config: RelicConfig, home: int) -> tuple[Plan | None, str]:
    """The fastest plan that fits this machine, and in words what it gives or what is lacking."""
    from relic.planning.prediction import plan_world

    more = f"`relic plan --preset {config.preset} --gpu NAME` tells what would"
    if machine.gpu is not None:
        counts = [count for count in range(1, machine.gpu_count + 1) if config.model.num_heads % count == 0]
        plans = [plan_world(config, machine.gpu, gpus=count, seconds=HISTORY_SECONDS) for count in counts]
        fitting = [plan for plan in plans if plan.fits]
        if not fitting:
            return None, f"not here, on {machine.gpu_count} x {machine.gpu.title}; {more}"
        best = max(fitting, key=lambda plan: plan.speed.fps)
        return best, f"here on {best.gpus} x {best.device.title} {_rate(best)}"
    if config.preset != "mini" and machine.unknown:
        return None, f"{machine.unknown} is not in the table of GPUs: speed unknown; {more}"
    if home > machine.processor.memory_bytes:
        lacking = (
            f"{home / 1e9:.1f} GB in fp32 on the processor, which has {machine.processor.memory_bytes / 1e9:.1f} GB"
        )
        return None, f"not here ({lacking}); {more}"
    narrow = config.preset == "mini" and "bf16" in machine.processor.flops
    plan = plan_world(config, machine.processor, seconds=HISTORY_SECONDS, dtype="bf16" if narrow else "fp32")
    return plan, f"here on the processor {_rate(plan)}"


def _rate(plan: Plan) -> str:
    fps = plan.speed.fps
    if fps >= plan.config.fps:
        return f"in real time: about {fps:.3g} frames/s could be drawn, {plan.config.fps} are shown"
    return f"about {fps:.2g} of {plan.config.fps} frames/s"
