"""Every named run is complete, and what does not fit together is told with both values before anything starts."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relic.config import SamplerConfig, to_json
from relic_distill import recipes
from relic_distill.causal_loss import NoiseConfig
from relic_distill.circle import MANIFEST, Circle, begun, carried_out, run_circle
from relic_distill.loop import LoopConfig
from relic_distill.recipes import find_recipe
from relic_distill.runtime import Runtime
from relic_distill.smoke import tiny_smoke
from relic_distill.stage_causal import ResampleConfig
from relic_distill.training_guide import GuideConfig
from relic_distill.workers import Workers
from relic_distill.world_stage import Phase, WorldTrainConfig

TABLES = {name: table for name, table in vars(recipes).items() if name.endswith("_RECIPES")}
NAMED = [(table, name) for table, entries in TABLES.items() for name in entries]


def test_every_stage_has_recipes() -> None:
    assert len(TABLES) == 8
    assert all({"mini", "tiny-smoke"} <= set(entries) for entries in TABLES.values())


@pytest.mark.parametrize(("table", "name"), NAMED)
def test_a_recipe_is_complete_frozen_and_can_be_recorded(table: str, name: str) -> None:
    config = find_recipe(TABLES[table], name, 10.0)
    assert json.loads(json.dumps(to_json(config), default=str))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)
    assert find_recipe(TABLES[table], name, 10.0) == config


@pytest.mark.parametrize(("table", "name"), NAMED)
def test_minutes_that_are_none_are_refused(table: str, name: str) -> None:
    if name == "tiny-smoke" or table == "TRAJECTORY_RECIPES":
        assert find_recipe(TABLES[table], name, -1.0) == find_recipe(TABLES[table], name, 10.0)
        return
    with pytest.raises(ValueError, match=r"steps 0 or minutes -\d"):
        find_recipe(TABLES[table], name, -1.0)


@pytest.mark.parametrize("table", TABLES)
def test_an_unknown_recipe_is_named_with_the_known_ones(table: str) -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'huge': choose one of mini, .*tiny-smoke"):
        find_recipe(TABLES[table], "huge", 1.0)


def test_every_training_of_a_circle_is_carried_out_alike_and_sessions_may_differ(tmp_path: Path) -> None:
    runtime = Runtime(mixed_precision="bf16", tensorboard=True)
    circle = carried_out(SMOKE, 2, runtime)
    for stage in (circle.vae, circle.depth, circle.causal, circle.teacher, circle.init, circle.dmd):
        assert (stage.loop.accumulate, stage.loop.runtime) == (2, runtime)
    assert carried_out(circle, 1, Runtime()) == SMOKE
    manifest = tmp_path / MANIFEST
    record = begun(circle, manifest)
    assert begun(carried_out(SMOKE, 2, Runtime()), manifest) == record
    with pytest.raises(ValueError, match="other settings of vae, depth, causal, teacher, init, dmd: give those"):
        begun(SMOKE, manifest)


def test_a_circle_is_run_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "count", 2)
    with pytest.raises(ValueError, match="the circle is run by one process, this is one of 2: leave"):
        run_circle(SMOKE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


SMOKE = tiny_smoke()
LONG = Phase(until_step=8, frames=201, batch=1)
MISFITS: list[tuple[Callable[[], Any], str]] = [
    (lambda: dataclasses.replace(SMOKE.causal, phases=()), r"phases must be given in order of until_step, got \[\]"),
    (
        lambda: dataclasses.replace(SMOKE.causal, phases=(LONG, Phase(until_step=2, frames=4, batch=1))),
        r"in order of until_step, got \[8, 2\]",
    ),
    (lambda: dataclasses.replace(SMOKE.causal, phases=(dataclasses.replace(LONG, batch=0),)), r"batch=0.* of 1"),
    (lambda: dataclasses.replace(SMOKE.causal, sample_frames=2), "sample_frames 2 does not fill blocks of 1"),
    (lambda: dataclasses.replace(SMOKE.init, forcing="free"), "forcing 'free' is not one of .*hybrid"),
    (lambda: dataclasses.replace(SMOKE.init, levels=1, most_noisy_blocks=3), "most_noisy_blocks 3 .* levels 1 at"),
    (lambda: dataclasses.replace(SMOKE.dmd, score="audio"), "score 'audio' is not one of .*video"),
    (lambda: dataclasses.replace(SMOKE.dmd, critic_updates=0, critic_lr=2.0), r"critic_updates 0 and critic_lr 2\.0"),
    (lambda: dataclasses.replace(SMOKE.teacher, sample_steps=0), "sample_steps 0 must be at least 1"),
    (lambda: dataclasses.replace(SMOKE.trajectories, steps=5), "steps 5 must be a multiple of the student's 2"),
    (lambda: dataclasses.replace(SMOKE.vae, window_frames=6), r"batch 4 .* window_frames 6 be 1 \+ 4k"),
    (lambda: dataclasses.replace(SMOKE.depth, recolour=1.5), r"recolour 1\.5 must lie in \[0, 1\]"),
    (lambda: LoopConfig(steps=4, decay=2.0, clip=0.5), r"decay 2\.0 .* clip 0\.5"),
    (lambda: LoopConfig(steps=4, accumulate=0), "accumulate 0 must be at least 1"),
    (lambda: NoiseConfig(std=-1.0, shift=3.0), r"std -1\.0 and shift 3\.0"),
    (lambda: ResampleConfig(chance=2.0, least=0.5), r"chance 2\.0 .* least 0\.5"),
    (lambda: GuideConfig(swap_chance=3.0), r"swap_chance 3\.0 must lie in \[0, 1\]"),
    (lambda: in_circle(render=dataclasses.replace(SMOKE.render, scenes=2)), "2 scenes have none to train on"),
    (lambda: in_circle(dmd=played_in(4)), r"init's student is played by .*steps=2.*, dmd's by .*steps=4"),
    (lambda: in_circle(causal=reaching(201)), "causal trains on 201 latent frames, clips of 3 s have 13"),
    (
        lambda: in_circle(trajectories=dataclasses.replace(SMOKE.trajectories, frames=41)),
        "trajectories of 41 latent frames, clips of 13",
    ),
]


def in_circle(**stages: Any) -> Circle:
    return dataclasses.replace(SMOKE, **stages)


def played_in(steps: int) -> WorldTrainConfig:
    world = dataclasses.replace(SMOKE.dmd.world, sampler=SamplerConfig(steps=steps))
    return dataclasses.replace(SMOKE.dmd, world=world)


def reaching(frames: int) -> WorldTrainConfig:
    return dataclasses.replace(SMOKE.causal, phases=(Phase(until_step=8, frames=frames, batch=1),))


@pytest.mark.parametrize(("build", "message"), MISFITS)
def test_what_does_not_fit_together_is_named(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("config", [SMOKE.causal, SMOKE.teacher, SMOKE.init, SMOKE.dmd, SMOKE.vae, SMOKE.depth])
def test_a_setting_that_does_not_exist_is_refused(config: Any) -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        dataclasses.replace(config, learning_rate=1.0)
