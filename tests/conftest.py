"""What every test stands on: quiet threads, fixed seeds, and a plain word where the machine lacks something.

Tests marked `render`, `browser`, `native` or `gpu` run where the machine can; elsewhere they skip with the reason
and the command that mends it. With RELIC_REQUIRE_ALL=1, as in CI, a missing system package is a failure.
"""

import importlib.util
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# These are read once, when torch, transformers, gradio and triton are first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TRITON_INTERPRET", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import numpy as np
import pytest

from relic_app.diagnosis import FURNITURE, find_chromium, opens_a_buffer

hypothesis.settings.register_profile("relic", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("relic")

SEED = 20251204
APT = "sudo apt-get install -y --no-install-recommends"


@cache
def _lack_of_panda3d() -> str | None:
    if importlib.util.find_spec("panda3d") is None:
        return "Panda3D is not installed: make setup"
    if opens_a_buffer(120):
        return None
    return f"Panda3D opens no off-screen buffer: {APT} libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri"


@cache
def _lack_of_furniture() -> str | None:
    if not any(FURNITURE.glob("*.sh3f")):
        return f"the Sweet Home 3D furniture is not installed: {APT} sweethome3d-furniture"
    if importlib.util.find_spec("miniworld") is None:
        return "MiniWorld's textures are not installed: make setup"
    return None


@cache
def _lack_of_chromium() -> str | None:
    if find_chromium() is None:
        return f"no Chromium was found (RELIC_CHROMIUM may name one): {APT} chromium"
    return None


@cache
def _lack_of_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA or ROCm device"


@cache
def _lack_of_compiler() -> str | None:
    import torch

    from relic_kernels.native import why_not

    why = why_not(torch.float32)
    return None if why is None else f"the C++ operators cannot be had ({why}): {APT} g++"


@cache
def _lack_of_bfloat16() -> str | None:
    import torch

    from relic_kernels.native import why_not

    return _lack_of_compiler() or why_not(torch.bfloat16)


@cache
def _lack_of_bytes() -> str | None:
    from relic_kernels.native import why_not_bytes

    return _lack_of_compiler() or why_not_bytes()


LACK_OF: dict[str, Callable[[], str | None]] = {
    "panda3d": _lack_of_panda3d,
    "furniture": _lack_of_furniture,
    "chromium": _lack_of_chromium,
    "compiler": _lack_of_compiler,
    "bfloat16": _lack_of_bfloat16,
    "bytes": _lack_of_bytes,
    "gpu": _lack_of_gpu,
}
NOT_INSTALLED = {"bfloat16", "bytes", "gpu"}
"""What a machine has or has not, whatever is installed."""
NEEDS_OF_MARKER = {
    "render": ("panda3d", "furniture"),
    "browser": ("chromium",),
    "native": ("compiler",),
    "gpu": ("gpu",),
}


def require_or_skip(*needs: str) -> None:
    """Skip the running test, or fail it under RELIC_REQUIRE_ALL=1, if the machine lacks one of `needs`.

    A GPU or an instruction is not something that can be installed, so its absence never fails a test.
    """
    for need in needs:
        reason = LACK_OF[need]()
        if reason is None:
            continue
        if need not in NOT_INSTALLED and os.environ.get("RELIC_REQUIRE_ALL") == "1":
            pytest.fail(f"RELIC_REQUIRE_ALL is set, but {reason}", pytrace=False)
        pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, needs in NEEDS_OF_MARKER.items():
        if item.get_closest_marker(marker):
            require_or_skip(*needs)


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """`require("chromium")`: the check behind the markers, for a test that needs only a part of one."""
    return require_or_skip


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that Playwright can be told to launch."""
    require_or_skip("chromium")
    path = find_chromium()
    assert path is not None
    return path


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random numbers, in whatever order the tests run."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """New tensors without contents (`torch.empty` and its kin) hold NaN, so that reading one shows."""
    import torch

    flags = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        flags.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True)
    flags.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    flags.fill_uninitialized_memory = before[2]


ClipWriter = Callable[[Path, str, np.ndarray, Any, list[str]], None]


@pytest.fixture(scope="session")
def write_clip() -> ClipWriter:
    """Write a clip folder as `relic_data.render` does: under `root`, by name, from frames, path and captions."""
    from relic.camera import actions_from_poses

    def write(root: Path, name: str, frames: np.ndarray, path: Any, captions: list[str]) -> None:
        folder = root / "clips" / name
        folder.mkdir(parents=True)
        np.save(folder / "frames.npy", frames)
        np.save(folder / "depth.npy", np.full(frames.shape[:3], 2.0, np.float16))
        np.save(folder / "actions.npy", actions_from_poses(path).astype(np.float32))
        np.savez(
            folder / "poses.npz",
            rotations_w2c=path.rotations_w2c,
            positions=path.positions,
            intrinsics=np.array([83.138, 83.138, 80.0, 48.0]),
        )
        values = dict.fromkeys(("split", "scene", "seed", "path_kind", "objects", "credits"), "")
        (folder / "clip.json").write_text(json.dumps({**values, "captions": captions}))

    return write
