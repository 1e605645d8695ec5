"""What to change where a world does not fit: each change is planned anew, and only those that help are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from relic.config import PRESETS, RelicConfig, find_preset
from relic.planning.hardware import GPUS, Dtype
from relic.planning.memory_plan import count_tokens, memory_need
from relic.planning.prediction import Plan

_SHORTER = (10.0, 5.0)


def advice(plan: Plan) -> list[str]:
    """Changes that would make a plan fit, each alone; none for one that fits."""
    if plan.fits:
        return []
    found = [*_cheaper(plan), *_larger_machines(plan), *_smaller_worlds(plan)]
    return found or ["no single change makes it fit: change several at once"]


def in_fp8(config: RelicConfig) -> RelicConfig:
    """The same world whose memory stores 8-bit floats."""
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, storage="fp8"))


def _fits(
    plan: Plan,
    *,
    config: RelicConfig | None = None,
    gpus: int | None = None,
    seconds: float | None = None,
    dtype: Dtype | None = None,
) -> bool:
    """Whether a plan fits once what is given is changed."""
    world = config or plan.config
    need = memory_need(
        world,
        count_tokens(world, seconds or plan.seconds),
        gpus=gpus or plan.gpus,
        dtype=dtype or plan.dtype,
        on_gpu=not plan.device.measured,
    )
    return need.total <= plan.device.memory_bytes


def _cheaper(plan: Plan) -> Iterator[str]:
    text = plan.need.text_encoder
    if plan.need.total - text <= plan.device.memory_bytes:
        yield f"keep the text encoder elsewhere: it takes {text / 1e9:.1f} GB and works once a prompt"
    if plan.config.memory.storage == "float" and _fits(plan, config=in_fp8(plan.config)):
        yield "store memory in FP8: --kv-dtype fp8"
    if plan.dtype == "fp32" and "bf16" in plan.device.flops and _fits(plan, dtype="bf16"):
        yield "run in bfloat16: --dtype bf16"
    shorter = [seconds for seconds in _SHORTER if seconds < plan.seconds and _fits(plan, seconds=seconds)]
    if shorter:
        yield f"remember less: --seconds {shorter[0]:g}"


def _larger_machines(plan: Plan) -> Iterator[str]:
    heads = plan.config.model.num_heads
    counts = [count for count in range(plan.gpus + 1, heads + 1) if heads % count == 0] if plan.device.link else []
    count = next((count for count in counts if _fits(plan, gpus=count)), None)
    if count:
        yield f"share memory and work among more GPUs: --gpus {count}"
    roomy = [gpu for gpu in GPUS.values() if gpu.memory_bytes >= plan.need.total and plan.dtype in gpu.flops]
    if roomy:
        smallest = min(roomy, key=lambda gpu: gpu.memory_bytes)
        yield f"take a GPU with more memory: --gpu {smallest.name}"


def _smaller_worlds(plan: Plan) -> Iterator[str]:
    names = list(PRESETS)
    if plan.config.preset not in names:
        return
    for name in reversed(names[: names.index(plan.config.preset)]):
        config = find_preset(name)
        if config.model.num_heads % plan.gpus == 0 and _fits(plan, config=config):
            yield f"take a smaller world: --preset {name}"
            return
