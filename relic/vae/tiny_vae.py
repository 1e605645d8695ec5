"""The tiny causal video VAE: 8x smaller in space, 4x in time, 16 channels, streaming both ways.

The four pixel frames of a latent frame are folded into channels at once, so no layer ever works above
quarter resolution. Beside the network runs a linear path of whole 8x8x4 patches, which `stage_vae` starts
from the patches' principal components: the network's own outputs start at zero and learn what the linear
path cannot say. Blocks look back in time by reading a part of their channels from the latent frame before
(temporal shift); that part is all the state a stream carries.

Shape suffixes: B batch, T pixel frames, L latent frames, H W pixels, h w latent cells, N = L * B with time
outermost, C channels. T = 1 + 4 (L - 1): latent 0 holds frame 0 (repeated four times), latent i >= 1 holds
frames 4i-3 .. 4i and depends on nothing later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relic.checkpoint import digest_of, load_checkpoint, load_into
from relic.config import from_json
from relic.vae.config import SPATIAL_FACTOR, TEMPORAL_FACTOR, VaeConfig
from relic.vae.protocol import DecoderState, EncoderState, check_frames, check_latents

_QUARTER = SPATIAL_FACTOR // 2
_PATCH_CHANNELS = 3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2
_QUARTER_CHANNELS = 3 * TEMPORAL_FACTOR * _QUARTER**2


class Pointwise(nn.Module):
    """A 1x1 convolution as the matrix product it is; with channels last, nothing is copied for it."""

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.zeros(outputs, inputs) if zero else torch.randn(outputs, inputs) * inputs**-0.5
        )
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, h, w) -> (N, out, h, w)."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Residual block: normalise, shift in time, 3x3 depth-wise, widen, SiLU, narrow."""

    def __init__(self, channels: int, expansion: int, shift_fraction: float) -> None:
        super().__init__()
        self.shifted = int(channels * shift_fraction)
        self.norm_weight = nn.Parameter(torch.ones(channels))
        self.norm_bias = nn.Parameter(torch.zeros(channels))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.widen = Pointwise(channels, channels * expansion)
        self.narrow = Pointwise(channels * expansion, channels, zero=True)

    def forward(self, x: Tensor, past: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) and the shifted channels of the frame before, (B, C', h, w) -> the same, updated."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.norm_weight, self.norm_bias).permute(0, 3, 1, 2)
        moving, staying = y[:, : self.shifted], y[:, self.shifted :]
        if past is None:
            past = torch.zeros_like(moving[:batch])
        y = _channels_last(torch.cat([torch.cat([past, moving[:-batch]]), staying], dim=1))
        y = self.narrow(F.silu(self.widen(self.depthwise(y))))
        return x + y, moving[-batch:].clone()


def _run_blocks(
    blocks: nn.ModuleList, x: Tensor, past: tuple[Tensor | None, ...], batch: int, kept: list[Tensor]
) -> Tensor:
    for block in blocks:
        index = len(kept)
        x, last = block(x, past[index] if past else None, batch)
        kept.append(last)
    return x


def _blocks(count: int, channels: int, config: VaeConfig) -> nn.ModuleList:
    return nn.ModuleList(Block(channels, config.expansion, config.shift_fraction) for _ in range(count))


class Encoder(nn.Module):
    """Folded frames -> latents: a linear patch path plus a learned residual."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        quarter, eighth = config.encoder_channels
        self.linear = Pointwise(_PATCH_CHANNELS, config.latent_channels)
        self.stem = Pointwise(_QUARTER_CHANNELS, quarter)
        self.quarter = _blocks(config.encoder_blocks[0], quarter, config)
        self.down = Pointwise(4 * quarter, eighth)
        self.eighth = _blocks(config.encoder_blocks[1], eighth, config)
        self.head = Pointwise(eighth, config.latent_channels, zero=True)

    def forward(self, x_N: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """(N, 12, H, W) frames -> (N, C, h, w) raw latents and the state after them."""
        kept: list[Tensor] = []
        y = self.stem(_channels_last(F.pixel_unshuffle(x_N, _QUARTER)))
        y = _run_blocks(self.quarter, y, state.past, state.batch, kept)
        y = self.down(_channels_last(F.pixel_unshuffle(y, 2)))
        y = _run_blocks(self.eighth, y, state.past, state.batch, kept)
        z = self.linear(_channels_last(F.pixel_unshuffle(x_N, SPATIAL_FACTOR))) + self.head(y)
        return z, EncoderState(state.batch, True, tuple(kept))


class Decoder(nn.Module):
    """Latents -> folded frames: the linear path's way back plus a learned residual."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        quarter, eighth = config.decoder_channels
        self.linear = Pointwise(config.latent_channels, _PATCH_CHANNELS)
        self.stem = nn.Conv2d(config.latent_channels, eighth, 3, padding=1)
        self.eighth = _blocks(config.decoder_blocks[1], eighth, config)
        self.up = Pointwise(eighth, 4 * quarter)
        self.quarter = _blocks(config.decoder_blocks[0], quarter, config)
        self.head = Pointwise(quarter, _QUARTER_CHANNELS, zero=True)

    def forward(self, z_N: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """(N, C, h, w) raw latents -> (N, 12, H, W) frames and the state after them."""
        kept: list[Tensor] = []
        y = _run_blocks(self.eighth, self.stem(_channels_last(z_N)), state.past, state.batch, kept)
        y = _channels_last(F.pixel_shuffle(self.up(y), 2))
        y = _run_blocks(self.quarter, y, state.past, state.batch, kept)
        quarter = F.pixel_unshuffle(F.pixel_shuffle(self.linear(z_N), SPATIAL_FACTOR), _QUARTER)
        frames = F.pixel_shuffle(quarter + self.head(y), _QUARTER)
        return frames, DecoderState(state.batch, True, tuple(kept))


class TinyVae(nn.Module):
    """Deterministic video auto-encoder with normalised latents.

    Latents are `(raw - latent_mean) / latent_scale`: zero mean in every channel and unit variance on
    average over the training set; both are buffers of the checkpoint.
    """

    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_scale", torch.ones(()))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; frames and latents of any precision are taken, and given back in it."""
        return self.decoder.linear.weight.dtype

    @classmethod
    def load(cls, checkpoint: Path) -> TinyVae:
        """A video auto-encoder from its exported weights, in float32.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is no checkpoint of a tiny VAE.
        """
        state, values = load_checkpoint(checkpoint)
        vae = cls(from_json(VaeConfig, values))
        load_into(vae, state, checkpoint)
        return vae

    def latent_space_digest(self) -> str:
        """Hex digest of everything that decides latents: two auto-encoders that share it differ in the decoder only."""
        state: Mapping[str, Tensor] = self.state_dict()
        return digest_of({name: value for name, value in state.items() if not name.startswith("decoder.")})

    def encoder_state(self, batch: int) -> EncoderState:
        """See `VideoEncoder`; the state keeps each block's shifted channels of the latest latent frame."""
        return EncoderState(batch)

    def decoder_state(self, batch: int) -> DecoderState:
        """See `VideoDecoder`; the state keeps each block's shifted channels of the latest latent frame."""
        return DecoderState(batch)

    def encode(self, frames: Tensor) -> Tensor:
        """See `VideoEncoder.encode`."""
        return self.encode_step(frames, self.encoder_state(frames.shape[0]))[0]

    def decode(self, latents: Tensor) -> Tensor:
        """See `VideoDecoder.decode`; frames are not clamped."""
        return self.decode_step(latents, self.decoder_state(latents.shape[0]))[0]

    def encode_step(self, frames: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """See `VideoEncoder.encode_step`."""
        check_frames(frames, state)
        if not state.started:
            frames = torch.cat([frames[:, :, :1].expand(-1, -1, TEMPORAL_FACTOR - 1, -1, -1), frames], dim=2)
        x = frames.unflatten(2, (-1, TEMPORAL_FACTOR)).permute(2, 0, 3, 1, 4, 5)
        raw_N, after = self.encoder(x.flatten(2, 3).flatten(0, 1).to(self.dtype), state)
        z_N = (raw_N.to(frames.dtype) - self.latent_mean[:, None, None]) / self.latent_scale
        return z_N.unflatten(0, (-1, state.batch)).permute(1, 2, 0, 3, 4).contiguous(), after

    def decode_step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """See `VideoDecoder.decode_step`."""
        check_latents(latents, self.config.latent_channels, state)
        raw = latents * self.latent_scale + self.latent_mean[:, None, None, None]
        x_N, after = self.decoder(raw.permute(2, 0, 1, 3, 4).flatten(0, 1).to(self.dtype), state)
        x = x_N.to(latents.dtype).unflatten(0, (-1, state.batch)).unflatten(2, (TEMPORAL_FACTOR, 3))
        frames = x.permute(1, 3, 0, 2, 4, 5).flatten(2, 3)
        return (frames if state.started else frames[:, :, TEMPORAL_FACTOR - 1 :]), after


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
