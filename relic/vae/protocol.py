"""What every video auto-encoder offers: whole videos, and streams whose state is a value.

A stream's state is immutable and holds everything that the next call needs, so that a session can be kept, gone back
to and continued twice. Networks keep nothing between calls.

Axes: B streams, C latent channels, T pixel frames, L latent frames, H W pixels, h w latent cells. T = 1 + 4 (L - 1):
latent 0 holds frame 0, latent i >= 1 frames 4i-3 .. 4i, and neither way looks at anything later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor, nn

from relic.vae.config import SPATIAL_FACTOR, TEMPORAL_FACTOR


@dataclass(frozen=True, slots=True, eq=False)
class StreamState:
    """What a stream remembers between calls.

    Attributes:
        batch: number of streams.
        started: whether the first frame has passed.
        past: what each layer that looks back keeps, in the order they run; None where a layer keeps nothing yet.
            Empty before the first frame.
    """

    batch: int
    started: bool = False
    past: tuple[Tensor | None, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class EncoderState(StreamState):
    """What an encoding stream remembers."""


@dataclass(frozen=True, slots=True, eq=False)
class DecoderState(StreamState):
    """What a decoding stream remembers."""


class VideoEncoder(Protocol):
    """Pixels to normalised latents."""

    def encode(self, frames: Tensor) -> Tensor:
        """Encode whole videos.

        Args:
            frames: (B, 3, T, H, W) in [-1, 1]; T = 1 + 4k, H and W multiples of 8.

        Returns:
            (B, C, L, H/8, W/8) normalised latents, L = 1 + k.

        Raises:
            ValueError: for another shape.
        """
        ...

    def encoder_state(self, batch: int) -> EncoderState:
        """State of `batch` encoding streams before their first frame."""
        ...

    def encode_step(self, frames: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """Encode the next frames of a stream.

        Args:
            frames: (B, 3, T, H, W) in [-1, 1]; T = 1 + 4k for a stream's first call, 4k after it.
            state: what the calls before returned, or `encoder_state`.

        Returns:
            Their latents and the state to go on from; the given state stays valid.

        Raises:
            ValueError: for a shape that is no whole number of latents or another batch than the state's.
        """
        ...

    def encode_after(self, picture: Tensor, frames: Tensor) -> Tensor:
        """Encode frames that follow a picture: `encode` of all, without the picture's own latent.

        Args:
            picture: (B, 3, H, W) in [-1, 1]; H and W multiples of 8.
            frames: (B, 3, T, H, W) in [-1, 1]; T = 4k, k at least 1.

        Returns:
            (B, C, k, H/8, W/8) normalised latents.

        Raises:
            ValueError: for another shape.
        """
        ...


class VideoDecoder(Protocol):
    """Normalised latents to pixels."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode whole videos: (B, C, L, h, w) -> (B, 3, 1 + 4 (L - 1), 8h, 8w), about [-1, 1]."""
        ...

    def decoder_state(self, batch: int) -> DecoderState:
        """State of `batch` decoding streams before their first latent."""
        ...

    def decode_step(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Decode the next latents of a stream.

        Args:
            latents: (B, C, L, h, w), any L >= 1.
            state: what the calls before returned, or `decoder_state`.

        Returns:
            Frames (B, 3, T, 8h, 8w), 4 a latent (1 for a stream's first), and the state to go on from; the
            given state stays valid.

        Raises:
            ValueError: for another number of channels, no latent, or another batch than the state's.
        """
        ...


class VideoVae(VideoEncoder, VideoDecoder, Protocol):
    """Both ways, as a `torch.nn.Module`."""

    def eval(self) -> Self:
        """Switch to evaluation mode."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether parameters gather gradients."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""
        ...


def check_frames(frames: Tensor, state: EncoderState) -> None:
    """Refuse frames that are no whole number of latents of a stream.

    Raises:
        ValueError: as `VideoEncoder.encode_step` says.
    """
    shape = tuple(frames.shape)
    if frames.ndim != 5 or shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(f"frames {shape} of {frames.dtype} must be floating point (B, 3, T, H, W)")
    if shape[3] % SPATIAL_FACTOR or shape[4] % SPATIAL_FACTOR or 0 in shape:
        raise ValueError(f"picture {shape[3]}x{shape[4]} must have sides that are multiples of {SPATIAL_FACTOR}")
    if (shape[2] + (0 if state.started else TEMPORAL_FACTOR - 1)) % TEMPORAL_FACTOR:
        wanted = "4k frames after the first call" if state.started else "1 + 4k frames"
        raise ValueError(f"{shape[2]} frames are no whole number of latents: give {wanted}")
    _check_batch(shape[0], state.batch)


def check_after(picture: Tensor, frames: Tensor) -> None:
    """Refuse frames that are no whole number of latents after a picture.

    Raises:
        ValueError: as `VideoEncoder.encode_after` says.
    """
    check_frames(frames, EncoderState(len(frames), started=True))
    if picture.shape != frames[:, :, 0].shape:
        raise ValueError(f"picture {tuple(picture.shape)} before frames {tuple(frames.shape)}: give one of their size")


def check_latents(latents: Tensor, channels: int, state: DecoderState) -> None:
    """Refuse latents that a stream cannot go on with.

    Raises:
        ValueError: as `VideoDecoder.decode_step` says.
    """
    shape = tuple(latents.shape)
    if latents.ndim != 5 or shape[1] != channels or shape[2] < 1:
        raise ValueError(f"latents {shape} must be (B, {channels}, L >= 1, h, w)")
    _check_batch(shape[0], state.batch)


def _check_batch(batch: int, expected: int) -> None:
    if batch != expected:
        raise ValueError(f"batch of {batch} for a state of {expected} streams: make a state of that size")
