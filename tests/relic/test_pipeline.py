"""The pipeline is the rollout with diffusers' manners."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import relic
from relic.actions import parse_script, prepend_static, static_actions
from relic.camera import integrate
from relic.engine import WorldEngine
from relic.flow_matching import sampling_sigmas
from relic.memory.backends import make_memory
from relic.model.conditioning import camera_conditioning
from relic.pictures import frames_to_tensor
from relic.pipeline import RelicPipeline
from relic.rollout import rollout
from relic.vae.config import VaeConfig
from relic.vae.tiny_vae import TinyVae
from relic.world import HashEncoder, World
from tests.tiny_wan import converted, tiny_wan, tiny_world

SCRIPT = "w*6 d+left*4"


@pytest.fixture(scope="module")
def world() -> World:
    return World.tiny(seed=2)


@pytest.fixture
def pipeline(world: World) -> RelicPipeline:
    made = RelicPipeline.from_world(world)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_a_call_is_one_rollout(pipeline: RelicPipeline, world: World, picture: np.ndarray) -> None:
    result = pipeline(picture, "a room", SCRIPT, generator=seeded())
    actions = prepend_static(np.concatenate([parse_script(SCRIPT), static_actions(2)]))
    first = world.vae.encode(frames_to_tensor(picture[None, None]))
    blocks = rollout(
        world.model,
        make_memory(world.config.memory, world.config.model),
        first,
        camera_conditioning(actions, integrate(actions)),
        world.model.encode_text(world.text_encoder.encode(["a room"])),
        world.config.sampler,
        seeded(),
        world.screen(),
    )
    latents = torch.cat([first, *(block.latents for block in blocks)], dim=2)
    film = world.vae.decode(latents).add(1).div(2).clamp(0, 1)[0, :, :11]
    assert result.frames.shape == (1, 11, 96, 160, 3)
    np.testing.assert_allclose(result.frames[0], film.permute(1, 2, 3, 0).numpy(), atol=1e-6)
    raw = pipeline(picture, "a room", SCRIPT, generator=seeded(), output_type="latent").frames
    assert torch.equal(raw, latents[:, :, :4])
    assert pipeline(picture, "a room", "w*4", generator=seeded(), output_type="latent").frames.shape[2] == 2


def test_the_camera_goes_where_playing_goes(pipeline: RelicPipeline, world: World, picture: np.ndarray) -> None:
    engine = WorldEngine(world)
    engine.start(picture)
    rows = parse_script("w*3 d+left*5")
    played = [engine.step(rows[:4]).poses, engine.step(rows[4:]).poses]
    poses = pipeline(picture, "", "w*3 d+left*5", output_type="latent").poses
    assert len(poses) == 9
    np.testing.assert_allclose(poses.positions[1:], np.concatenate([path.positions for path in played]), atol=1e-12)
    assert np.array_equal(poses.positions[0], np.zeros(3))


def test_forms_of_the_frames_agree(pipeline: RelicPipeline, picture: np.ndarray) -> None:
    options: dict[str, Any] = {"prompt": "a room", "num_frames": 6}
    unit = pipeline(picture, generator=seeded(), **options).frames
    tensor = pipeline(Image.fromarray(picture), generator=seeded(), output_type="pt", **options).frames
    assert tensor.shape == (1, 6, 3, 96, 160)
    assert np.array_equal(tensor.permute(0, 1, 3, 4, 2).numpy(), unit)
    frames, poses = pipeline(picture, generator=seeded(), output_type="pil", return_dict=False, **options)
    assert (len(frames), len(frames[0]), len(poses)) == (1, 6, 6)
    assert np.abs(np.stack(frames[0]) / 255 - unit[0]).max() < 0.51 / 255
    other = pipeline(picture, generator=seeded(6), **options).frames
    assert np.array_equal(other[:, 0], unit[:, 0])
    assert not np.array_equal(other[:, 1:], unit[:, 1:])


def test_a_batch_has_a_picture_and_a_prompt_each(pipeline: RelicPipeline, picture: np.ndarray) -> None:
    mirrored = picture[:, ::-1].copy()
    both = pipeline([picture, mirrored], ["a room", "a garden"], "w*4", generator=seeded()).frames
    alone = pipeline(mirrored, "a garden", "w*4", generator=seeded()).frames
    np.testing.assert_allclose(both[1, 0], alone[0, 0], atol=1e-5)
    assert both.shape == (2, 5, 96, 160, 3)
    one_prompt = pipeline([picture, mirrored], "a garden", "w*4", generator=seeded()).frames
    np.testing.assert_allclose(one_prompt[1], both[1], atol=1e-5)
    assert np.abs(one_prompt[0, 1:] - both[0, 1:]).max() > 1e-4


@pytest.mark.parametrize("kind", ["euler", "renoise"])
def test_the_callback_sees_every_pass_and_may_steer(world: World, picture: np.ndarray, kind: Any) -> None:
    sampler = dataclasses.replace(world.config.sampler, kind=kind)
    pipeline = RelicPipeline.from_world(world.with_config(dataclasses.replace(world.config, sampler=sampler)))
    pipeline.set_progress_bar_config(disable=True)
    seen: list[tuple[int, float]] = []

    def blank(pipe: RelicPipeline, index: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipe is pipeline
        assert values["latents"].shape == (1, 16, 1, 12, 20)
        seen.append((index, float(timestep)))
        return {"latents": torch.zeros_like(values["latents"])} if index == 5 else {}

    out = pipeline(
        picture, actions="w*8", num_inference_steps=3, callback_on_step_end=blank, output_type="latent"
    ).frames
    levels = (sampling_sigmas(3, sampler.shift) * 1000)[:-1].tolist()
    assert seen == [(index, pytest.approx(level)) for index, level in enumerate(levels * 2)]
    assert pipeline.num_timesteps == 6
    assert not out[:, :, 2].any()
    assert out[:, :, 1].any()


def test_a_callback_may_go_without_tensors_and_stop(pipeline: RelicPipeline, picture: np.ndarray) -> None:
    def stop(pipe: RelicPipeline, index: int, timestep: Tensor, values: dict[str, Tensor]) -> None:
        assert values == {}
        pipe._interrupt = index >= 2

    result = pipeline(
        picture, "", "w*40", generator=seeded(), callback_on_step_end=stop, callback_on_step_end_tensor_inputs=()
    )
    assert (result.frames.shape[1], len(result.poses), pipeline.interrupt) == (9, 9, True)
    whole = pipeline(picture, "", "w*40", generator=seeded())
    assert (whole.frames.shape[1], pipeline.interrupt) == (41, False)
    assert np.array_equal(whole.frames[:, :9], result.frames)


def test_the_progress_bar_counts_passes(
    pipeline: RelicPipeline, picture: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.set_progress_bar_config(desc="walk", mininterval=0)
    pipeline(picture, actions="w*8")
    assert "walk: 100%" in (shown := capsys.readouterr().err)
    assert "4/4" in shown


def test_a_converted_wan_network_walks(tmp_path: Path, picture: np.ndarray) -> None:
    network = converted(tmp_path, tiny_wan(), height=12, width=20)
    config = dataclasses.replace(
        tiny_world(tiny_wan(), height=12, width=20), sampler=dataclasses.replace(World.tiny().config.sampler, steps=2)
    )
    vae = TinyVae(dataclasses.replace(VaeConfig.tiny(), latent_channels=4))
    pipeline = RelicPipeline(network, vae, HashEncoder(5, 12), config)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(picture, "a room", seconds=0.5, generator=seeded(), output_type="latent").frames
    assert frames.shape == (1, 4, 3, 12, 20)
    assert frames.isfinite().all()
    again = RelicPipeline(**pipeline.components)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(picture, "a room", num_frames=9, generator=seeded(), output_type="latent").frames, frames)
    half = again.to("cpu", torch.bfloat16)
    assert half is again
    assert half.dtype is torch.bfloat16
    rough = half(picture, "a room", num_frames=9, generator=seeded(), output_type="latent").frames
    assert rough.dtype is torch.float32
    assert 0 < (rough - frames).abs().mean() < 0.05 * frames.abs().mean()


def test_saved_and_loaded(pipeline: RelicPipeline, world: World, picture: np.ndarray, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "world")
    loaded = relic.RelicPipeline.from_pretrained(str(tmp_path / "world"))
    loaded.set_progress_bar_config(disable=True)
    assert loaded.world_config == world.config
    results = [made(picture, "", "w*4", generator=seeded(), output_type="latent").frames for made in (pipeline, loaded)]
    assert torch.equal(*results)
    with pytest.raises(FileNotFoundError, match="no folder at nowhere"):
        RelicPipeline.from_pretrained("nowhere")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "neither actions nor a length"),
        ({"num_frames": 5, "seconds": 1.0}, r"num_frames 5 and seconds 1 are two lengths"),
        ({"num_frames": 0}, "a video of 0 frames is shorter than 0 motions"),
        ({"seconds": float("nan")}, "a video of 0 frames"),
        ({"actions": "w*9", "num_frames": 9}, "a video of 9 frames is shorter than 9 motions"),
        ({"actions": "fly*3"}, "fly"),
        ({"actions": "w*4", "prompt": ["a", "b"]}, "1 pictures and 2 prompts"),
        ({"actions": "w*4", "output_type": "mp4"}, "output_type 'mp4' is not one of"),
        ({"actions": "w*4", "num_inference_steps": 0}, "sampler steps 0 must be at least 1"),
        ({"actions": "w*4", "callback_on_step_end_tensor_inputs": ("noise",)}, r"\['noise'\] must be of \['latents'\]"),
    ],
)
def test_bad_calls_are_refused(
    pipeline: RelicPipeline, picture: np.ndarray, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        pipeline(picture, **options)


def test_the_package_names_what_it_imports_late() -> None:
    assert relic.RelicPipeline is RelicPipeline
    with pytest.raises(AttributeError, match="no attribute 'RelicPipelines'"):
        relic.RelicPipelines  # type: ignore[attr-defined]  # noqa: B018
