import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from relic.actions import Speeds, action_from_keys
from relic.engine import WorldEngine
from relic.precision import find_dtype, multiplies_bytes, suits_bfloat16
from relic.world import World


def walk(world: World) -> tuple[NDArray[np.float64], int]:
    """The frames of three blocks, and the bytes of memory after them."""
    engine = WorldEngine(world)
    engine.start(np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8), "a room", seed=1)
    frames = [engine.step(action_from_keys(("KeyW",), Speeds())).frames for _ in range(3)]
    return np.concatenate(frames).astype(float), engine.stats().memory_bytes


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    World.tiny().save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("capabilities", "suits"),
    [
        ({"avx2": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": False}, False),
    ],
)
def test_auto_is_what_the_processor_has_instructions_for(
    capabilities: dict[str, bool], suits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert suits_bfloat16() is suits
    assert find_dtype("auto") == (torch.bfloat16 if suits else torch.float32)
    assert find_dtype("int8") == find_dtype("auto")
    assert (find_dtype("float32"), find_dtype("bfloat16")) == (torch.float32, torch.bfloat16)


def test_bytes_are_multiplied_where_they_can_be_and_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relic.precision.why_not_bytes", lambda: None)
    assert [multiplies_bytes(one) for one in ("auto", "int8", "float32", "bfloat16")] == [True, True, False, False]
    monkeypatch.setattr("relic.precision.why_not_bytes", lambda: "there are no instructions: use float32")
    assert not multiplies_bytes("auto")
    with pytest.raises(ValueError, match=r"precision int8 .* and here: there are no instructions: use float32"):
        multiplies_bytes("int8")


def test_a_world_in_bytes_shows_what_the_wide_one_shows(saved: Path, require: Callable[..., None]) -> None:
    require("bytes")
    world = World.load(saved, precision="int8")
    assert world.in_bytes
    assert world.with_steps(1).in_bytes
    assert not World.load(saved).in_bytes
    (whole, _), (film, _) = walk(World.load(saved)), walk(world)
    assert 35 < 10 * np.log10(255**2 / np.mean((film - whole) ** 2)) < 70
    world.model.fuse()
    assert not np.array_equal(walk(world)[0], film), "by bytes"


def test_a_network_that_bytes_do_not_fit_is_played_without(require: Callable[..., None]) -> None:
    require("bytes")
    config = World.tiny().config
    odd = World.tiny(config=dataclasses.replace(config, model=dataclasses.replace(config.model, ffn_dim=66)))
    world = World(odd.config, odd.model, odd.vae, odd.text_encoder, odd.depth, in_bytes=True)
    assert not world.in_bytes
    assert world.model.fused is not None


def test_networks_are_narrow_and_what_must_not_be_is_not(saved: Path) -> None:
    world = World.load(saved, precision="bfloat16")
    assert world.depth is not None
    narrow = {name for name, parameter in world.model.named_parameters() if parameter.dtype == torch.bfloat16}
    wide = {name for name, parameter in world.model.named_parameters() if parameter.dtype == torch.float32}
    assert {"blocks.0.attn1.to_q.weight", "proj_out.weight", "guide_embedding.weight"} <= narrow
    assert {"guide_skip.weight", "scale_shift_table", "blocks.1.norm2.weight"} <= wide
    assert world.vae.dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in world.depth.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in World.load(saved).model.parameters()} == {torch.float32}


def test_a_narrow_world_shows_what_the_wide_one_shows(saved: Path) -> None:
    whole, size = walk(World.load(saved))
    film, narrow_size = walk(World.load(saved, precision="bfloat16"))
    psnr = 10 * np.log10(255**2 / np.mean((whole - film) ** 2, axis=(1, 2, 3)))
    assert psnr.min() > 35
    assert whole.std() > 10
    assert narrow_size < 0.6 * size, "keys and values take half"


def test_training_needs_no_renderer() -> None:
    code = "import sys, relic_distill.recipes; print(sorted({'panda3d', 'embreex'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
