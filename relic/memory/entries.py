"""What a memory stores and what a block reads.

Axes: B batch, L tokens of an entry, K memory tokens, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relic.memory.layers import Layers
from relic_kernels.memory_commit import memory_commit


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameEntry:
    """What memory keeps of one latent frame.

    Attributes:
        frame: index of the latent frame in the rollout.
        factor: per-side pooling factor of the tokens.
        k: `(B, L, H, D)` of each layer, after QK-norm and before RoPE.
        v: `(B, L, H, D)` of each layer.
    """

    frame: int
    factor: int
    k: Layers
    v: Layers

    @property
    def num_tokens(self) -> int:
        """Tokens of the entry."""
        return self.k.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.k.nbytes + self.v.nbytes


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantisedEntry:
    """A `FrameEntry` as 8-bit floats (E4M3) with a scale for each token and head.

    Attributes:
        frame: index of the latent frame in the rollout.
        factor: per-side pooling factor of the tokens.
        k_codes: `(B, L, H, D)` float8_e4m3fn of each layer.
        v_codes: the same of the values.
        k_scale: `(B, L, H)` float32 of each layer, key = code x scale.
        v_scale: the same of the values.
    """

    frame: int
    factor: int
    k_codes: Layers
    v_codes: Layers
    k_scale: Layers
    v_scale: Layers

    @classmethod
    def of(cls, entry: FrameEntry, grid: tuple[int, int], factor: int) -> QuantisedEntry:
        """Pool and quantise an uncompressed entry.

        Raises:
            ValueError: for a factor that the operator does not know.
        """
        pairs = zip(entry.k.stacks, entry.v.stacks, strict=True)
        stacks = zip(*(_committed(k, v, grid, factor) for k, v in pairs), strict=True)
        k_codes, v_codes, k_scale, v_scale = (Layers(stack) for stack in stacks)
        return cls(frame=entry.frame, factor=factor, k_codes=k_codes, v_codes=v_codes, k_scale=k_scale, v_scale=v_scale)

    @property
    def k(self) -> Layers:
        """Keys in float32, made anew at each call: `(B, L, H, D)` of each layer."""
        return self.k_codes.map(_dequantised, self.k_scale)

    @property
    def v(self) -> Layers:
        """Values in float32, made anew at each call: `(B, L, H, D)` of each layer."""
        return self.v_codes.map(_dequantised, self.v_scale)

    @property
    def num_tokens(self) -> int:
        """Tokens of the entry."""
        return self.k_codes.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.k_codes.nbytes + self.v_codes.nbytes + self.k_scale.nbytes + self.v_scale.nbytes


def _committed(k: Tensor, v: Tensor, grid: tuple[int, int], factor: int) -> tuple[Tensor, ...]:
    """Codes and scales of `(n, B, L, H, D)`."""
    stored = memory_commit(k.flatten(0, 1), v.flatten(0, 1), grid, factor)
    return tuple(tensor.unflatten(0, k.shape[:2]) for tensor in stored)


def _dequantised(codes: Tensor, scale: Tensor) -> Tensor:
    return codes.to(torch.float32) * scale.unsqueeze(-1)


MemoryEntry = FrameEntry | QuantisedEntry


@dataclass(frozen=True, kw_only=True)
class MemorySnapshot:
    """A memory's state at one moment; shares tensors with the memory it came from."""

    entries: tuple[MemoryEntry, ...]
    num_frames: int


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryView:
    """Memory as the next block reads it, with slots in front for the block's own keys and values.

    Attributes:
        k: `(B, own_tokens + K, H, D)` of each layer after RoPE, or None when nothing was committed yet.
        v: `(B, own_tokens + K, H, D)` of each layer, or None.
        own_tokens: slots at the front; what they hold is not defined.
        next_frame: latent-frame index of the block that reads.
    """

    k: Layers | None
    v: Layers | None
    own_tokens: int
    next_frame: int
