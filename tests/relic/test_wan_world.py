import dataclasses
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from relic.actions import Speeds, action_from_keys
from relic.engine import WorldEngine
from relic.pictures import frames_to_tensor, tensor_to_frames
from relic.wan_world import load_wan_world
from relic.world import World
from tests.pretended_devices import places_of_two_blocks
from tests.tiny_networks import random_camera
from tests.wan_parts import autoencoder, save_lively_control, save_taehv, save_whole_checkpoint, text_encoder

PRECISIONS = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whole_checkpoint(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def control(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lively_control(checkpoint, tmp_path_factory.mktemp("control") / "control.safetensors")


@pytest.fixture(scope="module")
def taehv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("taehv") / "taew2_1.safetensors"
    save_taehv(file)
    return file


@pytest.fixture(scope="module", params=["wan", "taehv"])
def world(request: pytest.FixtureRequest, checkpoint: Path, control: Path, taehv: Path) -> World:
    return load_wan_world(checkpoint, control=control, tiny_decoder=taehv if request.param == "taehv" else None)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def keys(*codes: str) -> np.ndarray:
    return action_from_keys(codes, Speeds())


def film(world: World, key: str = "KeyW", seed: int = 5, prompt: str = "a red room") -> np.ndarray:
    engine = WorldEngine(world)
    first = engine.start(picture(), prompt, seed)
    return np.concatenate([first, *(engine.step(keys(key)).frames for _ in range(2))])


def test_a_wan_world_plays(world: World) -> None:
    frames = film(world)
    assert frames.shape == (1 + 2 * 12, 32, 48, 3)
    assert frames.dtype == np.uint8
    assert len(np.unique(frames[-1])) > 1
    assert np.array_equal(film(world), frames)
    assert not np.array_equal(film(world, seed=6), frames)
    assert not np.array_equal(film(world, key="KeyS"), frames)
    assert not np.array_equal(film(world, prompt=""), frames)


def test_latents_are_finite(world: World) -> None:
    engine = WorldEngine(world)
    engine.start(picture(), "a red room", 1)
    engine.step(keys("KeyW"))
    state = engine.snapshot()
    assert all(stack.isfinite().all() for entry in state.memory.entries for stack in (*entry.k.stacks, *entry.v.stacks))
    assert all(kept is None or kept.isfinite().all() for kept in state.screen.decoder.past)


def test_rewinding_and_repeating_gives_the_original_frames(world: World) -> None:
    engine = WorldEngine(world)
    engine.start(picture(), "a room", seed=2)
    engine.step(keys("KeyW"))
    moment = engine.snapshot()
    original = [engine.step(keys("ArrowRight")).frames for _ in range(2)]
    engine.step(keys("KeyS"))
    engine.restore(moment)
    again = [engine.step(keys("ArrowRight")).frames for _ in range(2)]
    assert np.array_equal(original, again)


def test_the_start_picture_is_what_the_library_makes_of_it(checkpoint: Path, control: Path) -> None:
    library = AutoencoderKLWan.from_pretrained(checkpoint / "vae")
    pixels = frames_to_tensor(picture()[None])[None]
    expected = library.decode(library.encode(pixels).latent_dist.mode()).sample
    frames = WorldEngine(load_wan_world(checkpoint, control=control)).start(picture())
    assert np.abs(frames.astype(int) - tensor_to_frames(expected)[0]).max() <= 1


def test_without_control_encoders_the_world_has_its_presets_size_and_follows_no_key(
    checkpoint: Path, control: Path
) -> None:
    bare = load_wan_world(checkpoint)
    assert (bare.config.height, bare.config.width) == (480, 832)
    assert bare.config.vae.decoder == "wan"
    camera = random_camera(1, 2, bare.config.model)
    embedded = bare.model.encode_control(camera)
    assert not any(layer.any() for layer in (*embedded.actions, *embedded.poses))
    steered = load_wan_world(checkpoint, control=control).model.encode_control(camera)
    assert all(layer.any() for layer in (*steered.actions, *steered.poses))


def test_a_narrow_world_shows_nearly_the_same(checkpoint: Path, control: Path) -> None:
    wide, narrow = (load_wan_world(checkpoint, control=control, dtype=dtype) for dtype in PRECISIONS)
    assert narrow.model.patch_embedding.weight.dtype == torch.bfloat16
    shown = film(narrow)
    assert shown.shape == (25, 32, 48, 3)
    assert np.sqrt(np.mean((shown.astype(float) - film(wide)) ** 2)) < 8
    engine = WorldEngine(narrow)
    engine.start(picture())
    assert {entry.k[0].dtype for entry in engine.snapshot().memory.entries} == {torch.bfloat16}


def test_a_tiny_decoder_is_as_narrow_as_the_network(checkpoint: Path, control: Path, taehv: Path) -> None:
    narrow = load_wan_world(checkpoint, control=control, tiny_decoder=taehv, dtype=torch.bfloat16).vae
    assert {value.dtype for value in narrow.decoder.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in narrow.encoder.parameters()} == {torch.float32}


def test_network_and_auto_encoder_may_lie_on_different_devices(checkpoint: Path, control: Path, taehv: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        found = process.submit(places_of_two_blocks, checkpoint, control, [None, taehv]).result()
    assert len(found) == 2
    for places in found:
        assert places.blocks == ["pretended:0", "pretended:0"]
        assert places.first_latent == "pretended:1"
        assert places.decoder_state == {"pretended:1"}
        assert places.pixels == {"pretended:1"}
        assert "found at least two devices" in places.refusal, "torch would have noticed a mixture"


def test_a_wan_world_has_no_weights_folder(world: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is loaded from its Wan folder"):
        world.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_checkpoint_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder at .*nowhere"):
        load_wan_world(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="layout: transformer, vae, text_encoder, tokenizer missing"):
        load_wan_world(tmp_path)
    shutil.copytree(checkpoint, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "vae")
    with pytest.raises(FileNotFoundError, match="layout: vae missing"):
        load_wan_world(tmp_path / "copy")
    (tmp_path / "copy" / "vae").mkdir()
    with pytest.raises(FileNotFoundError, match="no AutoencoderKLWan in"):
        load_wan_world(tmp_path / "copy")


def test_parts_that_do_not_fit_are_named(checkpoint: Path, control: Path, taehv: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    four = {"z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    autoencoder(**four).save_pretrained(folder / "vae")
    with pytest.raises(ValueError, match="makes 4 latent channels, but its transformer reads 16"):
        load_wan_world(folder, control=control)
    with pytest.raises(ValueError, match=r"decodes 16 latent channels, but .* encodes 4"):
        load_wan_world(folder, control=control, tiny_decoder=taehv)
    autoencoder().save_pretrained(folder / "vae")
    wide = text_encoder(d_model=24)
    wide.save_pretrained(folder / "text_encoder")
    with pytest.raises(ValueError, match="tokens of width 24, but its transformer reads 48"):
        load_wan_world(folder, control=control)
    with pytest.raises(ValueError, match="carries no configuration"):
        load_wan_world(checkpoint, control=checkpoint / "vae" / "diffusion_pytorch_model.safetensors")
    world = World.tiny()
    world.save(tmp_path)
    with pytest.raises(ValueError, match=r"unknown settings .* in .*world\.safetensors"):
        load_wan_world(checkpoint, control=tmp_path / "world.safetensors")


def test_control_encoders_of_another_network_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    from relic.model.relic_transformer_3d import RelicTransformer3DModel
    from tests.wan_parts import small_world

    config = small_world(checkpoint)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, num_layers=1))
    RelicTransformer3DModel.from_config_of(other).save_control(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="num_layers"):
        load_wan_world(checkpoint, control=tmp_path / "other.safetensors")
