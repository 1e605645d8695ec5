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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from relic.checkpoint import digest_of, load_checkpoint, load_into
from relic.config import from_json
from relic.vae.config import SPATIAL_FACTOR, TEMPORAL_FACTOR, VaeConfig
from relic.vae.layers import Pointwise, ResidualStack, SteppedNetwork, channels_last
from relic.vae.protocol import DecoderState, EncoderState, check_after, check_frames, check_latents
from relic_kernels.picture_network import Layer, Step

_QUARTER = SPATIAL_FACTOR // 2
_PATCH_CHANNELS = 3 * TEMPORAL_FACTOR * SPATIAL_FACTOR**2
_QUARTER_CHANNELS = 3 * TEMPORAL_FACTOR * _QUARTER**2


def _blocks(count: int, channels: int, config: VaeConfig) -> ResidualStack:
    return ResidualStack(count, channels, config.expansion, 3, int(channels * config.shift_fraction))


class Encoder(SteppedNetwork):
    """Folded frames -> latents: a linear patch path plus a learned residual."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        quarter, eighth = config.encoder_channels
        self.linear = Pointwise(_PATCH_CHANNELS, config.latent_channels, fold=SPATIAL_FACTOR)
        self.stem = Pointwise(_QUARTER_CHANNELS, quarter, fold=_QUARTER)
        self.quarter = _blocks(config.encoder_blocks[0], quarter, config)
        self.down = Pointwise(4 * quarter, eighth, fold=2)
        self.eighth = _blocks(config.encoder_blocks[1], eighth, config)
        self.head = Pointwise(eighth, config.latent_channels, zero=True)

    def forward(self, x_N: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """(N, 12, H, W) frames -> (N, C, h, w) raw latents and the state after them."""
        raw_N, past = self.run(x_N, state.past, state.batch)
        return raw_N, EncoderState(state.batch, True, tuple(past))

    def steps(self) -> list[Step]:
        """See `SteppedNetwork.steps`: 1 and 2 are the pictures at a quarter and an eighth of the resolution."""
        return [
            self.stem.step(0, 1),
            self.quarter.step(1),
            self.down.step(1, 2),
            self.eighth.step(2),
            self.linear.step(0, 3),
            self.head.step(2, 3, adds=True),
        ]

    def by_torch(self, x: Tensor, past: Sequence[Tensor | None], batch: int) -> tuple[Tensor, list[Tensor]]:
        """See `SteppedNetwork.run`."""
        first = len(self.quarter)
        y, quarter = self.quarter(self.stem(x), past[:first], batch)
        y, eighth = self.eighth(self.down(y), past[first:], batch)
        return self.linear(x) + self.head(y), [*quarter, *eighth]


class Decoder(SteppedNetwork):
    """Latents -> folded frames: the linear path's way back plus a learned residual."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        quarter, eighth = config.decoder_channels
        self.linear = Pointwise(config.latent_channels, _PATCH_CHANNELS, unfold=SPATIAL_FACTOR)
        self.stem = nn.Conv2d(config.latent_channels, eighth, 3, padding=1)
        self.eighth = _blocks(config.decoder_blocks[1], eighth, config)
        self.up = Pointwise(eighth, 4 * quarter, unfold=2)
        self.quarter = _blocks(config.decoder_blocks[0], quarter, config)
        self.head = Pointwise(quarter, _QUARTER_CHANNELS, unfold=_QUARTER, zero=True)

    def forward(self, z_N: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """(N, C, h, w) raw latents -> (N, 12, H, W) frames and the state after them."""
        x_N, past = self.run(z_N, state.past, state.batch)
        return x_N, DecoderState(state.batch, True, tuple(past))

    def steps(self) -> list[Step]:
        """See `SteppedNetwork.steps`: 1 and 2 are the pictures at an eighth and a quarter of the resolution."""
        return [
            Layer(weight=self.stem.weight, bias=cast(Tensor, self.stem.bias), source=0, target=1),
            self.eighth.step(1),
            self.up.step(1, 2),
            self.quarter.step(2),
            self.linear.step(0, 3),
            self.head.step(2, 3, adds=True),
        ]

    def by_torch(self, x: Tensor, past: Sequence[Tensor | None], batch: int) -> tuple[Tensor, list[Tensor]]:
        """See `SteppedNetwork.run`."""
        first = len(self.eighth)
        y = self.stem(channels_last(x.to(self.stem.weight.dtype)))
        y, eighth = self.eighth(y, past[:first], batch)
        y, quarter = self.quarter(self.up(y), past[first:], batch)
        return self.linear(x) + self.head(y), [*eighth, *quarter]


def _folded(picture: Tensor | None, frames: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> (N, 12, H, W): four frames side by side, after a film's first one (B, 3, H, W) four times."""
    x = frames.transpose(1, 2)
    if picture is not None:
        x = torch.cat([picture.unsqueeze(1).expand(-1, TEMPORAL_FACTOR, -1, -1, -1), x], dim=1)
    # of a single stream these are views
    return x.unflatten(1, (-1, TEMPORAL_FACTOR)).transpose(0, 1).reshape(-1, TEMPORAL_FACTOR * 3, *x.shape[3:])


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
        picture, rest = (None, frames) if state.started else (frames[:, :, 0], frames[:, :, 1:])
        raw_N, after = self.encoder(_folded(picture, rest), state)
        return self._latents(raw_N.to(frames.dtype), state.batch), after

    def encode_after(self, picture: Tensor, frames: Tensor) -> Tensor:
        """See `VideoEncoder.encode_after`."""
        batch = len(picture)
        check_after(picture, frames)
        raw_N, _ = self.encoder.run(_folded(picture, frames), batch=batch, unread=batch)
        return self._latents(raw_N.to(frames.dtype), batch)

    def _latents(self, raw_N: Tensor, batch: int) -> Tensor:
        """Raw latents (N, C, h, w) -> normalised ones (B, C, L, h, w)."""
        z_N = (raw_N - self.latent_mean.view(-1, 1, 1)) / self.latent_scale
        return z_N.unflatten(0, (-1, batch)).permute(1, 2, 0, 3, 4).contiguous()

    def decode_step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """See `VideoDecoder.decode_step`."""
        check_latents(latents, self.config.latent_channels, state)
        raw = latents * self.latent_scale + self.latent_mean.view(-1, 1, 1, 1)
        x_N, after = self.decoder(raw.permute(2, 0, 1, 3, 4).flatten(0, 1), state)
        x = x_N.to(latents.dtype).reshape(-1, state.batch, TEMPORAL_FACTOR, 3, *x_N.shape[2:])
        frames = x.permute(1, 3, 0, 2, 4, 5).flatten(2, 3)
        return (frames if state.started else frames[:, :, TEMPORAL_FACTOR - 1 :]), after
