import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from relic.actions import Speeds, action_from_keys
from relic.engine import WorldEngine
from relic.precision import find_dtype, suits_bfloat16
from relic.world import World


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
    assert (find_dtype("float32"), find_dtype("bfloat16")) == (torch.float32, torch.bfloat16)


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
    picture = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    films, sizes = [], []
    for precision in ("float32", "bfloat16"):
        engine = WorldEngine(World.load(saved, precision=precision))  # type: ignore[arg-type]
        engine.start(picture, "a room", seed=1)
        films.append(
            np.concatenate([engine.step(action_from_keys(("KeyW",), Speeds())).frames for _ in range(3)]).astype(float)
        )
        sizes.append(engine.stats().memory_bytes)
    psnr = 10 * np.log10(255**2 / np.mean((films[0] - films[1]) ** 2, axis=(1, 2, 3)))
    assert psnr.min() > 35
    assert films[0].std() > 10
    assert sizes[1] < 0.6 * sizes[0], "keys and values take half"


def test_training_needs_no_renderer() -> None:
    code = "import sys, relic_distill.recipes; print(sorted({'panda3d', 'embreex'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
