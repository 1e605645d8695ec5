from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from relic.actions import ACTION_NAMES
from relic.camera import CameraPath, integrate
from relic.checkpoint import save_checkpoint
from relic.config import to_json
from relic.reprojection.config import DepthConfig
from relic.reprojection.depth import DepthNet
from relic.vae.config import VaeConfig
from relic.vae.tiny_vae import TinyVae
from relic_data.encode import encode_dataset

FRAMES = 45


def some_path(frames: int) -> CameraPath:
    actions = np.zeros((frames, 13))
    actions[1:, ACTION_NAMES.index("dolly_in")] = 0.03
    actions[1:, ACTION_NAMES.index("pan_left")] = 0.01 * np.arange(1, frames) / frames
    return integrate(actions)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., None]) -> Path:
    root = tmp_path_factory.mktemp("causal")
    for name in ("train-s00002-c00", "train-s00003-c00", "validation-s00001-c00"):
        coarse = np.random.default_rng(list(name.encode())).integers(0, 256, (FRAMES, 6, 10, 3), dtype=np.uint8)
        write_clip(root / "data", name, coarse.repeat(16, axis=1).repeat(16, axis=2), some_path(FRAMES), ["a room"])
    torch.manual_seed(0)
    vae = TinyVae(VaeConfig.tiny())
    save_checkpoint(root / "vae.safetensors", vae.state_dict(), to_json(vae.config))
    depth = DepthNet(DepthConfig.tiny())
    save_checkpoint(root / "depth.safetensors", depth.state_dict(), to_json(depth.config))
    encode_dataset(root / "data", root / "vae.safetensors", root / "latents", progress=False)
    return root
