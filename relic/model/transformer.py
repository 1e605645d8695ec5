"""The world model's network: Wan 2.1's transformer with action and pose control (paper, section 4.1).

Parameter names are those of `diffusers.WanTransformer3DModel`, the control encoders beside them.

Axes: B batch, C latent channels, F latent frames, L tokens of a frame, M model width, S text tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from relic.camera import Intrinsics
from relic.checkpoint import load_into
from relic.config import ModelConfig
from relic.model.attention import AttentionContext, CrossAttention, SelfAttention, SlottedContext
from relic.model.conditioning import ActionEncoder, CameraConditioning, PoseEncoder
from relic.model.control import Control, EmbeddedGuide, FusedControl
from relic.model.fused_network import FusedNetwork, KeptTimes
from relic.model.layers import (
    FeedForward,
    GELUProjection,
    PatchEmbedding,
    TwoLayerEmbedder,
    WideLayerNorm,
    gated_residual,
    modulate,
    sinusoidal_embedding,
)
from relic.parallel.sequence import SequenceParallel, ShardedAttention
from relic_kernels.frame_network import BlockWeights, EndWeights

KEPT_IN_FLOAT32 = ("time_embedder", "scale_shift_table", "norm2", "guide_skip")
"""Parameters that stay float32 in a network of less precision: those that diffusers keeps of Wan's, and what passes the
network by."""

TIME_SCALE = 1000.0
"""Wan's network reads noise levels as steps of a thousand."""


@dataclass(frozen=True, kw_only=True)
class TextKV:
    """The embedded prompt; no list, because hooks that place a network's inputs would gather it on one device.

    Attributes:
        layers: keys and values of each layer, `(B, S, H, D)` each, on the device of the layer.
    """

    layers: list[tuple[Tensor, Tensor]]


class ConditionEmbedder(nn.Module):
    """Noise level and prompt (Wan's `condition_embedder`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.freq_dim = config.freq_dim
        self.time_embedder = TwoLayerEmbedder(config.freq_dim, config.dim, nn.SiLU())
        self.time_proj = nn.Linear(config.dim, 6 * config.dim)
        self.text_embedder = TwoLayerEmbedder(config.text_dim, config.dim, nn.GELU(approximate="tanh"))

    def time(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F)` -> embedding `(B, F, M)` and the six modulations `(B, F, 6, M)`."""
        features = sinusoidal_embedding(sigma * TIME_SCALE, self.freq_dim)
        embedded = self.time_embedder(features.to(self.time_embedder.linear_1.weight.dtype))
        embedded = embedded.to(self.time_proj.weight.dtype)
        return embedded, self.time_proj(nn.functional.silu(embedded)).unflatten(-1, (6, -1))


class RelicBlock(nn.Module):
    """One transformer block; actions join the tokens after self-attention, poses the queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)
        self.attn1 = SelfAttention(config)
        self.attn2 = CrossAttention(config)
        self.norm2 = WideLayerNorm(config.dim, config.eps)
        self.ffn = FeedForward(config.dim, config.ffn_dim, config.gelu_approximate)

    def weights(self) -> BlockWeights:
        """Its parameters, for `relic_kernels.frame_network`."""
        own, text = self.attn1, self.attn2
        widen, narrow = cast(GELUProjection, self.ffn.net[0]).proj, cast(nn.Linear, self.ffn.net[2])
        out, text_out = cast(nn.Linear, own.to_out[0]), cast(nn.Linear, text.to_out[0])
        return BlockWeights(
            q=own.to_q.weight,
            q_bias=own.to_q.bias,
            k=own.to_k.weight,
            k_bias=own.to_k.bias,
            v=own.to_v.weight,
            v_bias=own.to_v.bias,
            out=out.weight,
            out_bias=out.bias,
            norm_q=own.norm_q.weight,
            norm_k=own.norm_k.weight,
            text_q=text.to_q.weight,
            text_q_bias=text.to_q.bias,
            text_out=text_out.weight,
            text_out_bias=text_out.bias,
            text_norm_q=text.norm_q.weight,
            widen=widen.weight,
            widen_bias=widen.bias,
            narrow=narrow.weight,
            narrow_bias=narrow.bias,
            text_norm=self.norm2.weight,
            text_norm_bias=self.norm2.bias,
            modulation=self.scale_shift_table,
        )

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        action: Tensor,
        pose: Tensor,
        text_kv: tuple[Tensor, Tensor],
        context: AttentionContext,
        layer: int,
    ) -> Tensor:
        """`x` `(B, F, L, M)` and `modulation` `(B, F, 6, M)` -> `(B, F, L, M)`."""
        table = (self.scale_shift_table + modulation).unsqueeze(3)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table.unbind(2)
        attended = self.attn1(modulate(x, shift, scale, self.eps), pose, context, layer)
        x = gated_residual(x, attended, gate) + action
        x = x + self.attn2(self.norm2(x), text_kv)
        return gated_residual(x, self.ffn(modulate(x, ffn_shift, ffn_scale, self.eps)), ffn_gate)


class RelicTransformer(nn.Module):
    """Predicts the flow's velocity for latent frames, each at its own noise level.

    Attributes:
        parallel: the ranks that share its sequence (see `relic.parallel.sequence`); None for one process.
        fused: computes passes where it can, see `fuse`; None where the layers compute all themselves.
        fused_control: embeds control where it can, likewise.
    """

    def __init__(self, config: ModelConfig, intrinsics: Intrinsics) -> None:
        super().__init__()
        self.config = config
        self.parallel: SequenceParallel | None = None
        self.fused: FusedNetwork | None = None
        self.fused_control: FusedControl | None = None
        self.patch_embedding = PatchEmbedding(config.in_channels, config.dim, config.patch_size)
        if config.guide_channels:
            self.guide_embedding = nn.Linear(config.guide_channels * config.patch_size**2, config.dim, bias=False)
            cells = config.in_channels * config.patch_size**2
            self.guide_skip = nn.Linear(cells, cells, bias=False)
        self.condition_embedder = ConditionEmbedder(config)
        self.action_encoder = ActionEncoder(config)
        self.pose_encoder = PoseEncoder(config, intrinsics)
        self.blocks = nn.ModuleList([RelicBlock(config) for _ in range(config.num_layers)])
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.proj_out = nn.Linear(config.dim, config.in_channels * config.patch_size**2)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise every parameter: Xavier, embeddings normal(0.02), and zero for outputs that start silent."""
        _init_linears(self)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for embedder in (self.condition_embedder.time_embedder, self.condition_embedder.text_embedder):
            nn.init.normal_(embedder.linear_1.weight, std=0.02)
            nn.init.normal_(embedder.linear_2.weight, std=0.02)
        self._silence_control()
        nn.init.zeros_(self.proj_out.weight)

    def init_control(self) -> None:
        """Initialise what Wan's network has not: Xavier, and zero for outputs."""
        for module in self.control_modules():
            _init_linears(module)
        self._silence_control()

    def control_modules(self) -> Iterator[nn.Module]:
        """What reads actions, poses and guides: all that Wan's network has not."""
        yield from (self.action_encoder, self.pose_encoder)
        if self.config.guide_channels:
            yield from (self.guide_embedding, self.guide_skip)

    def _silence_control(self) -> None:
        silent = [*self.action_encoder.proj_out, *self.pose_encoder.proj_out]
        if self.config.guide_channels:
            silent += [self.guide_embedding, self.guide_skip]
        for layer in silent:
            nn.init.zeros_(layer.weight)

    def encode_text(self, text: Tensor) -> TextKV:
        """Text tokens `(B, S, text_dim)` -> keys and values for every layer; made once a prompt."""
        embedder = self.condition_embedder.text_embedder
        embedded = embedder(text.to(embedder.linear_1.weight.dtype))
        return TextKV(layers=[cast(RelicBlock, block).attn2.keys_values(embedded) for block in self.blocks])

    def encode_control(self, camera: CameraConditioning, guide: Tensor | None = None) -> Control:
        """Actions, poses and guide -> embeddings; made once a block.

        Args:
            camera: control of the block.
            guide: `(B, G, F, h, w)`, see `relic.reprojection.guide`; None where nothing is known.

        Raises:
            ValueError: for a guide to a network that takes none.
        """
        if guide is not None and not self.config.guide_channels:
            raise ValueError("a guide for a network that takes none: its guide_channels are 0")
        if self.fused_control is not None and self.parallel is None and self.fused_control.takes(camera, guide):
            return self.fused_control(camera, guide)
        tokens = None if self.parallel is None else self.parallel.own_tokens
        return Control(
            actions=self._beside_blocks(self.action_encoder(camera.actions)),
            poses=self._beside_blocks(self.pose_encoder(camera.rotations_w2c, camera.positions, tokens)),
            guide=None if guide is None else self._embed_guide(guide),
        )

    def _beside_blocks(self, tensors: list[Tensor]) -> list[Tensor]:
        """One tensor a layer, moved to the layer's weights once; where these are on the disk, passes move it."""
        devices = [cast(RelicBlock, block).scale_shift_table.device for block in self.blocks]
        pairs = zip(tensors, devices, strict=True)
        return [x if device.type == "meta" else x.to(device) for x, device in pairs]

    def _embed_guide(self, guide: Tensor) -> EmbeddedGuide:
        latents, shares = guide.split([self.config.in_channels, 2 * self.config.frames_per_latent], dim=1)
        known = shares.sum(dim=1, keepdim=True) / self.config.frames_per_latent
        size = self.config.patch_size
        seen = rearrange(latents * known, "b c f (y p) (x q) -> b f (y x) (p q c)", p=size, q=size)
        patches = self._own(self._patches(guide)).to(self.guide_embedding.weight.dtype)
        seen = self._own(seen).to(self.guide_skip.weight.dtype)
        return EmbeddedGuide(tokens=self.guide_embedding(patches), skip=self.guide_skip(seen))

    def load_weights(self, state: Mapping[str, Tensor], source: Path) -> None:
        """Load a checkpoint's tensors; a guide that it knows nothing of stays silent.

        Args:
            state: tensors by name.
            source: the checkpoint's file, to be named in errors.

        Raises:
            ValueError: when they are another network's.
        """
        silent = {
            name: torch.zeros_like(value)
            for name, value in self.state_dict().items()
            if name in ("guide_embedding.weight", "guide_skip.weight")
        }
        load_into(self, {**silent, **state}, source)

    def dtype_of(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """Precision of a parameter in a network of precision `dtype`."""
        return dtype if set(name.split(".")).isdisjoint(KEPT_IN_FLOAT32) else torch.float32

    def cast(self, dtype: torch.dtype) -> None:
        """Bring the network to a precision, in place."""
        for name, parameter in self.named_parameters():
            parameter.data = parameter.data.to(self.dtype_of(name, dtype))

    def fuse(self, *, in_bytes: bool = False) -> str | None:
        """Let C++ embed control and compute passes from now on, of one latent frame without gradients on a processor.

        For a network that is played: hooks on its layers, and layers put in their place, are not seen. With `in_bytes`
        the blocks' layers multiply 8-bit integers, made of the weights as they are now.

        Returns:
            Why it cannot be, and the way out; None where it is.
        """
        ends = EndWeights(
            embed=self.patch_embedding.weight,
            embed_bias=cast(Tensor, self.patch_embedding.bias),
            out=self.proj_out.weight,
            out_bias=self.proj_out.bias,
        )
        try:
            layers = [cast(RelicBlock, block).weights() for block in self.blocks]
            embedder = self.condition_embedder
            read = [*embedder.time_embedder.parameters(), *embedder.time_proj.parameters(), self.scale_shift_table]
            times = KeptTimes(self._times, read)
            self.fused = FusedNetwork(ends, layers, times, self.config, in_bytes=in_bytes)
        except ValueError as error:
            self.fused = self.fused_control = None
            return str(error)
        guide = (self.guide_embedding, self.guide_skip) if self.config.guide_channels else None
        try:
            self.fused_control = FusedControl(self.action_encoder, self.pose_encoder, guide, self.config)
        except ValueError:
            self.fused_control = None
        return None

    def _patches(self, cells: Tensor) -> Tensor:
        size = self.config.patch_size
        return rearrange(cells, "b c f (y p) (x q) -> b f (y x) (c p q)", p=size, q=size)

    def _own(self, tokens: Tensor) -> Tensor:
        """`(B, F, L, ...)` -> what of it this process computes."""
        return tokens if self.parallel is None else self.parallel.shard(tokens)

    def forward(
        self, latents: Tensor, sigma: Tensor, control: Control, text: TextKV, context: AttentionContext
    ) -> Tensor:
        """Velocity of `latents`.

        Args:
            latents: `(B, C, F, h, w)` at noise level `sigma`, in any precision.
            sigma: `(B, F)` in [0, 1]; 0 marks a clean frame.
            control: from `encode_control`.
            text: from `encode_text`.
            context: what each token may attend to.

        Returns:
            `(B, C, F, h, w)` in the precision of `latents`, and on their device.
        """
        fused = self.fused_for(latents, context)
        if fused is not None:
            return fused(latents, sigma, control, text.layers, cast(SlottedContext, context))
        return self._by_layers(latents, sigma, *self._times(sigma), control, text, context)

    @torch.no_grad()
    def remember(
        self, latents: Tensor, sigma: Tensor, control: Control, text: TextKV, context: AttentionContext
    ) -> None:
        """Leave in the context the keys and values that a pass without guide does; where C++ runs, without the rest."""
        fused = self.fused_for(latents, context)
        if fused is None:
            self(latents, sigma, dataclasses.replace(control, guide=None), text, context)
        else:
            fused.remember(latents, sigma, control, text.layers, cast(SlottedContext, context))

    def fused_for(self, latents: Tensor, context: AttentionContext) -> FusedNetwork | None:
        """What computes passes over latents `(B, C, F, h, w)` at once; None where the layers do."""
        fused = None if self.parallel is not None else self.fused
        return fused if fused is not None and fused.takes(latents, context) else None

    def _times(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F)` -> modulation of the blocks `(B, F, 6, M)` and of the last layer `(B, F, 2, M)`."""
        embedded, modulation = self.condition_embedder.time(sigma)
        return modulation, self.scale_shift_table.to(embedded.device) + embedded.unsqueeze(2)

    def _by_layers(
        self,
        latents: Tensor,
        sigma: Tensor,
        modulation: Tensor,
        ends_modulation: Tensor,
        control: Control,
        text: TextKV,
        context: AttentionContext,
    ) -> Tensor:
        """What `forward` returns, by the network's own layers; `ends_modulation` is `(B, F, 2, M)`."""
        size, parallel = self.config.patch_size, self.parallel
        if parallel is not None:
            context = ShardedAttention(context, parallel)
        x = self.patch_embedding(self._own(self._patches(latents)))
        if control.guide is not None:
            x = x + control.guide.tokens.to(x.device)
        for layer, block in enumerate(self.blocks):
            x = block(x, modulation, control.actions[layer], control.poses[layer], text.layers[layer], context, layer)
        shift, scale = ends_modulation.to(x.device).unsqueeze(3).unbind(2)
        out = self.proj_out(modulate(x, shift, scale, self.config.eps))
        if control.guide is not None:
            out = out - sigma[:, :, None, None].to(out.device) * control.guide.skip.to(out.device)
        if parallel is not None:
            out = parallel.gather(out)
        rows, _ = self.config.grid
        velocity = rearrange(out, "b f (y x) (p q c) -> b c f (y p) (x q)", y=rows, p=size, q=size)
        return velocity.to(latents)


def _init_linears(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
