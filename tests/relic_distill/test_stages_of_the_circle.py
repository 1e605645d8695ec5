"""Teacher, trajectories, initialisation and distillation, each at toy size on real files."""

import dataclasses
from pathlib import Path

import pytest
import torch

from relic.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from relic.config import RelicConfig, SamplerConfig
from relic.flow_matching import add_noise, sampling_sigmas
from relic.weights import default_weights_dir
from relic_distill.bidirectional import DropConfig, drop_conditions
from relic_distill.loop import step_generator, torch_generator, train
from relic_distill.release import release
from relic_distill.runs import Files, draw_trajectories, train_dmd, train_init, train_teacher
from relic_distill.scores import CausalScore, VideoScore
from relic_distill.smoke import tiny_causal
from relic_distill.stage_causal import CausalStage
from relic_distill.stage_dmd import DmdStage, DmdTrainConfig, score_of
from relic_distill.stage_init import InitStage, InitTrainConfig
from relic_distill.stage_teacher import TRAINED_FRAMES, TeacherStage, TeacherTrainConfig, trained_frames_of
from relic_distill.trajectories import TrajectoryConfig, TrajectoryDataset
from relic_distill.world_stage import Phase, WorldStage, WorldTrainConfig
from tests.tiny_networks import ingredients

PATHS = TrajectoryConfig(count=5, frames=4, batch=2, steps=6, student_steps=2, guidance=1.5)


def settings(base: WorldTrainConfig) -> dict[str, object]:
    return {field.name: getattr(base, field.name) for field in dataclasses.fields(WorldTrainConfig)}


def teacher_config(steps: int = 6) -> TeacherTrainConfig:
    phases = (Phase(until_step=3, frames=4, batch=2), Phase(until_step=steps, frames=6, batch=2))
    return TeacherTrainConfig(**{**settings(tiny_causal(steps)), "phases": phases, "sample_steps": 2})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(encoded: Path) -> Files:
    return Files(
        data=encoded / "latents",
        vae=encoded / "vae.safetensors",
        depth=encoded / "depth.safetensors",
        text_encoder=ingredients(encoded).text_encoder,
    )


@pytest.fixture(scope="module")
def teacher(encoded: Path, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    assert train_teacher(teacher_config(), files, out) == "finished"
    return out / "latest.safetensors"


@pytest.fixture(scope="module")
def causal(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the causal stage."""
    target = tmp_path_factory.mktemp("causal-stage") / "causal.safetensors"
    CausalStage(tiny_causal(4), ingredients(encoded)).export(target)
    return target


@pytest.fixture(scope="module")
def lively(teacher: Path) -> Path:
    """A teacher whose flow goes somewhere: six steps of training leave it near standstill."""
    state, values = load_checkpoint(teacher)
    torch.manual_seed(5)
    state["proj_out.weight"] = torch.randn_like(state["proj_out.weight"]) * 0.2
    target = teacher.with_name("lively.safetensors")
    save_checkpoint(target, state, values, {TRAINED_FRAMES: str(trained_frames_of(teacher))})
    return target


@pytest.fixture(scope="module")
def paths(encoded: Path, files: Files, lively: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paths")
    draw_trajectories(PATHS, teacher_config(), files, lively, out)
    return out


def test_the_teacher_records_the_context_it_was_trained_on(teacher: Path, causal: Path) -> None:
    assert trained_frames_of(teacher) == 4
    with pytest.raises(ValueError, match="is no teacher"):
        trained_frames_of(causal)


def test_paths_run_from_noise_to_the_clean_video_with_its_start_kept(paths: Path, encoded: Path) -> None:
    dataset = TrajectoryDataset(paths)
    assert (len(dataset), dataset.frames, dataset.student_steps) == (5, 4, 2)
    batch = dataset.draw(2, step_generator(0, 0))
    assert batch.states.shape == (2, 2, 16, 4, 12, 20)
    for state in batch.states:
        torch.testing.assert_close(state[:, :, 0], batch.clip.latents[:, :, 0])
    noise = torch.stack([dataset.get(number).states[0, 0, :, 1:] for number in range(5)])
    assert abs(float(noise.mean())) < 0.05
    assert 0.95 < float(noise.std()) < 1.05
    assert not torch.allclose(batch.states[1, :, :, 1:], batch.clip.latents[:, :, 1:])


def test_sampling_goes_on_and_refuses_to_mix(encoded: Path, files: Files, lively: Path, paths: Path) -> None:
    first = paths / "paths" / "000001.safetensors"
    before = first.read_bytes()
    first.unlink()
    draw_trajectories(PATHS, teacher_config(), files, lively, paths)
    assert first.read_bytes() == before
    other = dataclasses.replace(PATHS, guidance=2.0)
    with pytest.raises(ValueError, match="paths of another teacher or configuration"):
        draw_trajectories(other, teacher_config(), files, lively, paths)
    with pytest.raises(ValueError, match="6 must be a multiple of the student's 4"):
        dataclasses.replace(PATHS, student_steps=4)


def test_paths_in_bfloat16_begin_alike_and_end_near(files: Files, lively: Path, paths: Path, tmp_path: Path) -> None:
    one = dataclasses.replace(PATHS, count=PATHS.batch)
    draw_trajectories(one, teacher_config(), files, lively, tmp_path, mixed_precision="bf16")
    coarse, fine = TrajectoryDataset(tmp_path).get(0), TrajectoryDataset(paths).get(0)
    assert torch.equal(coarse.states[0], fine.states[0])
    moved = (fine.clip.latents - fine.states[0]).square().mean().sqrt()
    difference = (coarse.clip.latents - fine.clip.latents).square().mean().sqrt()
    assert 0 < float(difference) < 0.05 * float(moved)


@pytest.mark.parametrize("forcing", ["hybrid", "teacher", "diffusion"])
def test_regressing_paths_lowers_their_loss(
    encoded: Path, files: Files, teacher: Path, paths: Path, tmp_path: Path, forcing: str
) -> None:
    config = InitTrainConfig(**{**settings(tiny_causal(40)), "forcing": forcing})  # type: ignore[arg-type]
    dataset, given = TrajectoryDataset(paths), ingredients(encoded)
    fixed = dataset.draw(4, step_generator(1, 0))
    assert train_init(config, files, tmp_path, teacher=teacher, paths=paths) == "finished"
    losses = []
    for weights in (teacher, tmp_path / "latest.safetensors"):
        stage = InitStage(config, given, weights, dataset)
        with torch.no_grad():
            losses.append(float(stage.paths_loss(fixed, torch_generator(1, 0))))
    assert losses[1] < 0.8 * losses[0]


def test_consistency_moves_the_student_towards_its_average_after_a_step(
    encoded: Path, files: Files, lively: Path, tmp_path: Path
) -> None:
    config = InitTrainConfig(**{**settings(tiny_causal(4)), "forcing": "consistency", "levels": 8})  # type: ignore[arg-type]
    given, by_blocks = ingredients(encoded), tmp_path / "by_blocks.safetensors"
    save_checkpoint(by_blocks, *load_checkpoint(lively))  # the record of a teacher's context stays behind
    stage = InitStage(config, given, by_blocks)
    batch = stage.train_clips.draw(2, 4, step_generator(0, 0))
    before = stage.loss(batch, torch_generator(0, 0))
    before.backward()
    with torch.no_grad():
        for parameter in stage.model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad / parameter.grad.norm().clamp(min=1e-8)
        after = stage.loss(batch, torch_generator(0, 0))
    assert 0 < after < before.detach()
    assert train_init(config, files, tmp_path, teacher=by_blocks) == "finished"


def test_paths_of_other_noise_levels_are_refused(encoded: Path, teacher: Path, paths: Path) -> None:
    config = InitTrainConfig(**settings(tiny_causal(4)))  # type: ignore[arg-type]
    four = dataclasses.replace(config, world=dataclasses.replace(config.world, sampler=SamplerConfig(steps=4)))
    with pytest.raises(ValueError, match="sampled for 2 steps at shift 3, the student takes 4"):
        InitStage(four, ingredients(encoded), teacher, TrajectoryDataset(paths))
    with pytest.raises(ValueError, match="name their folder"):
        InitStage(config, ingredients(encoded), teacher)


@pytest.mark.parametrize("score", ["video", "causal"])
def test_distillation_alternates_between_critic_and_student(
    encoded: Path, files: Files, teacher: Path, causal: Path, tmp_path: Path, score: str
) -> None:
    scorer = causal if score == "causal" else teacher
    config = DmdTrainConfig(**{**settings(tiny_causal(6)), "score": score, "critic_updates": 2})  # type: ignore[arg-type]
    stage = DmdStage(config, ingredients(encoded), teacher, scorer)
    assert (stage.draw(0).views is None) == (score == "causal"), "a student shows its own views to a causal score"
    for step, moved in ((0, stage.critic), (1, stage.critic), (2, stage.model)):
        stage.backward(step)
        for network in (stage.critic, stage.model, stage.teacher):
            seen = [parameter.grad is not None for parameter in network.parameters()]
            assert any(seen) == (network is moved)
            network.zero_grad(set_to_none=True)
    outcome = train_dmd(config, files, tmp_path, student=teacher, teacher=scorer)
    assert outcome == "finished"
    state = load_checkpoint(tmp_path / "latest.safetensors")[0]
    assert not torch.equal(state["proj_out.weight"], load_checkpoint(teacher)[0]["proj_out.weight"])


def test_a_teacher_of_the_other_kind_is_refused_before_anything_is_loaded(
    teacher: Path, causal: Path, tmp_path: Path
) -> None:
    nothing = Files(data=tmp_path / "data", vae=tmp_path / "vae")
    video = DmdTrainConfig(**settings(tiny_causal(6)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"{causal} is a causal network, score 'video' asks .*relic distill teacher"):
        train_dmd(video, nothing, tmp_path / "out", student=teacher, teacher=causal)
    by_blocks = dataclasses.replace(video, score="causal")
    with pytest.raises(ValueError, match=rf"{teacher} is a bidirectional teacher, .*relic distill causal.*'video'"):
        train_dmd(by_blocks, nothing, tmp_path / "out", student=teacher, teacher=teacher)
    init = InitTrainConfig(**{**settings(tiny_causal(6)), "forcing": "consistency"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"{teacher} is a bidirectional teacher, consistency .*follows a causal"):
        train_init(init, nothing, tmp_path / "out", teacher=teacher)
    assert isinstance(score_of(by_blocks, causal), CausalScore)
    assert score_of(video, teacher) == VideoScore(trained_frames=4)
    assert isinstance(score_of(by_blocks, default_weights_dir() / "mini-world.safetensors"), CausalScore)


def test_a_student_keeps_the_ages_of_memory_that_it_knew(encoded: Path, causal: Path, tmp_path: Path) -> None:
    state, values = load_checkpoint(causal)
    for known, kept in ((5, 5), (1, 3)):
        values["memory"]["max_age"] = known
        save_checkpoint(tmp_path / "student.safetensors", state, values, {"vae": read_metadata(causal)["vae"]})
        config = DmdTrainConfig(**{**settings(tiny_causal(6)), "score": "causal"})  # type: ignore[arg-type]
        stage = DmdStage(config, ingredients(encoded), tmp_path / "student.safetensors", causal)
        assert stage.draw(0).latents.shape[2] == 4
        stage.export(tmp_path / "distilled.safetensors")
        assert load_checkpoint(tmp_path / "distilled.safetensors")[1]["memory"]["max_age"] == kept


def test_a_bidirectional_teacher_is_not_released(teacher: Path, files: Files, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{teacher} is a bidirectional teacher.*relic distill dmd"):
        release(teacher, files.vae, tmp_path / "weights", {}, depth=files.depth)
    assert not (tmp_path / "weights").exists()


def test_a_critic_that_is_the_teacher_moves_nothing(encoded: Path, teacher: Path) -> None:
    """Without guidance both predictions are one, and the map vanishes: the fixed point of distribution matching."""
    config = DmdTrainConfig(**{**settings(tiny_causal(6)), "guidance": 1.0})  # type: ignore[arg-type]
    stage = DmdStage(config, ingredients(encoded), teacher, teacher)
    batch = stage.draw(0)
    generator = torch_generator(0, 0)
    difference = stage.difference(batch, stage.start_guide(batch, generator), generator)
    assert float(difference.abs().max()) == 0.0


def test_updates_between_two_of_the_student_share_a_rollout(encoded: Path, teacher: Path) -> None:
    base = {**settings(tiny_causal(6)), "critic_updates": 2}
    given = ingredients(encoded)
    stage = DmdStage(DmdTrainConfig(**base, shared_rollouts=True), given, teacher, teacher)  # type: ignore[arg-type]
    critic_losses, exits = zip(
        *((figures["loss"], figures["exit_step"]) for figures in (stage.backward(step) for step in range(2))),
        strict=True,
    )
    assert critic_losses[0] != critic_losses[1], "the same video at other noise levels"
    assert exits[0] == exits[1]
    first = stage._drawn(0, 0).rollout.latents
    stage.backward(2)
    assert torch.equal(stage._drawn(0, 0).rollout.latents, first)
    stage.backward(3)
    assert [key[0] for key in stage._kept] == [3], "only the latest is held"
    assert not torch.equal(stage._drawn(3, 0).rollout.latents, first)


def test_what_the_start_picture_shows_is_known(encoded: Path, teacher: Path) -> None:
    stage = DmdStage(DmdTrainConfig(**settings(tiny_causal(6))), ingredients(encoded), teacher, teacher)  # type: ignore[arg-type]
    batch = stage.draw(0)
    still = torch.eye(3).expand_as(batch.camera.rotations_w2c)
    away = still * torch.tensor([-1.0, 1.0, -1.0])
    away[:, 0] = still[:, 0]
    for rotations, share in ((still, 1.0), (away, 0.0)):
        camera = dataclasses.replace(
            batch.camera, rotations_w2c=rotations, positions=torch.zeros_like(batch.camera.positions)
        )
        known = stage.known(dataclasses.replace(batch, camera=camera))
        assert known.shape == (2, 1, *batch.latents.shape[2:])
        assert not known[:, :, 0].any(), "the start picture itself is given"
        assert float(known[:, :, 1:].mean()) == pytest.approx(share, abs=0.02)


def test_an_anchored_student_goes_to_the_recorded_video(encoded: Path, teacher: Path) -> None:
    """With a critic that is the teacher the scores move nothing, and what is left is the anchor."""
    config = DmdTrainConfig(**{**settings(tiny_causal(6)), "guidance": 1.0, "anchor": 1.0})  # type: ignore[arg-type]
    stage = DmdStage(config, ingredients(encoded), teacher, teacher)
    errors = []
    for _ in range(2):
        errors.append(stage.backward(config.critic_updates)["known_error"])
        stage._kept.clear()
        with torch.no_grad():
            for parameter in stage.model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad / parameter.grad.norm().clamp(min=1e-8)
                    parameter.grad = None
    assert 0 < errors[1] < errors[0]


def test_an_anchor_needs_a_world_that_finds_what_was_shown() -> None:
    base = settings(tiny_causal(6))
    with pytest.raises(ValueError, match=r"anchor -1.0 must not be negative"):
        DmdTrainConfig(**{**base, "anchor": -1.0})  # type: ignore[arg-type]
    world = base["world"]
    assert isinstance(world, RelicConfig)
    model = dataclasses.replace(world.model, guide_channels=0)
    base["world"] = dataclasses.replace(world, model=model, reprojection=None)
    with pytest.raises(ValueError, match=r"anchor 0.5 asks what the start picture shows.*choose 0"):
        DmdTrainConfig(**{**base, "anchor": 0.5})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["teacher", "init", "dmd", "dmd-shared"])
def test_an_interrupted_stage_resumes_to_the_same_bits(
    encoded: Path, teacher: Path, paths: Path, tmp_path: Path, kind: str
) -> None:
    given = ingredients(encoded)

    def stage() -> WorldStage:
        if kind == "teacher":
            return TeacherStage(teacher_config(), given, None)
        base = settings(tiny_causal(6))
        if kind == "init":
            return InitStage(InitTrainConfig(**base), given, teacher, TrajectoryDataset(paths))  # type: ignore[arg-type]
        config = DmdTrainConfig(**base, critic_updates=1, shared_rollouts=kind == "dmd-shared")  # type: ignore[arg-type]
        return DmdStage(config, given, teacher, teacher)

    whole, part = stage(), stage()
    loop = dataclasses.replace(whole.config.loop, checkpoint_steps=3)
    train(whole, loop, tmp_path / "whole", progress_bar=False)
    original = part.backward

    def until_killed(step: int, share: int = 0) -> dict[str, float]:
        if step == 4:
            raise KeyboardInterrupt
        return original(step, share)

    part.backward = until_killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(part, loop, tmp_path / "parts", progress_bar=False)
    train(stage(), loop, tmp_path / "parts", progress_bar=False)
    a, b = (load_checkpoint(tmp_path / name / "latest.safetensors")[0] for name in ("whole", "parts"))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_conditions_are_dropped_run_by_run(encoded: Path) -> None:
    stage = CausalStage(tiny_causal(4), ingredients(encoded))
    batch = stage.train_clips.draw(8, 4, step_generator(0, 0))
    dropped = drop_conditions(batch, DropConfig(text=0.5, actions=0.5), stage.null_text, torch_generator(0, 1))
    no_text = dropped.text.flatten(1).abs().sum(1) == 0
    no_action = dropped.camera.actions.flatten(1).abs().sum(1) == 0
    assert 0 < int(no_text.sum()) < 8
    assert 0 < int(no_action.sum()) < 8
    torch.testing.assert_close(dropped.text[~no_text], batch.text[~no_text])
    torch.testing.assert_close(dropped.camera.positions, batch.camera.positions)
    with pytest.raises(ValueError, match="drop chance of text 2 must lie in"):
        DropConfig(text=2)


def test_straight_paths_are_noised_clips(encoded: Path) -> None:
    from relic_distill.trajectories import straight_paths

    stage = CausalStage(tiny_causal(4), ingredients(encoded))
    batch = stage.train_clips.draw(2, 4, step_generator(0, 0))
    paths = straight_paths(batch, SamplerConfig(steps=2), torch_generator(0, 0))
    sigmas = sampling_sigmas(2, 3.0)
    eps = paths.states[0]
    torch.testing.assert_close(paths.states[1], add_noise(batch.latents, eps, sigmas[1]))
