"""What a memory stores and what a block reads.

Axes: N layers, B batch, L tokens of an entry, K memory tokens, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relic_kernels.memory_commit import memory_commit


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameEntry:
    """What memory keeps of one latent frame.

    Attributes:
        frame: index of the latent frame in the rollout.
        factor: per-side pooling factor of the tokens.
        k: `(N, B, L, H, D)`, after QK-norm and before RoPE.
        v: `(N, B, L, H, D)`.
    """

    frame: int
    factor: int
    k: Tensor
    v: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens of the entry."""
        return self.k.shape[2]

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
        k_codes: `(N, B, L, H, D)` float8_e4m3fn.
        v_codes: the same of the values.
        k_scale: `(N, B, L, H)` float32, key = code x scale.
        v_scale: the same of the values.
    """

    frame: int
    factor: int
    k_codes: Tensor
    v_codes: Tensor
    k_scale: Tensor
    v_scale: Tensor

    @classmethod
    def of(cls, entry: FrameEntry, grid: tuple[int, int], factor: int) -> QuantisedEntry:
        """Pool and quantise an uncompressed entry.

        Raises:
            ValueError: for a factor that the operator does not know.
        """
        k, v = entry.k.flatten(0, 1), entry.v.flatten(0, 1)
        k_codes, v_codes, k_scale, v_scale = (
            stored.unflatten(0, entry.k.shape[:2]) for stored in memory_commit(k, v, grid, factor)
        )
        return cls(frame=entry.frame, factor=factor, k_codes=k_codes, v_codes=v_codes, k_scale=k_scale, v_scale=v_scale)

    @property
    def k(self) -> Tensor:
        """Keys in float32, made anew at each call: `(N, B, L, H, D)`."""
        return self.k_codes.to(torch.float32) * self.k_scale.unsqueeze(-1)

    @property
    def v(self) -> Tensor:
        """Values in float32, made anew at each call: `(N, B, L, H, D)`."""
        return self.v_codes.to(torch.float32) * self.v_scale.unsqueeze(-1)

    @property
    def num_tokens(self) -> int:
        """Tokens of the entry."""
        return self.k_codes.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.k_codes.nbytes + self.v_codes.nbytes + self.k_scale.nbytes + self.v_scale.nbytes


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
        k: `(N, B, own_tokens + K, H, D)` after RoPE, or None when nothing was committed yet.
        v: `(N, B, own_tokens + K, H, D)`, or None.
        own_tokens: slots at the front; what they hold is not defined.
        next_frame: latent-frame index of the block that reads.
    """

    k: Tensor | None
    v: Tensor | None
    own_tokens: int
    next_frame: int
