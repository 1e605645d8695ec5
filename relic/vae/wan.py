"""Wan 2.1's video auto-encoder, streaming both ways: `diffusers.AutoencoderKLWan` with its caches carried in states.

The library runs its networks frame group by frame group and keeps the last frames that each causal convolution saw in
lists on the module. Here the lists belong to the caller's state, and nothing is left in the module between calls.

Encoder and decoder are two modules, each on its own device and in its own precision: whatever comes in is moved there,
and what comes out is float32 on that device.

Shape suffixes as in `relic.vae.protocol`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relic.pretrained import load_pretrained
from relic.vae.config import SPATIAL_FACTOR, TEMPORAL_FACTOR
from relic.vae.protocol import DecoderState, EncoderState, check_after, check_frames, check_latents
from relic.vae.taehv import TaehvDecoder

_FIRST_FRAME_ONLY = "Rep"
"""The library's mark for a temporal upsampler that has seen nothing but the first frame; None in a state."""


class WanEncoder(nn.Module):
    """The encoding half of an `AutoencoderKLWan`; latents are the distribution's mode, normalised.

    Args:
        autoencoder: the library's model; the encoding half is shared with it, not copied.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.network = autoencoder.encoder
        self.quant_conv = autoencoder.quant_conv
        _register_statistics(self, autoencoder)

    def encode_step(self, frames: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """See `VideoEncoder.encode_step`; the state keeps what each convolution saw last."""
        check_frames(frames, state)
        first = [] if state.started else [1]
        sizes = first + [TEMPORAL_FACTOR] * (frames.shape[2] // TEMPORAL_FACTOR)
        cache = _cache_of(state.past, self.network)
        groups = frames.to(self.quant_conv.weight).split(sizes, dim=2)
        encoded = [self.network(group, feat_cache=cache, feat_idx=[0]) for group in groups]
        mode, _ = self.quant_conv(torch.cat(encoded, dim=2)).float().chunk(2, dim=1)
        return (mode - self.mean) / self.std, EncoderState(state.batch, True, _past_of(cache))


class WanDecoder(nn.Module):
    """The decoding half of an `AutoencoderKLWan`; frames are clamped to [-1, 1] as the library does.

    Args:
        autoencoder: the library's model; the decoding half is shared with it, not copied.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.network = autoencoder.decoder
        self.post_quant_conv = autoencoder.post_quant_conv
        _register_statistics(self, autoencoder)

    def decode(self, latents: Tensor) -> Tensor:
        """See `VideoDecoder.decode`."""
        return self.decode_step(latents, self.decoder_state(latents.shape[0]))[0]

    def decoder_state(self, batch: int) -> DecoderState:
        """See `VideoDecoder.decoder_state`."""
        return DecoderState(batch)

    def decode_step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """See `VideoDecoder.decode_step`; the state keeps what each convolution saw last."""
        check_latents(latents, self.mean.shape[0], state)
        weight = self.post_quant_conv.weight
        raw = latents.to(weight.device, torch.float32) * self.std + self.mean
        z = self.post_quant_conv(raw.to(weight.dtype))
        cache = _cache_of(state.past, self.network)
        frames = [
            self.network(one, feat_cache=cache, feat_idx=[0], first_chunk=index == 0 and not state.started)
            for index, one in enumerate(z.split(1, dim=2))
        ]
        return torch.cat(frames, dim=2).float().clamp(-1, 1), DecoderState(state.batch, True, _past_of(cache))


class WanVae(nn.Module):
    """Wan's encoder with its own decoder or a tiny one of the same latents.

    Args:
        encoder: pixels to latents.
        decoder: latents to pixels.
    """

    def __init__(self, encoder: WanEncoder, decoder: WanDecoder | TaehvDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    @classmethod
    def load(
        cls,
        folder: Path,
        tiny_decoder: Path | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> WanVae:
        """From a diffusers folder of `AutoencoderKLWan` (`vae/` of a Wan 2.1 checkpoint).

        Args:
            folder: holds `config.json` and safetensors.
            tiny_decoder: a file in the `taew2_1` layout; it takes the place of the checkpoint's own decoder, which is
                then not kept.
            device: where the auto-encoder computes; it need not be the transformer's.
            dtype: it computes in; statistics and what it returns are float32.

        Raises:
            FileNotFoundError: when a folder or file is missing.
            ValueError: when one is damaged, of another class or layout, or not Wan 2.1's 8x8x4 to one.
        """
        from diffusers import AutoencoderKLWan

        tiny = None if tiny_decoder is None else TaehvDecoder.load(tiny_decoder)
        autoencoder = load_pretrained(AutoencoderKLWan, folder, dtype)
        _check_kind(autoencoder.config, folder)
        encoder = WanEncoder(autoencoder)
        if tiny is not None and tiny.latent_channels != autoencoder.config.z_dim:
            raise ValueError(
                f"{tiny_decoder} decodes {tiny.latent_channels} latent channels, but {folder} encodes "
                f"{autoencoder.config.z_dim}: they belong to different auto-encoders"
            )
        decoder = WanDecoder(autoencoder) if tiny is None else tiny.to(dtype)
        return cls(encoder, decoder).to(device).eval().requires_grad_(False)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent cell."""
        return self.encoder.mean.shape[0]

    def encode(self, frames: Tensor) -> Tensor:
        """See `VideoEncoder.encode`."""
        return self.encode_step(frames, self.encoder_state(frames.shape[0]))[0]

    def decode(self, latents: Tensor) -> Tensor:
        """See `VideoDecoder.decode`."""
        return self.decoder.decode(latents)

    def encoder_state(self, batch: int) -> EncoderState:
        """See `VideoEncoder.encoder_state`."""
        return EncoderState(batch)

    def decoder_state(self, batch: int) -> DecoderState:
        """See `VideoDecoder.decoder_state`."""
        return self.decoder.decoder_state(batch)

    def encode_step(self, frames: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """See `VideoEncoder.encode_step`."""
        return self.encoder.encode_step(frames, state)

    def encode_after(self, picture: Tensor, frames: Tensor) -> Tensor:
        """See `VideoEncoder.encode_after`."""
        check_after(picture, frames)
        return self.encode(torch.cat([picture.unsqueeze(2), frames], dim=2))[:, :, 1:]

    def decode_step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """See `VideoDecoder.decode_step`."""
        return self.decoder.decode_step(latents, state)


def _register_statistics(module: nn.Module, autoencoder: Any) -> None:
    for name in ("mean", "std"):
        values = torch.tensor(getattr(autoencoder.config, f"latents_{name}"), dtype=torch.float32)
        module.register_buffer(name, values[:, None, None, None], persistent=False)


def _cache_of(past: tuple[Tensor | None, ...], network: nn.Module) -> list[Tensor | str | None]:
    """A list for the library to overwrite; it puts new tensors into it and changes none."""
    slots = sum(isinstance(module, nn.Conv3d) for module in network.modules())
    used = [_FIRST_FRAME_ONLY if kept is None else kept for kept in past]
    return [*used, *[None] * (slots - len(used))]


def _past_of(cache: list[Tensor | str | None]) -> tuple[Tensor | None, ...]:
    """The slots in use: the library counts more convolutions than look back."""
    used = [kept for kept in cache if kept is not None]
    return tuple(kept if isinstance(kept, Tensor) else None for kept in used)


def _check_kind(config: Any, folder: Path) -> None:
    space = 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1)
    time = 2 ** sum(config.temperal_downsample)
    if (space, time) != (SPATIAL_FACTOR, TEMPORAL_FACTOR):
        raise ValueError(
            f"the auto-encoder in {folder} makes one latent cell of {space}x{space} pixels and {time} frames: "
            f"RELIC is built for Wan 2.1's {SPATIAL_FACTOR}x{SPATIAL_FACTOR} and {TEMPORAL_FACTOR}"
        )
    for name in ("latents_mean", "latents_std"):
        if len(config[name]) != config.z_dim:
            raise ValueError(f"{name} in {folder} has {len(config[name])} values for {config.z_dim} latent channels")
