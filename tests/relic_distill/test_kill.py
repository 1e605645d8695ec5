"""Real trainings of the real stages, killed for good again and again, end in the bits of a run that never stopped."""

import collections
import dataclasses
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from relic.world import HashEncoder
from relic_distill.loop import LoopConfig
from relic_distill.runs import Files, draw_trajectories, train_causal, train_dmd, train_init, train_teacher
from relic_distill.smoke import tiny_causal
from relic_distill.stage_causal import CausalTrainConfig
from relic_distill.stage_dmd import DmdTrainConfig
from relic_distill.stage_init import InitTrainConfig
from relic_distill.stage_teacher import TeacherTrainConfig
from relic_distill.trajectories import TrajectoryConfig
from relic_distill.world_stage import Phase, WorldTrainConfig

STEPS = 6
LAST_CHECKPOINT = f"step-{STEPS:08d}.safetensors"
KINDS = ("causal", "teacher", "init", "dmd")
PATHS = TrajectoryConfig(count=2, frames=3, batch=2, steps=2, student_steps=2)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["relic_distill.runs", "relic_distill.smoke", "pytest"])


def settings() -> dict[str, object]:
    """A tiny run whose checkpoints lie two steps apart."""
    loop = LoopConfig(steps=STEPS, warmup=2, checkpoint_steps=2, checkpoint_minutes=60, log_every=3)
    base = dataclasses.replace(
        tiny_causal(STEPS), loop=loop, phases=(Phase(until_step=STEPS, frames=3, batch=1),), sample_runs=1,
        sample_frames=3,
    )  # fmt: skip
    return {field.name: getattr(base, field.name) for field in dataclasses.fields(WorldTrainConfig)}


def teacher_config() -> TeacherTrainConfig:
    return TeacherTrainConfig(**settings(), sample_steps=1)  # type: ignore[arg-type]


def files_under(encoded: Path) -> Files:
    return Files(
        data=encoded / "latents", vae=encoded / "vae.safetensors", depth=encoded / "depth.safetensors",
        text_encoder=HashEncoder(4),
    )  # fmt: skip


def train_stage(kind: str, encoded: Path, out: Path) -> str:
    """The command of a stage, the same in every session."""
    files, teacher = files_under(encoded), encoded / "teacher" / "latest.safetensors"
    values = settings()
    if kind == "causal":
        return train_causal(CausalTrainConfig(**values), files, out)  # type: ignore[arg-type]
    if kind == "teacher":
        return train_teacher(teacher_config(), files, out)
    if kind == "init":
        return train_init(InitTrainConfig(**values), files, out, teacher=teacher, paths=encoded / "paths")  # type: ignore[arg-type]
    return train_dmd(DmdTrainConfig(**values, critic_updates=1), files, out, student=teacher, teacher=teacher)  # type: ignore[arg-type]


def session(kind: str, encoded: Path, out: Path, fatal: tuple[str, int] | None, room: int | None) -> None:
    """A process's life; it kills itself just before it would put a file of that name in place for the n-th time.

    With `room`, no file can grow beyond so many bytes; what stops the training is then told in `out/message`.
    """
    torch.set_num_threads(1)
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        with pytest.raises(RuntimeError) as stopped:
            train_stage(kind, encoded, out)
        (out / "message").write_text(str(stopped.value))
        return
    replace, seen = os.replace, collections.Counter[str]()

    def watched(source: Path, target: Path) -> None:
        seen[Path(target).name] += 1
        if fatal is not None and seen[fatal[0]] == fatal[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = watched  # type: ignore[assignment]
    assert train_stage(kind, encoded, out) == "finished"


def live(
    kind: str,
    encoded: Path,
    out: Path,
    *,
    fatal: tuple[str, int] | None = None,
    room: int | None = None,
    seconds: float | None = None,
) -> int:
    """One session, killed after so many seconds where it lives so long; its exit code."""
    process = FORKS.Process(target=session, args=(kind, encoded, out, fatal, room))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == [], one.name


@pytest.fixture(scope="module")
def prepared(encoded: Path) -> Path:
    """Encoded clips with a teacher and its trajectories beside them."""
    assert live("teacher", encoded, encoded / "teacher") == 0
    teacher = encoded / "teacher" / "latest.safetensors"
    draw_trajectories(PATHS, teacher_config(), files_under(encoded), teacher, encoded / "paths")
    return encoded


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_killed_at_any_moment_ends_in_the_bits_of_an_unbroken_run(
    prepared: Path, tmp_path: Path, kind: str
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started = time.monotonic()
    assert live(kind, prepared, whole) == 0
    length = time.monotonic() - started
    chance = random.Random(KINDS.index(kind))
    deaths = [
        live(kind, prepared, broken, fatal=(chance.choice(["log.jsonl", "latest.safetensors", "curves.png"]), 1)),
        live(kind, prepared, broken, fatal=(f"step-{chance.choice([2, 4]):08d}.safetensors", 1)),
        live(kind, prepared, broken, seconds=chance.uniform(0.3, 0.8) * length),
    ]
    assert deaths[:2] == [-signal.SIGKILL, -signal.SIGKILL]
    assert set(deaths) <= {-signal.SIGKILL, 0}
    assert live(kind, prepared, broken) == 0
    for name in ("latest.safetensors", "best.safetensors", f"checkpoint/{LAST_CHECKPOINT}"):
        assert_same_bits(whole / name, broken / name)


def test_exports_are_not_stale_when_death_comes_before_the_last_of_them(prepared: Path, tmp_path: Path) -> None:
    whole, broken = prepared / "teacher", tmp_path / "broken"
    assert live("teacher", prepared, broken, fatal=("latest.safetensors", STEPS // 2)) == -signal.SIGKILL
    assert live("teacher", prepared, broken) == 0
    assert_same_bits(whole / "latest.safetensors", broken / "latest.safetensors")


def test_a_disk_without_room_stops_with_the_way_out_and_the_last_good_checkpoint(
    prepared: Path, tmp_path: Path
) -> None:
    whole, broken = prepared / "teacher", tmp_path / "broken"
    assert live("teacher", prepared, broken, fatal=(LAST_CHECKPOINT, 1)) == -signal.SIGKILL
    room = (broken / "checkpoint" / "step-00000004.safetensors").stat().st_size // 2
    assert live("teacher", prepared, broken, room=room) == 0
    told = (broken / "message").read_text()
    assert told.startswith(f"cannot write step 6 to {broken}: ")
    assert "step-00000004.safetensors: make room and run again" in told
    left = sorted(path.name for path in (broken / "checkpoint").iterdir())
    assert left == ["step-00000002.safetensors", "step-00000004.safetensors"]
    assert live("teacher", prepared, broken) == 0
    assert_same_bits(whole / "latest.safetensors", broken / "latest.safetensors")
