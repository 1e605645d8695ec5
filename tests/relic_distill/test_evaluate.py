import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from relic.actions import ACTION_NAMES
from relic.camera import CameraPath, actions_from_poses, integrate
from relic.engine import WorldEngine
from relic.model.conditioning import CameraConditioning
from relic.pictures import tensor_to_frames
from relic.screen import Screen
from relic.vae.tiny_vae import TinyVae
from relic.world import World
from relic_data.clips import Clip, ClipDataset
from relic_distill.evaluate import (
    PSNR_CAP,
    EvalConfig,
    evaluate,
    evaluate_world,
    likeness,
    look_of_case,
    reconstruct,
    roll_out,
    score_case,
    with_memory,
)
from relic_distill.held_out import forward_case, out_and_back_case
from relic_distill.images import contact_sheet

FRAMES = 33


def walk(frames: int) -> CameraPath:
    actions = np.zeros((frames, 13))
    actions[1:, ACTION_NAMES.index("truck_right")] = 0.02
    return integrate(actions)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., None]) -> Clip:
    """A camera that trucks along a flat coloured wall two metres away."""
    root = tmp_path_factory.mktemp("wall")
    wall = np.random.default_rng(0).integers(0, 256, (6, 40, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    shift = 83.138 * 0.02 / 2.0
    frames = np.stack([wall[:, round(i * shift) : round(i * shift) + 160] for i in range(FRAMES)])
    write_clip(root, "test-s00000-c00", frames, walk(FRAMES), ["a wall"])
    return next(iter(ClipDataset(root, "test", validate=False)))


def test_an_out_and_back_case_ends_where_it_began(clip: Clip) -> None:
    case = out_and_back_case(clip, 33)
    assert len(case.path) == 33
    np.testing.assert_array_equal(case.frames[0], case.frames[-1])
    np.testing.assert_array_equal(case.frames[16], clip.frames[16])
    np.testing.assert_allclose(case.path.positions[-1], 0, atol=1e-12)
    assert np.abs(case.path.positions[16]).max() == pytest.approx(16 * 0.02)
    with pytest.raises(ValueError, match="has 33 frames, 41 are needed"):
        forward_case(clip, 41)


def test_batched_rollouts_are_the_engines(clip: Clip) -> None:
    world = World.tiny(seed=1)
    case = forward_case(clip, 9)
    film = roll_out(world, [case, case], seed=0)
    assert film.shape == (2, 9, 96, 160, 3)
    engine = WorldEngine(world)
    first = engine.start(case.frames[0], case.prompt, seed=0)
    assert np.abs(film[0, 0].astype(int) - first[0]).max() <= 1
    poses = [engine.step(actions_from_poses(case.path)[1 + 4 * i : 5 + 4 * i]).poses for i in range(2)]
    np.testing.assert_allclose(np.concatenate([p.positions for p in poses]), case.path.positions[1:], atol=1e-9)


def test_what_is_scored_is_the_screens_picture_and_the_latents_decoded_once_more(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A world that paints: a fresh auto-encoder's residuals are silent."""
    world = World.tiny(seed=1)
    assert isinstance(world.vae, TinyVae)
    for parameter in world.vae.decoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    cases = [forward_case(clip, 17), out_and_back_case(clip, 17)]
    drawn: list[Tensor] = []
    original, whole = Screen.show, world.vae.decode

    def noted(self: Screen, latents: Tensor, camera: CameraConditioning) -> Tensor:
        drawn.append(latents)
        return original(self, latents, camera)

    def not_again(latents: Tensor) -> Tensor:
        raise AssertionError("the screen has decoded it")

    monkeypatch.setattr(Screen, "show", noted)
    monkeypatch.setattr(world.vae, "decode", not_again)
    film = roll_out(world, cases, seed=0)
    assert film.shape == (2, 17, 96, 160, 3)
    with torch.inference_mode():
        again = tensor_to_frames(whole(torch.cat(drawn, dim=2)))
    assert np.abs(film.astype(int) - again).max() <= 1  # sums of another order may round a picture's value otherwise
    assert (film != again).mean() < 1e-3
    for case, shown, decoded in zip(cases, film, again, strict=True):
        scores = [score_case(case, frames, world, (0.5, 1.0), walk=False) for frames in (shown, decoded)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_scores_say_what_was_shown(clip: Clip) -> None:
    world = World.tiny(seed=1)
    case = forward_case(clip, 33)
    scores = {score.label: score for score in evaluate(world, [case], (0.5, 2.0), batch=1)}
    assert set(scores) == {"world (compressed)", "vae", "frozen"}
    frozen = scores["frozen"]
    assert frozen.cases == (1, 1)
    assert frozen.seconds == (0.5, 2.0)
    shift = round(32 * 83.138 * 0.02 / 2.0)
    truth, shown = case.frames[32].astype(float)[:, : 160 - shift], case.frames[0].astype(float)[:, : 160 - shift]
    known = 10 * np.log10(255**2 / ((truth - shown) ** 2).mean())
    assert frozen.psnr[1] == pytest.approx(known, abs=0.5)
    assert frozen.psnr[1] != frozen.psnr_walk[1]
    rebuilt = reconstruct(world, [case])[0]
    assert rebuilt.shape == case.frames.shape


def test_a_world_is_compared_with_another_ones_rollout_of_the_same_noise(clip: Clip) -> None:
    world, other, case = World.tiny(seed=1), World.tiny(seed=2), forward_case(clip, 17)
    narrow = with_memory(world, "compressed", "fp8")
    scores = {score.label: score for score in evaluate(narrow, [case], (0.5, 1.0), reference=other)}
    beside = "world (compressed, fp8) beside world (compressed)"
    assert list(scores) == ["world (compressed, fp8)", beside, "vae", "frozen"]
    films = [roll_out(one, [case], 0)[0] for one in (narrow, other, world)]
    ends = [film[13:].astype(float) for film in films]
    expected = 10 * np.log10(255**2 / ((ends[0] - ends[1]) ** 2).mean())
    assert expected < PSNR_CAP
    assert scores[beside].psnr[1] == scores[beside].psnr_walk[1] == pytest.approx(expected)
    assert likeness(films[0], films[2], world, (0.5,)) == [PSNR_CAP], "nothing has left the window of two latent frames"
    assert (ends[0] != ends[2]).any()
    with pytest.raises(ValueError, match="storage 'int4' is not one of"):
        EvalConfig(storage="int4")  # type: ignore[arg-type]


def test_memory_policy_is_swapped_and_weights_are_shared() -> None:
    world = World.tiny(seed=1)
    other = with_memory(world, "window")
    assert other.config.memory.policy == "window"
    assert other.model is world.model


def test_blur_and_fading_show_in_the_look_of_a_case(clip: Clip) -> None:
    world, case = World.tiny(seed=1), forward_case(clip, 17)
    blurred = np.stack([cv2.blur(np.ascontiguousarray(frame), (9, 9)) for frame in case.frames])
    faded = (case.frames * 0.5 + 64).astype(np.uint8)
    assert look_of_case(case, case.frames, world, (0.5, 1.0)) == ([1.0, 1.0], [1.0, 1.0])
    sharpness, contrast = look_of_case(case, blurred, world, (1.0,))
    assert sharpness[0] < 0.5
    assert contrast[0] < 0.95
    sharpness, contrast = look_of_case(case, faded, world, (1.0,))
    assert sharpness[0] == pytest.approx(0.5, abs=0.02)
    assert contrast[0] == pytest.approx(0.5, abs=0.02)


def test_scores_and_a_sheet_of_the_same_rollouts_are_written(clip: Clip, tmp_path: Path) -> None:
    world = World.tiny(seed=1)
    (tmp_path / "weights").mkdir()
    world.save(tmp_path / "weights")
    config = EvalConfig(
        clips=1, seconds=2.0, moments=(0.5, 2.0), policies=("window", "compressed"), precision="float32"
    )
    table = evaluate_world(config, clip.folder.parents[1], tmp_path / "weights", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    labels = ["world (window)", "vae", "frozen", "world (compressed)"]
    assert [(score["path"], score["label"]) for score in scores] == [
        (path, label) for path in ("forward", "out and back") for label in labels
    ]
    assert f"| forward | world (window) | {scores[0]['psnr'][0]:.2f} " in table
    case = forward_case(clip, 33)
    shown = roll_out(with_memory(World.load(tmp_path / "weights"), "window"), [case], config.seed)[0]
    sheet = np.asarray(Image.open(tmp_path / "scores-forward.png"))
    np.testing.assert_array_equal(sheet, contact_sheet([list(case.frames[::4]), list(shown[::4])]))
    with pytest.raises(FileNotFoundError, match="make it first"):
        evaluate_world(config, clip.folder.parents[1], tmp_path / "weights", tmp_path / "none" / "scores.json")
