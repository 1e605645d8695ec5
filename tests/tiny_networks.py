"""Networks of the real class at toy sizes, in which every path matters."""

from pathlib import Path

import torch

from relic.camera import Intrinsics
from relic.config import ModelConfig
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import RelicTransformer
from relic.reprojection.depth import DepthNet
from relic.vae.tiny_vae import TinyVae
from relic.world import HashEncoder
from relic_distill.world_stage import Ingredients

TINY = ModelConfig(
    in_channels=4, dim=32, num_layers=2, num_heads=2, ffn_dim=64, text_dim=8, text_tokens=3, freq_dim=16,
    latent_height=6, latent_width=10, guide_channels=12,
)  # fmt: skip
INTRINSICS = Intrinsics.from_fov(60.0, 80, 48)


def lively_model(config: ModelConfig = TINY, seed: int = 0) -> RelicTransformer:
    """A model in which every path matters: the silent outputs get random weights."""
    torch.manual_seed(seed)
    model = RelicTransformer(config, INTRINSICS)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def random_camera(batch: int, frames: int, config: ModelConfig = TINY) -> CameraConditioning:
    pixel = config.frames_per_latent
    rotation = torch.linalg.qr(torch.randn(batch, frames, pixel, 3, 3)).Q
    return CameraConditioning(
        actions=torch.rand(batch, frames, pixel, config.num_actions) * 0.05,
        rotations_w2c=rotation,
        positions=torch.randn(batch, frames, pixel, 3),
    )


def ingredients(encoded: Path) -> Ingredients:
    """What stages train with, from the folder of the `encoded` fixture."""
    return Ingredients(
        data=encoded / "latents",
        vae=TinyVae.load(encoded / "vae.safetensors"),
        text_encoder=HashEncoder(4),
        depth=DepthNet.load(encoded / "depth.safetensors"),
    )
