"""The subcommands of `relic`, one table; each command lives in a module of its own.

A command's module offers `add_arguments(parser)` and `run(options) -> exit status`, and imports heavy
packages only inside `run`. To add a command, write the module and add its line to `COMMANDS`.
"""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from typing import Final, Protocol, cast


class CommandModule(Protocol):
    """What a command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, options: argparse.Namespace) -> int:
        """Do the work and return the exit status; ValueError and OSError are told as one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One line of the table: a command, or a group of commands.

    Attributes:
        name: the word on the command line.
        summary: one line for `--help`.
        module: dotted name of the module that implements it; empty for a group.
        children: the group's commands.
    """

    name: str
    summary: str
    module: str = ""
    children: tuple[Command, ...] = ()

    def load(self) -> CommandModule:
        """Import the command's module."""
        return cast("CommandModule", importlib.import_module(self.module))


COMMANDS: Final = (
    Command(name="play", summary="walk through a picture in the browser", module="relic_app.commands.play"),
    Command(
        name="rollout",
        summary="play an action script without a browser and write a video",
        module="relic_app.commands.rollout",
    ),
    Command(
        name="data",
        summary="make training data",
        children=(
            Command(
                name="render",
                summary="render clips of furnished rooms",
                module="relic_app.commands.data_render",
            ),
            Command(
                name="encode",
                summary="encode rendered clips to latents",
                module="relic_app.commands.data_encode",
            ),
            Command(
                name="gallery",
                summary="choose start pictures from held-out clips",
                module="relic_app.commands.data_gallery",
            ),
        ),
    ),
    Command(
        name="distill",
        summary="train the world",
        children=(
            Command(name="vae", summary="train the tiny video VAE", module="relic_app.commands.distill_vae"),
            Command(
                name="depth",
                summary="train the depth network that guides the world",
                module="relic_app.commands.distill_depth",
            ),
            Command(
                name="causal",
                summary="train the causal world model",
                module="relic_app.commands.distill_causal",
            ),
            Command(
                name="teacher",
                summary="train the bidirectional teacher",
                module="relic_app.commands.distill_teacher",
            ),
            Command(
                name="trajectories",
                summary="sample the teacher's paths for the student",
                module="relic_app.commands.distill_trajectories",
            ),
            Command(
                name="init",
                summary="make the network a few-step causal student",
                module="relic_app.commands.distill_init",
            ),
            Command(
                name="dmd",
                summary="distil the student by self-forcing",
                module="relic_app.commands.distill_dmd",
            ),
            Command(
                name="all",
                summary="run the whole circle, from rendering to a world that plays",
                module="relic_app.commands.distill_all",
            ),
            Command(
                name="release",
                summary="make trained checkpoints a weights folder",
                module="relic_app.commands.distill_release",
            ),
            Command(
                name="status",
                summary="tell how far training runs are",
                module="relic_app.commands.distill_status",
            ),
        ),
    ),
    Command(name="eval", summary="score a world on held-out scenes", module="relic_app.commands.eval"),
    Command(
        name="bench",
        summary="measure speed and precision on this machine",
        children=(
            Command(name="block", summary="time of a block as history grows", module="relic_app.commands.bench_block"),
            Command(name="parts", summary="what a block's time is spent on", module="relic_app.commands.bench_parts"),
            Command(
                name="passes",
                summary="a block's network time beside its matrix products",
                module="relic_app.commands.bench_passes",
            ),
            Command(
                name="history",
                summary="time and bytes of a block at histories up to minutes",
                module="relic_app.commands.bench_history",
            ),
            Command(
                name="accuracy",
                summary="how far each precision's frames lie from float32's",
                module="relic_app.commands.bench_accuracy",
            ),
            Command(
                name="rollout",
                summary="frames a second of a walk without a page",
                module="relic_app.commands.bench_rollout",
            ),
            Command(
                name="start",
                summary="where the time goes until the first frames",
                module="relic_app.commands.bench_start",
            ),
            Command(
                name="replay",
                summary="memory and time of replayed back-propagation",
                module="relic_app.commands.bench_replay",
            ),
            Command(
                name="kernels",
                summary="what the GPU kernels compile to, move, get right, and take",
                module="relic_app.commands.bench_kernels",
            ),
            Command(name="page", summary="frame rate and latency in a browser", module="relic_app.commands.bench_page"),
        ),
    ),
    Command(
        name="plan",
        summary="memory and speed of a world on a machine, before anything is loaded",
        module="relic_app.commands.plan",
    ),
    Command(name="doctor", summary="check that this machine can play", module="relic_app.commands.doctor"),
)
