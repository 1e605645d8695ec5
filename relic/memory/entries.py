"""What a memory stores and what a block reads.

Axes: N layers, B batch, L tokens of an entry, K memory tokens, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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


@dataclass(frozen=True, kw_only=True)
class MemorySnapshot:
    """A memory's state at one moment; shares tensors with the memory it came from."""

    entries: tuple[FrameEntry, ...]
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
