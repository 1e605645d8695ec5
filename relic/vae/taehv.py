"""A tiny decoder of Wan 2.1's latents in the `taew2_1` layout of TAEHV (github.com/madebyollin/taehv).

The layout, as `taehv.py` there has it (read in November 2026, the version that also holds `StreamingTAEHV`): a list of
layers called `decoder`, whose places in the list are part of the tensors' names. A `memory block` at place i owns
`decoder.i.conv.{0,2,4}.{weight,bias}`, three 3x3 convolutions; a `frame split` owns `decoder.i.conv.weight`, 1x1 and
without bias; a plain convolution owns `decoder.i.weight` (and `.bias`).

    0 soft clamp | 1 conv 16 -> 256, bias | 2 ReLU
    3 4 5 memory blocks 256    | 6 twice the size  | 7 frame split, 1 to 1  | 8 conv 256 -> 128
    9 10 11 memory blocks 128  | 12 twice the size | 13 frame split, 1 to 2 | 14 conv 128 -> 64
    15 16 17 memory blocks 64  | 18 twice the size | 19 frame split, 1 to 2 | 20 conv 64 -> 64
    21 ReLU | 22 conv 64 -> 3, bias

It reads normalised latents, as the transformer makes them, and paints in [0, 1]; here that becomes [-1, 1]. Of a
stream's first four frames only the last is shown. The only layers that look back are the memory blocks: each reads its
own input of the frame before, and that is all the state a stream carries.

Published files also hold an encoder, which is not used here. `lighttaew2_1` has the same names and shapes but was
trained on latents that are not normalised: its colours come out wrong.

Shape suffixes as in `relic.vae.protocol`, and N = frames * B with time outermost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from relic.checkpoint import read_tensors
from relic.vae.config import TEMPORAL_FACTOR
from relic.vae.protocol import DecoderState, check_latents

_SOFT_LIMIT = 3.0
_BLOCKS_OF_A_STAGE = 3
_FRAMES_OF_A_STAGE = (1, 2, 2)


class SoftClamp(nn.Module):
    """Latents, bent smoothly into (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return torch.tanh(x / _SOFT_LIMIT) * _SOFT_LIMIT


class MemoryBlock(nn.Module):
    """A residual block that sees the frame before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """`x` (N, C, h, w) and the same one frame earlier -> (N, C, h, w)."""
        out: Tensor = torch.relu(self.conv(torch.cat([x, before], dim=1)) + x)
        return out


class FrameSplit(nn.Module):
    """Each frame becomes one or two."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(channels, channels * frames, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """(N, C, h, w) -> (frames * N, C, h, w), the frames of one in their order of time."""
        split = self.conv(x).unflatten(1, (self.frames, -1)).unflatten(0, (-1, batch))
        out: Tensor = split.transpose(1, 2).flatten(0, 2)
        return out


class TaehvDecoder(nn.Module):
    """The decoder; by default of the published sizes.

    Args:
        latent_channels: channels of a latent cell.
        widths: channels of the three stages and of what the last convolution reads.
    """

    def __init__(self, latent_channels: int = 16, widths: tuple[int, int, int, int] = (256, 128, 64, 64)) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        layers: list[nn.Module] = [SoftClamp(), nn.Conv2d(latent_channels, widths[0], 3, padding=1), nn.ReLU()]
        for stage, frames in enumerate(_FRAMES_OF_A_STAGE):
            width, after = widths[stage : stage + 2]
            layers += [MemoryBlock(width) for _ in range(_BLOCKS_OF_A_STAGE)]
            layers += [nn.Upsample(scale_factor=2), FrameSplit(width, frames)]
            layers += [nn.Conv2d(width, after, 3, padding=1, bias=False)]
        layers += [nn.ReLU(), nn.Conv2d(widths[-1], 3, 3, padding=1)]
        self.decoder = nn.ModuleList(layers)

    @classmethod
    def load(cls, file: Path) -> TaehvDecoder:
        """The published sizes with the tensors of a `taew2_1` safetensors file, in float32.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is no safetensors file, or its tensors have other names or shapes; all are named.
        """
        if file.is_file() and file.suffix != ".safetensors":
            raise ValueError(
                f"{file} is no .safetensors file, and nothing else is read here: take upstream's "
                "safetensors/taew2_1.safetensors, or convert a .pth file as docs/wan-vae.md says"
            )
        tensors = {name: value for name, value in read_tensors(file).items() if not name.startswith("encoder.")}
        decoder = cls()
        faults = _faults(tensors, decoder.state_dict())
        if faults:
            raise ValueError(f"{file} is not in the taew2_1 layout: {'; '.join(faults)}")
        decoder.load_state_dict(tensors)
        return decoder

    def decode(self, latents: Tensor) -> Tensor:
        """See `VideoDecoder.decode`."""
        return self.decode_step(latents, self.decoder_state(latents.shape[0]))[0]

    def decoder_state(self, batch: int) -> DecoderState:
        """See `VideoDecoder.decoder_state`."""
        return DecoderState(batch)

    def decode_step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """See `VideoDecoder.decode_step`; the state keeps each memory block's latest input."""
        check_latents(latents, self.latent_channels, state)
        batch, kept = state.batch, list[Tensor]()
        x_N = latents.to(next(self.parameters())).permute(2, 0, 1, 3, 4).flatten(0, 1)
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                last = state.past[len(kept)] if state.started else None
                before = torch.cat([torch.zeros_like(x_N[:batch]) if last is None else last, x_N[:-batch]])
                kept.append(x_N[-batch:].clone())
                x_N = layer(x_N, before)
            elif isinstance(layer, FrameSplit):
                x_N = layer(x_N, batch)
            else:
                x_N = layer(x_N)
        frames = x_N.unflatten(0, (-1, batch)).permute(1, 2, 0, 3, 4).float().clamp(0, 1) * 2 - 1
        shown = frames if state.started else frames[:, :, TEMPORAL_FACTOR - 1 :]
        return shown, DecoderState(batch, True, tuple(kept))


def _faults(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Sequence[str]:
    missing = [name for name in wanted if name not in found]
    foreign = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    named = {"missing": missing, "unknown": foreign, "misshapen": misshapen}
    return [f"{kind}: {', '.join(names)}" for kind, names in named.items() if names]
