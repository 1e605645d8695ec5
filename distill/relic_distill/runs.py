"""Runs of the stages from files: what `relic distill` calls.

Each takes a complete configuration, loads what the stage needs, and trains or goes on training.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TypeVar

from relic.reprojection.depth import DepthNet
from relic.text import MiniLMEncoder, TextEncoder
from relic.vae.tiny_vae import TinyVae
from relic_distill.devices import move_networks
from relic_distill.loop import Outcome, train
from relic_distill.runtime import MixedPrecision
from relic_distill.stage_causal import CausalStage, CausalTrainConfig
from relic_distill.stage_dmd import DmdStage, DmdTrainConfig, score_of
from relic_distill.stage_init import InitStage, InitTrainConfig
from relic_distill.stage_teacher import TeacherStage, TeacherTrainConfig, is_bidirectional, trained_frames_of
from relic_distill.trajectories import TrajectoryConfig, TrajectoryDataset, sample_trajectories
from relic_distill.workers import Workers
from relic_distill.world_stage import Ingredients, WorldTrainConfig

_Config = TypeVar("_Config", bound=WorldTrainConfig)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Where a run's ingredients lie.

    Attributes:
        data: folder written by `relic data encode`.
        vae: the auto-encoder it was encoded with.
        depth: the depth network of a world with reprojection.
        text_encoder: of captions; MiniLM when left out.
    """

    data: Path
    vae: Path
    depth: Path | None = None
    text_encoder: TextEncoder | None = None


def gather(config: _Config, files: Files) -> tuple[_Config, Ingredients]:
    """Load a run's ingredients, and the configuration with the sizes they turn out to have.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when one is damaged.
    """
    vae = TinyVae.load(files.vae)
    depth = None if files.depth is None else DepthNet.load(files.depth)
    world = dataclasses.replace(config.world, vae=copy.copy(vae.config))
    if world.reprojection is not None and depth is not None:
        world = dataclasses.replace(world, reprojection=dataclasses.replace(world.reprojection, depth=depth.config))
    encoder = files.text_encoder or MiniLMEncoder(world.model.text_tokens)
    given = Ingredients(data=files.data, vae=vae, text_encoder=encoder, depth=depth)
    return dataclasses.replace(config, world=world), given


def train_causal(
    config: CausalTrainConfig,
    files: Files,
    out: Path,
    *,
    init: Path | None = None,
) -> Outcome:
    """Train, or go on training, the causal world model.

    Args:
        config: the complete run.
        files: what to train with.
        out: folder of the run, see `relic_distill.loop.train`.
        init: exported weights to start from; ignored once `out` holds a checkpoint.

    Returns:
        "finished" or "interrupted".

    Raises:
        ValueError: when data, checkpoints and configuration do not fit together.
    """
    config, given = gather(config, files)
    return train(CausalStage(config, given, init), config.loop, out)


def train_teacher(
    config: TeacherTrainConfig,
    files: Files,
    out: Path,
    *,
    init: Path | None = None,
) -> Outcome:
    """Train, or go on training, the bidirectional teacher; arguments, result and errors as `train_causal`'s."""
    config, given = gather(config, files)
    return train(TeacherStage(config, given, init), config.loop, out)


def draw_trajectories(
    sampling: TrajectoryConfig,
    config: TeacherTrainConfig,
    files: Files,
    teacher: Path,
    out: Path,
    *,
    mixed_precision: MixedPrecision = "no",
) -> None:
    """Sample, or go on sampling, a trained teacher's paths; see `relic_distill.trajectories.sample_trajectories`.

    Args:
        sampling: what to sample.
        config: the teacher's.
        files: what it was trained with.
        teacher: its exported weights.
        out: folder of the paths.
        mixed_precision: see `relic_distill.runtime.Runtime`; may change from one session to the next.

    Raises:
        ValueError: for a network that is no teacher, a folder with paths of another one, or several processes.
    """
    workers = Workers(mixed_precision)
    workers.require_one("paths are sampled")
    trained = trained_frames_of(teacher)
    config, given = gather(config, files)
    stage = TeacherStage(config, given, teacher)
    stage.model.eval()
    move_networks([stage.model, *stage.frozen.values()], (), workers.device)
    with workers.computing():
        sample_trajectories(sampling, stage, teacher, trained, out)


def train_init(
    config: InitTrainConfig,
    files: Files,
    out: Path,
    *,
    teacher: Path,
    paths: Path | None = None,
) -> Outcome:
    """Train, or go on training, the student's initialisation.

    Args:
        config: the complete run.
        files: what to train with.
        out: folder of the run.
        teacher: exported weights to start from (and, for consistency distillation, to follow: a causal network).
        paths: folder of trajectories; not needed for consistency distillation.

    Returns:
        "finished" or "interrupted".

    Raises:
        ValueError: when data, checkpoints and configuration do not fit together, or consistency distillation is to
            follow a bidirectional teacher.
    """
    if config.forcing == "consistency" and is_bidirectional(teacher):
        raise ValueError(
            f"{teacher} is a bidirectional teacher, consistency distillation follows a causal network: name the export "
            "of `relic distill causal`, or choose another forcing"
        )
    config, given = gather(config, files)
    stage = InitStage(config, given, teacher, None if paths is None else TrajectoryDataset(paths))
    return train(stage, config.loop, out)


def train_dmd(
    config: DmdTrainConfig,
    files: Files,
    out: Path,
    *,
    student: Path,
    teacher: Path,
) -> Outcome:
    """Train, or go on training, the distilled student.

    Args:
        config: the complete run.
        files: what to train with.
        out: folder of the run.
        student: exported weights that the student starts from.
        teacher: exported weights that score the data: a teacher's, or a causal network's for causal scores.

    Returns:
        "finished" or "interrupted".

    Raises:
        ValueError: when data, checkpoints and configuration do not fit together, or the teacher is of the other kind
            than the score asks for.
    """
    score_of(config, teacher)  # refused before anything is loaded
    config, given = gather(config, files)
    return train(DmdStage(config, given, student, teacher), config.loop, out)
