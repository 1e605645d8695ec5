"""A loaded world: network, video auto-encoder and text encoder, shared by every session."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from relic.camera import Intrinsics
from relic.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from relic.config import MemoryConfig, ModelConfig, RelicConfig, from_json, mini, to_json
from relic.model.transformer import RelicTransformer
from relic.packing import pack_linears
from relic.parallel.leading import Leader
from relic.precision import Precision, cast_parameters, find_dtype, multiplies_bytes
from relic.reprojection.config import DepthConfig, ReprojectionConfig
from relic.reprojection.depth import DepthNet
from relic.reprojection.guide import Reprojector
from relic.screen import Screen
from relic.stream import Stream
from relic.text import MiniLMEncoder, TextEncoder
from relic.vae.config import VaeConfig
from relic.vae.layers import multiply_bytes
from relic.vae.protocol import VideoEncoder, VideoVae
from relic.vae.tiny_vae import TinyVae
from relic.weights import Manifest, default_weights_dir, read_manifest, write_manifest


class World:
    """Immutable after loading; all torch work on it must stay in one thread.

    Attributes:
        config: preset, sizes, memory and sampler.
        model: the network, in evaluation mode.
        vae: the video auto-encoder, in evaluation mode.
        depth: the depth network, in evaluation mode; None for a world without reprojection.
        reprojector: guides new blocks by earlier views; None for a world without.
        text_encoder: prompts to tokens.
        intrinsics: the camera all poses are meant for.
        in_bytes: whether layers multiply 8-bit integers: those of the transformer's blocks, and those of the
            auto-encoder's where pixels show it least.
        leader: tells the other ranks what to compute, where several share the network; None for one process.
    """

    def __init__(
        self,
        config: RelicConfig,
        model: RelicTransformer,
        vae: VideoVae,
        text_encoder: TextEncoder,
        depth: DepthNet | None = None,
        *,
        in_bytes: bool = False,
    ) -> None:
        self.config = config
        self.model = model.eval().requires_grad_(False)
        self.in_bytes = in_bytes and self.model.fuse(in_bytes=True) is None
        if not self.in_bytes:
            self.model.fuse()
        self.vae = vae.eval().requires_grad_(False)
        robust = [self.vae.encoder, self.vae.decoder.eighth] if isinstance(self.vae, TinyVae) else []
        for part in robust:
            multiply_bytes(part, self.in_bytes)
        self.text_encoder = text_encoder
        self.intrinsics = world_intrinsics(config)
        self.depth = depth
        self.reprojector = make_reprojector(config, self.vae, depth)
        self.leader: Leader | None = None

    @property
    def device(self) -> torch.device:
        """Where the network computes; the auto-encoder may have a device of its own."""
        return self.model.proj_out.weight.device

    @property
    def vae_device(self) -> torch.device:
        """Where pictures are encoded, decoded and warped."""
        return next(iter(self.vae.parameters())).device

    @property
    def decodes_ahead(self) -> bool:
        """Whether a block may be decoded while the next is drawn: on a device of its own, and where it guides none."""
        return self.reprojector is None and self.vae_device != self.device

    @classmethod
    def load(cls, folder: Path | None = None, *, verify: bool = True, precision: Precision = "float32") -> World:
        """Load the weights folder's world onto the CPU.

        Args:
            folder: by default `relic.weights.default_weights_dir()`.
            verify: compare the files' sha256 with the manifest's.
            precision: of the networks; camera geometry and pictures stay float32.

        Raises:
            FileNotFoundError: when a file is missing.
            ValueError: when a file is damaged, its tensors do not fit its configuration, or the processor cannot
                compute in the precision.
        """
        folder = folder or default_weights_dir()
        manifest = read_manifest(folder, verify=verify)
        state, values = load_checkpoint(folder / manifest.world)
        vae = TinyVae.load(folder / manifest.vae)
        config = dataclasses.replace(from_json(RelicConfig, values), vae=vae.config)
        model = RelicTransformer(config.model, world_intrinsics(config))
        model.load_weights(state, folder / manifest.world)
        depth = None if manifest.depth is None else DepthNet.load(folder / manifest.depth)
        dtype, in_bytes = find_dtype(precision), multiplies_bytes(precision)
        model.cast(dtype)
        for network in (vae, *([] if depth is None else [depth])):
            cast_parameters(network, dtype)
        pack_linears(model)
        return cls(config, model, vae, MiniLMEncoder(config.model.text_tokens), depth, in_bytes=in_bytes)

    def save(self, folder: Path, provenance: Mapping[str, Any] | None = None) -> Manifest:
        """Write a weights folder that `load` reads, in the tensors' own precision.

        Args:
            folder: exists.
            provenance: free values for the manifest.

        Raises:
            ValueError: for a world whose auto-encoder is not the tiny one.
        """
        config = self.config
        if not isinstance(self.vae, TinyVae):
            raise ValueError(f"the {config.preset} world is loaded from its Wan folder: it has no weights folder")
        save_checkpoint(folder / "world.safetensors", self.model.state_dict(), to_json(config))
        save_checkpoint(folder / "vae.safetensors", self.vae.state_dict(), to_json(config.vae))
        name = None
        if self.depth is not None:
            name = "depth.safetensors"
            save_checkpoint(folder / name, self.depth.state_dict(), to_json(self.depth.config))
        return write_manifest(folder, "world.safetensors", "vae.safetensors", dict(provenance or {}), depth=name)

    def with_config(self, config: RelicConfig) -> World:
        """The same networks under another memory or sampler."""
        world = World(config, self.model, self.vae, self.text_encoder, self.depth, in_bytes=self.in_bytes)
        world.leader = self.leader
        return world

    def with_steps(self, steps: int | None) -> World:
        """The same networks with so many denoising steps a block; see `RelicConfig.with_steps`."""
        return self.with_config(self.config.with_steps(steps))

    def stream(self) -> Stream:
        """A fresh way through the network, on every rank where several share it."""
        memory, sampler = self.config.memory, self.config.sampler
        if self.leader is None:
            return Stream(self.model, memory, sampler)
        return self.leader.stream(self.model, memory, sampler)

    def screen(self, batch: int = 1) -> Screen:
        """A fresh way to the pixels for `batch` streams; views are forgotten when the memory's policy is `window`."""
        memory = self.config.memory
        window = memory.window if memory.policy == "window" else None
        return Screen(self.vae, self.intrinsics, self.reprojector, batch=batch, window=window)

    @classmethod
    def tiny(cls, seed: int = 0, config: RelicConfig | None = None) -> World:
        """A world of random weights with the real classes and the real picture size, for tests and dry runs."""
        config = config or dataclasses.replace(
            mini(),
            preset="tiny",
            model=ModelConfig(
                dim=48, num_layers=2, num_heads=2, ffn_dim=64, text_tokens=4, freq_dim=16, guide_channels=24
            ),
            memory=MemoryConfig(window=2, max_frames=40, max_age=20),
            vae=VaeConfig.tiny(),
            reprojection=ReprojectionConfig(depth=DepthConfig.tiny()),
            sampler=dataclasses.replace(mini().sampler, steps=2),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = RelicTransformer(config.model, world_intrinsics(config))
            for layer in (model.proj_out, *model.action_encoder.proj_out, *model.pose_encoder.proj_out):
                torch.nn.init.normal_(cast(torch.nn.Linear, layer).weight, std=0.1)
            depth = None
            if config.reprojection is not None:
                for layer in (model.guide_embedding, model.guide_skip):
                    torch.nn.init.normal_(layer.weight, std=0.1)
                depth = DepthNet(config.reprojection.depth)
            return cls(config, model, TinyVae(config.tiny_vae), HashEncoder(config.model.text_tokens), depth)


def read_world_config(folder: Path) -> RelicConfig:
    """The configuration of a weights folder's world; no tensor is read.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when one is damaged.
    """
    path = folder / read_manifest(folder, verify=False).world
    return from_json(RelicConfig, read_metadata(path)["config"], str(path))


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


def make_reprojector(config: RelicConfig, vae: VideoEncoder, depth: DepthNet | None) -> Reprojector | None:
    """What guides the blocks of a world, or None where its configuration has no reprojection.

    Raises:
        ValueError: for a configuration with reprojection and no depth network.
    """
    if config.reprojection is None:
        return None
    if depth is None:
        raise ValueError(
            f"the {config.preset} world is guided by reprojection: name the weights of a depth network for it"
        )
    depth.eval().requires_grad_(False)
    return Reprojector(vae, depth, world_intrinsics(config), config.reprojection)


def world_intrinsics(config: RelicConfig) -> Intrinsics:
    """The pinhole camera of a configuration."""
    return Intrinsics.from_fov(config.vertical_fov_deg, config.width, config.height)
