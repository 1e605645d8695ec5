"""The whole circle, from nothing to a world that plays: render, train, distil, release; resumed from its manifest.

`OUT/circle.json` holds the configuration and what is done. A stage that was stopped goes on by its own checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relic.config import to_json
from relic.json_files import write_json
from relic.vae.config import TEMPORAL_FACTOR
from relic_data.clips import clip_frames
from relic_data.encode import encode_dataset
from relic_distill.loop import Outcome, same_settings
from relic_distill.release import release
from relic_distill.runs import Files, draw_trajectories, train_causal, train_dmd, train_init, train_teacher
from relic_distill.runtime import Runtime
from relic_distill.stage_causal import CausalTrainConfig
from relic_distill.stage_depth import DepthTrainConfig, train_depth
from relic_distill.stage_dmd import DmdTrainConfig
from relic_distill.stage_init import InitTrainConfig
from relic_distill.stage_teacher import TeacherTrainConfig
from relic_distill.stage_vae import VaeTrainConfig, train_vae
from relic_distill.trajectories import TrajectoryConfig
from relic_distill.workers import Workers
from relic_distill.world_stage import WorldTrainConfig

MANIFEST = "circle.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderConfig:
    """What is rendered.

    Attributes:
        scenes: how many; the first is a test scene, the second a validation scene.
        seconds: length of a clip.
        seed: of the whole set.
        clips_per_scene: paths through a scene.
        workers: processes.
    """

    scenes: int
    seconds: float
    seed: int = 0
    clips_per_scene: int = 1
    workers: int = 1

    def __post_init__(self) -> None:
        if self.scenes < 3:
            raise ValueError(f"{self.scenes} scenes have none to train on: scenes 0 and 1 are held out, give 3 or more")

    @property
    def latent_frames(self) -> int:
        """Latent frames of an encoded clip."""
        return 1 + clip_frames(self.seconds) // TEMPORAL_FACTOR


@dataclass(frozen=True, kw_only=True, slots=True)
class Circle:
    """Complete configuration of every stage.

    Raises:
        ValueError: when stages do not fit together; it names both values.
    """

    render: RenderConfig
    vae: VaeTrainConfig
    depth: DepthTrainConfig
    causal: CausalTrainConfig
    teacher: TeacherTrainConfig
    trajectories: TrajectoryConfig
    init: InitTrainConfig
    dmd: DmdTrainConfig
    palindromes: int = 1

    def __post_init__(self) -> None:
        stages: dict[str, WorldTrainConfig] = {
            "causal": self.causal, "teacher": self.teacher, "init": self.init, "dmd": self.dmd
        }  # fmt: skip
        for name, stage in stages.items():
            longest = max(stage.sample_frames, *(phase.frames for phase in stage.reached_phases))
            if longest > self.render.latent_frames:
                raise ValueError(
                    f"{name} trains on {longest} latent frames, clips of {self.render.seconds:g} s have "
                    f"{self.render.latent_frames}: render longer ones or shorten its phases"
                )
            if stage.world.model != self.causal.world.model:
                raise ValueError(f"{name} trains another network than causal: {stage.world.model}")
        if self.init.world.sampler != self.dmd.world.sampler:
            raise ValueError(
                f"init's student is played by {self.init.world.sampler}, dmd's by {self.dmd.world.sampler}"
            )
        student = self.init.world.sampler
        if (self.trajectories.student_steps, self.trajectories.shift) != (student.steps, student.shift):
            raise ValueError(
                f"trajectories are kept at {self.trajectories.student_steps} steps and shift "
                f"{self.trajectories.shift:g}, the student takes {student.steps} at {student.shift:g}"
            )
        if self.trajectories.frames > self.render.latent_frames:
            raise ValueError(
                f"trajectories of {self.trajectories.frames} latent frames, clips of {self.render.latent_frames}"
            )


def carried_out(circle: Circle, accumulate: int, runtime: Runtime) -> Circle:
    """The circle with every training's steps of so many batches, on this machine in such a way.

    Raises:
        ValueError: for less than one batch.
    """
    trainings = {name: getattr(circle, name) for name in ("vae", "depth", "causal", "teacher", "init", "dmd")}
    changed = {
        name: dataclasses.replace(
            training, loop=dataclasses.replace(training.loop, accumulate=accumulate, runtime=runtime)
        )
        for name, training in trainings.items()
    }
    return dataclasses.replace(circle, **changed)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Folders:
    """Where a circle keeps what."""

    out: Path

    def weights(self, stage: str, name: str = "latest") -> Path:
        return self.out / stage / f"{name}.safetensors"

    @property
    def files(self) -> Files:
        return Files(data=self.out / "latents", vae=self.weights("vae", "best"), depth=self.weights("depth", "best"))


def _render(circle: Circle, at: _Folders) -> Outcome:
    from relic_data.render import render_dataset  # its packages are an extra that training does without

    config = circle.render
    render_dataset(
        at.out / "data", config.scenes, config.seconds, config.seed, config.workers,
        clips_per_scene=config.clips_per_scene,
    )  # fmt: skip
    return "finished"


def _vae(circle: Circle, at: _Folders) -> Outcome:
    return train_vae(circle.vae, at.out / "data", at.out / "vae")


def _depth(circle: Circle, at: _Folders) -> Outcome:
    return train_depth(circle.depth, at.out / "data", at.out / "depth")


def _encode(circle: Circle, at: _Folders) -> Outcome:
    encode_dataset(at.out / "data", at.files.vae, at.out / "latents", palindromes=circle.palindromes)
    return "finished"


def _causal(circle: Circle, at: _Folders) -> Outcome:
    return train_causal(circle.causal, at.files, at.out / "causal")


def _teacher(circle: Circle, at: _Folders) -> Outcome:
    return train_teacher(circle.teacher, at.files, at.out / "teacher", init=at.weights("causal"))


def _trajectories(circle: Circle, at: _Folders) -> Outcome:
    draw_trajectories(
        circle.trajectories, circle.teacher, at.files, at.weights("teacher"), at.out / "trajectories",
        mixed_precision=circle.teacher.loop.runtime.mixed_precision,
    )  # fmt: skip
    return "finished"


def _init(circle: Circle, at: _Folders) -> Outcome:
    follows = "causal" if circle.init.forcing == "consistency" else "teacher"
    return train_init(
        circle.init, at.files, at.out / "init", teacher=at.weights(follows), paths=at.out / "trajectories"
    )


def _dmd(circle: Circle, at: _Folders) -> Outcome:
    scored_by = "causal" if circle.dmd.score == "causal" else "teacher"
    return train_dmd(circle.dmd, at.files, at.out / "dmd", student=at.weights("init"), teacher=at.weights(scored_by))


def _release(circle: Circle, at: _Folders) -> Outcome:
    done = json.loads((at.out / MANIFEST).read_text(encoding="utf-8"))["done"]
    minutes = {name: round(stage["seconds"] / 60, 1) for name, stage in done.items()}
    provenance = {"data_seed": circle.render.seed, "minutes": minutes}
    release(at.out / "dmd", at.files.vae, at.out / "weights", provenance, depth=at.files.depth)
    return "finished"


STAGES: tuple[tuple[str, Callable[[Circle, _Folders], Outcome]], ...] = (
    ("render", _render),
    ("vae", _vae),
    ("depth", _depth),
    ("encode", _encode),
    ("causal", _causal),
    ("teacher", _teacher),
    ("trajectories", _trajectories),
    ("init", _init),
    ("dmd", _dmd),
    ("release", _release),
)
"""Every stage in its order."""


def run_circle(circle: Circle, out: Path, tell: Callable[[str], None] = lambda name: None) -> Outcome:
    """Run every stage that is not done yet.

    Args:
        circle: the complete configuration.
        out: `circle.json`, one folder a stage, and at last `weights/`.
        tell: called with the name of each stage that begins.

    Returns:
        "interrupted" when a training was stopped by a signal; the same call goes on.

    Raises:
        ValueError: when `out` holds a circle of another configuration, whose stages that differ are named, or for
            several processes.
    """
    Workers().require_one("the circle is run")
    out.mkdir(parents=True, exist_ok=True)
    record = begun(circle, out / MANIFEST)
    for name, run in STAGES:
        if name in record["done"]:
            continue
        tell(name)
        started = time.monotonic()
        if run(circle, _Folders(out=out)) == "interrupted":
            return "interrupted"
        record["done"][name] = {"seconds": round(time.monotonic() - started, 1)}
        write_json(out / MANIFEST, record)
    return "finished"


def begun(circle: Circle, manifest: Path) -> dict[str, Any]:
    """The record of a circle, from its manifest or written anew: settings, and what is done; raises as `run_circle`."""
    recorded = carried_out(circle, circle.causal.loop.accumulate, Runtime())  # sessions may differ in it
    settings = json.loads(json.dumps(to_json(recorded), default=str))
    if not manifest.is_file():
        record = {"circle": settings, "done": {}}
        write_json(manifest, record)
        return record
    found: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    differing = [name for name in settings if not same_settings(found["circle"].get(name), settings[name])]
    if differing:
        raise ValueError(
            f"{manifest} was begun with other settings of {', '.join(differing)}: give those, or an empty folder"
        )
    return found
