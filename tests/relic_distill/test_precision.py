"""Stages in bfloat16, and on another device than the processor."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relic.checkpoint import load_checkpoint, save_checkpoint
from relic.config import to_json
from relic_distill.devices import move_networks, moved, on_device
from relic_distill.loop import LoopConfig, Stage, torch_generator, train
from relic_distill.runtime import Runtime
from relic_distill.smoke import tiny_causal
from relic_distill.stage_causal import CausalStage, CausalTrainConfig, ResampleConfig
from relic_distill.stage_depth import DepthStage, DepthTrainConfig
from relic_distill.stage_dmd import DmdStage, DmdTrainConfig
from relic_distill.stage_init import InitStage, InitTrainConfig
from relic_distill.stage_teacher import TRAINED_FRAMES, TeacherStage, TeacherTrainConfig
from relic_distill.stage_vae import VaeStage, VaeTrainConfig
from relic_distill.trajectories import TrajectoryConfig, TrajectoryDataset, sample_trajectories
from relic_distill.workers import Workers
from relic_distill.world_stage import Phase, WorldTrainConfig, new_network
from tests.elsewhere import TensorElsewhere, pretended
from tests.relic_distill.test_loop import LineStage, assert_same_bits, checkpoint_of
from tests.tiny_networks import ingredients

KINDS = ("causal", "teacher", "init", "consistency", "dmd", "dmd-causal", "vae", "depth")


def settings() -> dict[str, object]:
    base = dataclasses.replace(
        tiny_causal(2), phases=(Phase(until_step=2, frames=4, batch=1),), sample_runs=1, sample_frames=3
    )
    return {field.name: getattr(base, field.name) for field in dataclasses.fields(WorldTrainConfig)}


@pytest.fixture(scope="module")
def lively(encoded: Path) -> Path:
    """A network in which every parameter matters: fresh ones have silent outputs."""
    config = tiny_causal(1)
    network = new_network(config, None)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    target = encoded / "lively.safetensors"
    save_checkpoint(target, network.state_dict(), to_json(config.world), {TRAINED_FRAMES: "4"})
    return target


def without_record(teacher: Path) -> Path:
    """The same network as a causal one."""
    target = teacher.with_name("causal.safetensors")
    save_checkpoint(target, *load_checkpoint(teacher))
    return target


@pytest.fixture(scope="module")
def make(encoded: Path, lively: Path) -> Callable[[str], Stage]:
    """A fresh stage of each kind; equal ones for equal names."""
    given = ingredients(encoded)
    teacher = TeacherStage(TeacherTrainConfig(**settings(), sample_steps=1), given, lively)  # type: ignore[arg-type]
    sampled = TrajectoryConfig(count=1, frames=4, batch=1, steps=2, student_steps=2)
    sample_trajectories(sampled, teacher, lively, 4, encoded / "paths", progress=False)
    videos = [np.random.default_rng(0).integers(0, 256, (17, 32, 48, 3), dtype=np.uint8)]
    pictures = np.random.default_rng(1).integers(0, 256, (17, 32, 48, 3), dtype=np.uint8)

    class OneClip:
        frames, depth = pictures, np.full((17, 32, 48), 2.0, np.float16)

    def build(kind: str) -> Stage:
        values, own = settings(), ingredients(encoded)
        if kind == "causal":
            resample = ResampleConfig(chance=1.0, rounds=1)
            return CausalStage(CausalTrainConfig(**values, resample=resample), own, lively)  # type: ignore[arg-type]
        if kind == "teacher":
            return TeacherStage(TeacherTrainConfig(**values, sample_steps=1), own, lively)  # type: ignore[arg-type]
        if kind in ("init", "consistency"):
            forcing = "hybrid" if kind == "init" else "consistency"
            config = InitTrainConfig(**values, forcing=forcing)  # type: ignore[arg-type]
            return InitStage(config, own, lively, TrajectoryDataset(encoded / "paths"))
        if kind.startswith("dmd"):
            score, scorer = ("causal", without_record(lively)) if kind == "dmd-causal" else ("video", lively)
            return DmdStage(DmdTrainConfig(**values, critic_updates=1, score=score), own, lively, scorer)  # type: ignore[arg-type]
        if kind == "vae":
            start = encoded / "vae.safetensors"
            return VaeStage(VaeTrainConfig(start_from=start, batch=1, window_frames=5), videos, videos)
        return DepthStage(DepthTrainConfig(start_from=encoded / "depth.safetensors", batch=2), [OneClip()], [])  # type: ignore[list-item]

    return build


def gradients(stage: Stage) -> dict[str, Tensor]:
    named = itertools.chain.from_iterable(module.named_parameters() for module in stage.modules.values())
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_computes_on_another_device_what_it_computes_here(
    make: Callable[[str], Stage], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tensors of the pretended device cannot be inference tensors
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
    here, there = make(kind), make(kind)
    with pretended() as device:
        move_networks([*there.modules.values(), *there.frozen.values()], there.averages.values(), device)
        for step in (0, 1):
            expected = here.backward(step)
            with on_device(device):
                figures = there.backward(step)
            assert figures == pytest.approx(expected, rel=1e-5)
        found, wanted = gradients(there), gradients(here)
        assert found.keys() == wanted.keys() != set()
        for name, gradient in found.items():
            torch.testing.assert_close(cast(TensorElsewhere, gradient).held, wanted[name], rtol=1e-3, atol=1e-5)
        shown = here.sample(tmp_path, 2)
        with on_device(device):
            assert there.sample(tmp_path, 2) == pytest.approx(shown, rel=1e-3, abs=1e-3)


def test_noise_is_that_of_the_processor_and_lies_on_the_device() -> None:
    expected = torch.randn(3, generator=torch_generator(0, 1))
    with pretended() as device, on_device(device):
        drawn = torch.randn(3, generator=torch_generator(0, 1))
        named = torch.randn(3, generator=torch_generator(0, 1), device=torch.device("cpu"))
        assert drawn.device == torch.arange(2).device == device
    assert torch.equal(cast(TensorElsewhere, drawn).held, expected)
    assert torch.equal(named, expected)
    with on_device(torch.device("cpu")):
        assert torch.zeros(1).device.type == "cpu"


def test_batches_are_moved_whole(make: Callable[[str], Stage]) -> None:
    batch = cast(CausalStage, make("causal")).draw(0)
    assert batch.views is not None
    with pretended() as device:
        there = moved(batch, device)
        assert there.views is not None
        assert {there.latents.device, there.camera.positions.device, there.views.depth.device} == {device}
        assert there.past is not None
    assert moved(batch, torch.device("cpu")) is batch


@pytest.mark.parametrize("kind", ["causal", "dmd"])
def test_bfloat16_trains_and_what_is_kept_stays_float32(
    make: Callable[[str], Stage], tmp_path: Path, kind: str
) -> None:
    fine, coarse = make(kind), make(kind)
    for step in (0, 1):
        expected = fine.backward(step)["loss"]
        with Workers("bf16").computing():
            loss = coarse.backward(step)["loss"]
        assert loss != expected
        assert loss == pytest.approx(expected, rel=0.1)
    found, wanted = gradients(coarse), gradients(fine)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        if name.endswith("attn2.to_k.bias"):
            # softmax hardly minds what is added to every key: such a gradient is what is left of a sum that cancels
            whole = wanted[name.replace("bias", "weight")].norm()
            assert (gradient - wanted[name]).norm() < 0.25 * whole, name
            continue
        alike = torch.nn.functional.cosine_similarity(gradient.flatten(), wanted[name].flatten(), dim=0)
        assert alike > 0.97 or wanted[name].abs().max() < 1e-6, name

    stage, config = make(kind), LoopConfig(steps=2, warmup=0, runtime=Runtime(mixed_precision="bf16"))
    before = {name: value.clone() for name, value in stage.modules["model"].state_dict().items()}
    train(stage, config, tmp_path, progress_bar=False)
    kept = checkpoint_of(tmp_path)
    assert {tensor.dtype for name, tensor in kept.items() if not name.endswith(".step")} == {torch.float32}
    assert any(not torch.equal(kept[f"module.model.{name}"], value) for name, value in before.items())
    assert {tensor.dtype for tensor in load_checkpoint(tmp_path / "latest.safetensors")[0].values()} == {torch.float32}


def test_without_mixed_precision_the_bits_are_those_of_the_bare_stage(make: Callable[[str], Stage]) -> None:
    bare, inside = make("teacher"), make("teacher")
    figures = bare.backward(0)
    with Workers("no").computing():
        assert inside.backward(0) == figures
    assert_same_bits(gradients(bare), gradients(inside))


def test_precision_may_change_from_one_session_to_the_next(tmp_path: Path) -> None:
    train(LineStage(), LoopConfig(steps=2, runtime=Runtime(mixed_precision="bf16")), tmp_path, progress_bar=False)
    assert train(LineStage(), LoopConfig(steps=4), tmp_path, progress_bar=False) == "finished"
    with pytest.raises(ValueError, match="mixed_precision 'fp16' is not one of"):
        Runtime(mixed_precision="fp16")  # type: ignore[arg-type]
