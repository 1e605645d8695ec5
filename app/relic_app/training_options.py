"""Options that the training commands share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from relic_distill.loop import LoopConfig, Outcome
    from relic_distill.runs import Files
    from relic_distill.stage_depth import DepthTrainConfig
    from relic_distill.world_stage import WorldTrainConfig

    _Config = TypeVar("_Config", bound=WorldTrainConfig | DepthTrainConfig)

INTERRUPTED = 130


def add_run_arguments(parser: argparse.ArgumentParser, minutes: float) -> None:
    """Recipe, length and folder of a training of the world's network, and what it trains with."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data encode` wrote")
    parser.add_argument("--vae", type=Path, required=True, help="VAE weights the data was encoded with")
    parser.add_argument("--depth", type=Path, help="depth network of a world with reprojection, such as mini")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same call goes on in it")
    add_length_arguments(parser, minutes)


def add_length_arguments(parser: argparse.ArgumentParser, minutes: float) -> None:
    """Recipe and length."""
    parser.add_argument("--recipe", default="mini", help="named configuration (relic_distill.recipes)")
    parser.add_argument("--minutes", type=float, default=minutes, help="training time")
    add_session_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and train nothing")


def add_session_arguments(parser: argparse.ArgumentParser) -> None:
    """Steps, and how they are carried out on a machine."""
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps instead of --minutes")
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        help="batches averaged in a step; shared out among the processes of `accelerate launch`",
    )
    add_precision_argument(parser)
    parser.add_argument(
        "--shard", action="store_true", help="each process keeps a share of the networks instead of all of them (FSDP2)"
    )
    parser.add_argument(
        "--sequence-parallel",
        type=int,
        default=1,
        metavar="N",
        help="N processes compute each video together; N divides the network's heads",
    )
    parser.add_argument(
        "--attention",
        choices=("sdpa", "xformers", "math"),
        default="sdpa",
        help="what computes attention; xformers needs a GPU and the extra `gpu`",
    )
    parser.add_argument("--tensorboard", action="store_true", help="also log for TensorBoard, in OUT/tensorboard")


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Precision of matrix products."""
    parser.add_argument(
        "--mixed-precision",
        choices=("no", "bf16"),
        default="no",
        help="bf16 computes matrix products in bfloat16; weights, optimiser and average stay float32",
    )


def add_refused_argument(parser: argparse.ArgumentParser, option: str, why: str) -> None:
    """An option of other trainings that means nothing here; giving it is told as wrong usage, with the reason."""
    parser.add_argument(option, action=_Refused, nargs="?", help=f"refused: {why}", default=argparse.SUPPRESS)


class _Refused(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is {self.help}")


def lengthened(config: _Config, options: argparse.Namespace) -> _Config:
    """The configuration with as many steps, carried out in such a way, as the options ask for."""
    return dataclasses.replace(config, loop=loop_of(config.loop, options))


def loop_of(loop: LoopConfig, options: argparse.Namespace) -> LoopConfig:
    """A recipe's loop as `add_session_arguments` changes it."""
    from relic_distill.runtime import Runtime

    runtime = Runtime(
        mixed_precision=options.mixed_precision,
        shard=options.shard,
        sequence_parallel=options.sequence_parallel,
        tensorboard=options.tensorboard,
        attention=options.attention,
    )
    return dataclasses.replace(loop, accumulate=options.accumulate, runtime=runtime, steps=options.steps or loop.steps)


def files_of(options: argparse.Namespace) -> Files:
    """What the run trains with."""
    from relic_distill.runs import Files

    return Files(data=options.data, vae=options.vae, depth=options.depth)


def print_plan(name: str, config: WorldTrainConfig) -> int:
    """What a training will take; the exit status of a dry run."""
    from relic_distill.plan import plan_training

    print("\n".join(plan_training(name, config)))
    return 0


def exit_status(outcome: Outcome) -> int:
    """0 when a run reached its end, 130 when it was interrupted."""
    return 0 if outcome == "finished" else INTERRUPTED
