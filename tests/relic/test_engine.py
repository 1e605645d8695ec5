import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relic.actions import STATIC, Speeds, action_from_keys
from relic.camera import integrate
from relic.checkpoint import load_checkpoint
from relic.config import RelicConfig, from_json, mini, to_json
from relic.engine import WorldEngine
from relic.pictures import fit_picture
from relic.weights import read_manifest
from relic.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World.tiny(seed=3)


def picture(height: int = 96, width: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def keys(*codes: str) -> np.ndarray:
    return action_from_keys(codes, Speeds())


def test_a_block_has_frames_and_the_poses_the_actions_lead_to(world: World) -> None:
    engine = WorldEngine(world)
    first = engine.start(picture(), "a room", seed=1)
    assert first.shape == (1, 96, 160, 3)
    walk, turn = keys("KeyW"), keys("ArrowLeft", "KeyE")
    results = [engine.step(walk), engine.step(np.tile(turn, (4, 1)))]
    assert [result.frames.shape for result in results] == [(4, 96, 160, 3)] * 2
    assert [result.block_index for result in results] == [0, 1]
    rest = np.zeros((1, 13))
    rest[0, STATIC] = 1.0
    whole = integrate(np.concatenate([rest, np.tile(walk, (4, 1)), np.tile(turn, (4, 1))]))
    np.testing.assert_allclose(results[1].poses.positions, whole.positions[5:], atol=1e-12)
    np.testing.assert_allclose(results[1].poses.rotations_w2c, whole.rotations_w2c[5:], atol=1e-12)
    stats = engine.stats()
    assert stats.blocks == 2
    assert stats.memory_tokens == 3 * 60
    assert stats.memory_bytes == stats.memory_tokens * 2 * 2 * 48 * 4
    assert stats.view_bytes == 2 * 4 * 96 * 160 * 4, "the start and the latest picture, each with its depth"
    assert stats.seconds_of_history == 3 * 4 / 16


def test_same_seed_same_bytes_other_seed_or_action_or_prompt_other_bytes(world: World) -> None:
    def film(seed: int = 5, key: str = "KeyW", prompt: str = "a room") -> np.ndarray:
        engine = WorldEngine(world)
        engine.start(picture(), prompt, seed)
        return np.concatenate([engine.step(keys(key)).frames for _ in range(3)])

    reference = film()
    assert np.array_equal(film(), reference)
    assert not np.array_equal(film(seed=6), reference)
    assert not np.array_equal(film(key="KeyS"), reference)
    assert not np.array_equal(film(prompt="a garden"), reference)


def test_rewinding_and_repeating_gives_the_original_frames(world: World) -> None:
    engine = WorldEngine(world)
    engine.start(picture(), "a room", seed=2)
    for _ in range(3):
        engine.step(keys("KeyW"))
    moment = engine.snapshot()
    original = [engine.step(keys("ArrowRight")) for _ in range(4)]
    elsewhere = engine.step(keys("KeyS"))
    engine.set_prompt("another room")
    engine.restore(moment)
    again = [engine.step(keys("ArrowRight")) for _ in range(4)]
    for before, after in zip(original, again, strict=True):
        assert np.array_equal(before.frames, after.frames)
        assert np.array_equal(before.poses.positions, after.poses.positions)
        assert before.block_index == after.block_index
    assert elsewhere.block_index == 7


def test_sessions_of_one_world_do_not_disturb_each_other(world: World) -> None:
    alone = WorldEngine(world)
    alone.start(picture(), "a", 1)
    expected = [alone.step(keys("KeyA")).frames for _ in range(3)]
    first, second = WorldEngine(world), WorldEngine(world)
    first.start(picture(), "a", 1)
    second.start(picture(seed=9), "b", 2)
    for frames in expected:
        second.step(keys("KeyD"))
        assert np.array_equal(first.step(keys("KeyA")).frames, frames)


def test_bad_use_is_refused(world: World) -> None:
    engine = WorldEngine(world)
    with pytest.raises(RuntimeError, match=r"call start\(\) before step"):
        engine.step(keys())
    with pytest.raises(ValueError, match="seed -1 must be at least 0"):
        engine.start(picture(), "", -1)
    engine.start(picture(), "", 0)
    with pytest.raises(ValueError, match=r"actions of shape \(3, 13\): give \(4, 13\) or \(13,\)"):
        engine.step(np.zeros((3, 13)))
    with pytest.raises(ValueError, match="picture of shape"):
        engine.start(np.zeros((4, 4), dtype=np.uint8), "", 0)


def test_pictures_are_cropped_at_the_centre() -> None:
    wide = np.zeros((96, 480, 3), dtype=np.uint8)
    wide[:, 160:320] = 200
    assert (fit_picture(wide, 96, 160) == 200).all()
    assert np.array_equal(fit_picture(picture(), 96, 160), picture())
    grey = Image.new("L", (31, 200), 77)
    assert (fit_picture(grey, 96, 160) == 77).all()


def test_a_saved_world_plays_the_same(world: World, tmp_path: Path) -> None:
    world.save(tmp_path)
    loaded = World.load(tmp_path)
    assert loaded.config == world.config
    loaded.text_encoder = world.text_encoder
    films = []
    for source in (world, loaded):
        engine = WorldEngine(source)
        engine.start(picture(), "a room", 4)
        films.append(engine.step(keys("KeyW")).frames)
    assert np.array_equal(*films)


def test_damaged_weights_are_named(world: World, tmp_path: Path) -> None:
    world.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        read_manifest(tmp_path / "nowhere")
    whole = (tmp_path / "world.safetensors").read_bytes()
    (tmp_path / "world.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="differs from its sha256"):
        read_manifest(tmp_path)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_checkpoint(tmp_path / "world.safetensors")
    (tmp_path / "world.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="which is missing"):
        read_manifest(tmp_path)


def test_configuration_survives_json_and_unknown_settings_are_named() -> None:
    values = json.loads(json.dumps(to_json(mini())))
    assert from_json(RelicConfig, values) == mini()
    values["model"]["dimm"] = 3
    with pytest.raises(ValueError, match=r"unknown settings \['dimm'\] in RelicConfig.model"):
        from_json(RelicConfig, values)
