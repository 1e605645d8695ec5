"""A loaded world: network, video auto-encoder and text encoder, shared by every session."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from relic.camera import Intrinsics
from relic.checkpoint import load_checkpoint, load_into
from relic.config import MemoryConfig, ModelConfig, RelicConfig, from_json, mini
from relic.model.transformer import RelicTransformer
from relic.text import MiniLMEncoder, TextEncoder
from relic.vae.config import VaeConfig
from relic.vae.tiny_vae import TinyVae
from relic.weights import default_weights_dir, read_manifest


class World:
    """Immutable after loading; all torch work on it must stay in one thread.

    Attributes:
        config: preset, sizes, memory and sampler.
        model: the network, in evaluation mode.
        vae: the video auto-encoder, in evaluation mode.
        text_encoder: prompts to tokens.
        intrinsics: the camera all poses are meant for.
    """

    def __init__(self, config: RelicConfig, model: RelicTransformer, vae: TinyVae, text_encoder: TextEncoder) -> None:
        self.config = config
        self.model = model.eval().requires_grad_(False)
        self.vae = vae.eval().requires_grad_(False)
        self.text_encoder = text_encoder
        self.intrinsics = world_intrinsics(config)

    @classmethod
    def load(cls, folder: Path | None = None, *, verify: bool = True) -> World:
        """Load the weights folder's world onto the CPU, in float32.

        Args:
            folder: by default `relic.weights.default_weights_dir()`.
            verify: compare the files' sha256 with the manifest's.

        Raises:
            FileNotFoundError: when a file is missing.
            ValueError: when a file is damaged, or its tensors do not fit its configuration.
        """
        folder = folder or default_weights_dir()
        manifest = read_manifest(folder, verify=verify)
        state, values = load_checkpoint(folder / manifest.world)
        vae = TinyVae.load(folder / manifest.vae)
        config = dataclasses.replace(from_json(RelicConfig, values), vae=vae.config)
        model = RelicTransformer(config.model, world_intrinsics(config))
        load_into(model, state, folder / manifest.world)
        return cls(config, model, vae, MiniLMEncoder(config.model.text_tokens))

    def with_config(self, config: RelicConfig) -> World:
        """The same networks under another memory or sampler."""
        return World(config, self.model, self.vae, self.text_encoder)

    @classmethod
    def tiny(cls, seed: int = 0, config: RelicConfig | None = None) -> World:
        """A world of random weights with the real classes and the real picture size, for tests and dry runs."""
        config = config or dataclasses.replace(
            mini(),
            preset="tiny",
            model=ModelConfig(dim=48, num_layers=2, num_heads=2, ffn_dim=64, text_tokens=4, freq_dim=16),
            memory=MemoryConfig(window=2, max_frames=40, max_age=20),
            vae=VaeConfig.tiny(),
            sampler=dataclasses.replace(mini().sampler, steps=2),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = RelicTransformer(config.model, world_intrinsics(config))
            for layer in (model.proj_out, *model.action_encoder.proj_out, *model.pose_encoder.proj_out):
                torch.nn.init.normal_(cast(torch.nn.Linear, layer).weight, std=0.1)
            return cls(config, model, TinyVae(config.vae), HashEncoder(config.model.text_tokens))


class HashEncoder:
    """A text encoder without weights: each prompt gets its own fixed random tokens (tests and dry runs)."""

    def __init__(self, num_tokens: int, width: int = 384) -> None:
        self.num_tokens, self.width = num_tokens, width

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """See `relic.text.TextEncoder.encode`."""
        rows = []
        for prompt in prompts:
            seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:7], "little")
            rows.append(torch.randn(self.num_tokens, self.width, generator=torch.Generator().manual_seed(seed)))
        return torch.stack(rows) * torch.tensor([bool(prompt) for prompt in prompts])[:, None, None]


def world_intrinsics(config: RelicConfig) -> Intrinsics:
    """The pinhole camera of a configuration."""
    return Intrinsics.from_fov(config.vertical_fov_deg, config.width, config.height)
