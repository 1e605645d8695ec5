"""Configuration of a world: frozen dataclasses and the presets built from them."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from relic.reprojection.config import ReprojectionConfig
from relic.vae.config import SPATIAL_FACTOR, TEMPORAL_FACTOR, VaeConfig, WanVaeConfig

COMPRESSION_SCHEDULE = (1, 4, 2, 4, 4, 4, 2, 4, 4, 2, 4, 4, 4, 2, 4, 4, 2, 4)
"""Per-side pooling factor of latent frame i, used cyclically: `S[i % 18]` (paper, section 4.3)."""

PoseEncoding = Literal["frame", "ray"]
MemoryPolicy = Literal["compressed", "full", "window"]
GeluApproximate = Literal["none", "tanh"]
MemoryStorage = Literal["float", "fp8"]
CommitPass = Literal["clean", "last"]
SamplerKind = Literal["euler", "renoise"]


def guide_channels(latent_channels: int) -> int:
    """Channels of a guide: latents of warped frames, and for each pixel frame two shares of known pixels."""
    return latent_channels + 2 * TEMPORAL_FACTOR


_Config = TypeVar("_Config")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes of the causal video transformer (paper, section 4.1; names follow Wan 2.1).

    Attributes:
        in_channels: channels of a latent cell.
        patch_size: side of the square spatial patch that becomes one token.
        dim: width of a token; `num_heads` must divide it, into an even head width.
        num_layers: transformer blocks.
        num_heads: heads of self- and cross-attention.
        ffn_dim: hidden width of the feed-forward network.
        text_dim: width of the text encoder's tokens.
        text_tokens: text tokens a prompt is padded or cut to.
        freq_dim: width of the sinusoidal embedding of the noise level.
        latent_height: latent cells a column.
        latent_width: latent cells a row.
        frames_per_latent: pixel frames of one latent frame.
        num_actions: width of an action vector.
        guide_channels: channels of the guide that noisy frames are read with (see `relic.reprojection`); 0 for none.
        pose_encoding: `frame`, one vector a latent frame (the paper's), or `ray`, one a token.
        pose_octaves: highest power of two of the Fourier features of the pose.
        pose_scale_m: metres that make one unit of position for the pose encoder.
        translation_scale_m: metres a frame that make one unit of translation for the action encoder.
        rotation_scale_rad: radians a frame that make one unit of rotation for the action encoder.
        rope_theta: base of the rotary frequencies.
        eps: epsilon of the normalisations.
        gelu_approximate: `tanh` as in Wan, or `none`: the exact one, whose backward is twice as fast on a CPU.
    """

    in_channels: int = 16
    patch_size: int = 2
    dim: int = 320
    num_layers: int = 8
    num_heads: int = 5
    ffn_dim: int = 1280
    text_dim: int = 384
    text_tokens: int = 32
    freq_dim: int = 256
    latent_height: int = 12
    latent_width: int = 20
    frames_per_latent: int = 4
    num_actions: int = 13
    guide_channels: int = 0
    pose_encoding: PoseEncoding = "ray"
    pose_octaves: int = 4
    pose_scale_m: float = 2.0
    translation_scale_m: float = 0.05
    rotation_scale_rad: float = 0.05
    rope_theta: float = 100.0
    eps: float = 1e-6
    gelu_approximate: GeluApproximate = "none"

    def __post_init__(self) -> None:
        for name in ("patch_size", "num_layers", "num_heads", "text_tokens", "pose_octaves"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.guide_channels not in (0, guide_channels(self.in_channels)):
            raise ValueError(
                f"guide_channels {self.guide_channels} must be 0 or, for latents of {self.in_channels} channels, "
                f"{guide_channels(self.in_channels)}"
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim {self.freq_dim} must be even: half of it are sines")
        if self.gelu_approximate not in typing.get_args(GeluApproximate):
            raise ValueError(f"gelu_approximate {self.gelu_approximate!r} is not one of none, tanh")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"dim {self.dim} over num_heads {self.num_heads} is no even head width: "
                "choose dim as an even multiple of num_heads"
            )
        for name in ("latent_height", "latent_width"):
            if getattr(self, name) % self.patch_size:
                raise ValueError(f"{name} {getattr(self, name)} is no multiple of patch_size {self.patch_size}")
        if self.pose_encoding not in typing.get_args(PoseEncoding):
            raise ValueError(f"pose_encoding {self.pose_encoding!r} is not one of {typing.get_args(PoseEncoding)}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens a column and a row of one latent frame."""
        return self.latent_height // self.patch_size, self.latent_width // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame."""
        return math.prod(self.grid)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """How a rollout remembers (paper, section 4.3).

    Attributes:
        policy: `compressed` (the paper's), `full` (every token kept) or `window` (old frames forgotten).
        window: latent frames before the current block that stay uncompressed.
        schedule: per-side pooling factor of latent frame i, used cyclically.
        max_frames: latent frames kept at most; beyond, the oldest but the first is dropped.
        max_age: latent frames after which a memory no longer looks older to the rotary embedding.
        storage: what keys and values outside the window are kept as: `float`, as they are, or `fp8`, E4M3 with a scale
            for each token and head.
    """

    policy: MemoryPolicy = "compressed"
    window: int = 6
    schedule: tuple[int, ...] = COMPRESSION_SCHEDULE
    max_frames: int = 480
    max_age: int = 96
    storage: MemoryStorage = "float"

    def __post_init__(self) -> None:
        if self.storage not in typing.get_args(MemoryStorage):
            raise ValueError(f"memory storage {self.storage!r} is not one of {typing.get_args(MemoryStorage)}")
        if self.policy not in typing.get_args(MemoryPolicy):
            raise ValueError(f"memory policy {self.policy!r} is not one of {typing.get_args(MemoryPolicy)}")
        if self.window < 1:
            raise ValueError(f"memory window {self.window} must be at least 1 latent frame")
        if not self.schedule or min(self.schedule) < 1:
            raise ValueError(f"compression schedule {self.schedule} must hold factors of at least 1")
        if self.max_frames <= self.window:
            raise ValueError(f"max_frames {self.max_frames} must exceed the window of {self.window}")
        if self.max_age < 1:
            raise ValueError(f"max_age {self.max_age} must be at least 1 latent frame")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """How a block is drawn from noise.

    Attributes:
        kind: `euler` integrates the flow; `renoise` predicts the clean block and noises it again
            (few-step students).
        steps: network passes a block, the commit pass not counted.
        shift: shift of the noise schedule towards high noise.
        block_frames: latent frames generated together.
        commit: `clean` writes memory by a pass of its own over the finished block; `last` keeps the keys and values
            of the last denoising pass, one pass less.
        commit_sigma: noise level named to the network when a block is committed to memory.
    """

    kind: SamplerKind = "euler"
    steps: int = 8
    shift: float = 3.0
    block_frames: int = 1
    commit: CommitPass = "clean"
    commit_sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in typing.get_args(SamplerKind):
            raise ValueError(f"sampler kind {self.kind!r} is not one of {typing.get_args(SamplerKind)}")
        if self.commit not in typing.get_args(CommitPass):
            raise ValueError(f"sampler commit {self.commit!r} is not one of {typing.get_args(CommitPass)}")
        if self.steps < 1:
            raise ValueError(f"sampler steps {self.steps} must be at least 1")
        if self.shift <= 0:
            raise ValueError(f"sampler shift {self.shift} must be positive")
        if self.block_frames < 1:
            raise ValueError(f"block_frames {self.block_frames} must be at least 1")
        if not 0.0 <= self.commit_sigma < 1.0:
            raise ValueError(f"commit_sigma {self.commit_sigma} must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RelicConfig:
    """Everything that makes one playable world.

    Attributes:
        preset: name the configuration was derived from.
        fps: pixel frames a second.
        vertical_fov_deg: vertical field of view of the camera, degrees.
        model: the network.
        memory: how a rollout remembers.
        vae: the video auto-encoder.
        sampler: how a block is drawn.
        reprojection: how earlier views guide a block; None for a network without a guide (the paper's).
    """

    preset: str = "mini"
    fps: int = 16
    vertical_fov_deg: float = 60.0
    model: ModelConfig = field(default_factory=ModelConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    vae: VaeConfig | WanVaeConfig = field(default_factory=VaeConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    reprojection: ReprojectionConfig | None = None

    def __post_init__(self) -> None:
        if self.vae.latent_channels != self.model.in_channels:
            raise ValueError(
                f"the VAE's latent_channels {self.vae.latent_channels} and the model's in_channels "
                f"{self.model.in_channels} must be equal"
            )
        if self.model.frames_per_latent != TEMPORAL_FACTOR:
            raise ValueError(
                f"frames_per_latent {self.model.frames_per_latent} must be the VAE's {TEMPORAL_FACTOR} pixel frames"
            )
        wanted = 0 if self.reprojection is None else guide_channels(self.model.in_channels)
        if self.model.guide_channels != wanted:
            raise ValueError(
                f"guide_channels {self.model.guide_channels} must be {wanted} "
                f"{'without' if self.reprojection is None else 'with'} reprojection"
            )

    def with_steps(self, steps: int | None) -> RelicConfig:
        """The same with so many denoising steps a block; None for the world's own number.

        Raises:
            ValueError: for fewer than one.
        """
        if steps is None:
            return self
        return dataclasses.replace(self, sampler=dataclasses.replace(self.sampler, steps=steps))

    @property
    def height(self) -> int:
        """Rows of the picture, pixels."""
        return self.model.latent_height * SPATIAL_FACTOR

    @property
    def width(self) -> int:
        """Columns of the picture, pixels."""
        return self.model.latent_width * SPATIAL_FACTOR

    @property
    def tiny_vae(self) -> VaeConfig:
        """Sizes of the tiny video auto-encoder.

        Raises:
            ValueError: for a world that uses Wan's.
        """
        if isinstance(self.vae, WanVaeConfig):
            raise ValueError(
                f"the {self.preset} world's latents are Wan's: the tiny auto-encoder is of no use to it; "
                "load AutoencoderKLWan from the checkpoint's folder"
            )
        return self.vae


def mini() -> RelicConfig:
    """The laptop preset: 96x160 pixels, trained in this repository."""
    return RelicConfig(
        model=ModelConfig(guide_channels=guide_channels(ModelConfig().in_channels)),
        memory=MemoryConfig(window=4),
        reprojection=ReprojectionConfig(),
    )


def wan_1_3b() -> RelicConfig:
    """Wan2.1-T2V-1.3B with control encoders: 480x832 pixels, a network for one consumer GPU."""
    return _wan("wan-1.3b", dim=1536, num_layers=30, num_heads=12, ffn_dim=8960)


def wan_14b() -> RelicConfig:
    """Wan2.1-T2V-14B with control encoders: the paper's network."""
    return _wan("wan-14b", dim=5120, num_layers=40, num_heads=40, ffn_dim=13824)


def _wan(preset: str, *, dim: int, num_layers: int, num_heads: int, ffn_dim: int) -> RelicConfig:
    """What both sizes share (paper, section 4); the block of three latent frames is Self-Forcing's."""
    return RelicConfig(
        preset=preset,
        model=ModelConfig(
            in_channels=16,
            patch_size=2,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            text_dim=4096,
            text_tokens=512,
            freq_dim=256,
            latent_height=60,
            latent_width=104,
            pose_encoding="frame",
            rope_theta=10000.0,
            eps=1e-6,
            gelu_approximate="tanh",
        ),
        memory=MemoryConfig(window=6, max_age=80),
        vae=WanVaeConfig(decoder="taehv"),
        sampler=SamplerConfig(kind="renoise", steps=4, shift=3.0, block_frames=3),
    )


PRESETS: Mapping[str, Callable[[], RelicConfig]] = types.MappingProxyType(
    {"mini": mini, "wan-1.3b": wan_1_3b, "wan-14b": wan_14b}
)
"""Complete configurations by name."""


def find_preset(name: str) -> RelicConfig:
    """The configuration that a preset's name stands for.

    Raises:
        ValueError: for an unknown name; it lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as JSON-able plain values."""
    return dataclasses.asdict(config)


def from_json(cls: type[_Config], values: dict[str, Any], where: str = "") -> _Config:
    """Rebuild a dataclass from `to_json`'s values.

    Raises:
        ValueError: for a key the class does not have; it names the key and where it stands.
    """
    hints = typing.get_type_hints(cls)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(f"unknown settings {sorted(unknown)} in {where or cls.__name__}; known: {sorted(hints)}")
    return cls(
        **{name: _decode(hints[name], value, f"{where or cls.__name__}.{name}") for name, value in values.items()}
    )


def _decode(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where)
    if typing.get_origin(hint) is tuple and value is not None:
        return tuple(value)
    if isinstance(hint, types.UnionType) and value is not None:
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        return _decode(inner[0] if len(inner) == 1 else _of_kind(inner, value, where), value, where)
    return value


def _of_kind(classes: list[type[Any]], value: dict[str, Any], where: str) -> type[Any]:
    """The dataclass whose `kind` the values name; the one without a `kind` where they name none."""
    known = {_kind(cls): cls for cls in classes}
    kind = value.get("kind", "")
    if kind not in known:
        raise ValueError(f"unknown kind {kind!r} of {where}; known: {sorted(filter(None, known))}")
    return known[kind]


def _kind(cls: type[Any]) -> str:
    return next((str(entry.default) for entry in dataclasses.fields(cls) if entry.name == "kind"), "")
