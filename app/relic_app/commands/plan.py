"""`relic plan`: what a world needs on a machine and how fast it will be, told before anything is loaded."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relic.config import RelicConfig

_DTYPES = ("bf16", "fp32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic plan`."""
    parser.add_argument("--preset", default="mini", help="world to plan: mini, wan-1.3b or wan-14b")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that share one world; must divide its heads")
    parser.add_argument(
        "--gpu", default="cpu", help="a100, h100, h200, b200, rtx5090 or rtx4090; cpu measures this machine's"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="history at which memory and speed are told")
    parser.add_argument("--steps", type=int, help="denoising steps of a block; the preset's when left out")
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="of the network; when left out bf16 on a GPU, and on cpu what mini is played in there, fp32 for others",
    )
    parser.add_argument("--kv-dtype", choices=(*_DTYPES, "fp8"), help="of memory; the preset's when left out")
    parser.add_argument("--train", action="store_true", help="plan the last stage of training instead of playing")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the plan.

    Raises:
        ValueError: an unknown preset or GPU, or numbers that do not go together.
    """
    from relic.config import find_preset
    from relic.planning.hardware import CPU, Dtype, find_device
    from relic.precision import suits_bfloat16

    config = find_preset(options.preset).with_steps(options.steps)
    narrow = options.gpu != CPU or (options.preset == "mini" and suits_bfloat16())
    dtype: Dtype = options.dtype or ("bf16" if narrow else "fp32")
    if options.kv_dtype is not None:
        config = _stored_as(config, options.kv_dtype, dtype)
    device = find_device(options.gpu, dtype)
    values: dict[str, Any]
    if options.train:
        from relic.planning.report import training_json, training_lines
        from relic_distill.plan import plan_distillation

        training = plan_distillation(config, device, gpus=options.gpus, seconds=options.seconds, dtype=dtype)
        lines, values = training_lines(training), training_json(training)
    else:
        from relic.planning.prediction import plan_world
        from relic.planning.report import plan_json, plan_lines

        plan = plan_world(config, device, gpus=options.gpus, seconds=options.seconds, dtype=dtype)
        lines, values = plan_lines(plan), plan_json(plan)
    print(json.dumps(values, indent=2) if options.json else "\n".join(lines))
    return 0


def _stored_as(config: RelicConfig, kv_dtype: str, dtype: str) -> RelicConfig:
    import dataclasses

    from relic.planning.advice import in_fp8

    if kv_dtype not in ("fp8", dtype):
        raise ValueError(f"--kv-dtype {kv_dtype}: memory is stored in the network's {dtype}, or in fp8")
    if kv_dtype == "fp8":
        return in_fp8(config)
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, storage="float"))
