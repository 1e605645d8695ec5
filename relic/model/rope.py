"""Rotary position embedding over time, rows and columns (Wan 2.1's split of the head width).

Positions may be fractional: a pooled token sits at the mean position of its cell. Pairs of neighbouring channels
rotate together.

Axes: L tokens, D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_YARN_SLOW_TURNS, _YARN_FAST_TURNS = 1.0, 32.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head given to time, rows and columns; the spatial axes get `2 (D // 6)` each."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def grid_positions(grid: tuple[int, int]) -> Tensor:
    """Row and column of every token of a latent frame, row-major: `(rows * columns, 2)` float32."""
    rows, columns = grid
    return torch.cartesian_prod(torch.arange(rows).float(), torch.arange(columns).float())


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """Radians per unit of position for each rotated pair: `(D / 2,)` float32, time first."""
    parts = [theta ** (-torch.arange(0, dim, 2).float() / dim) for dim in axis_dims(head_dim)]
    return torch.cat(parts)


def yarn_frequencies(head_dim: int, theta: float, trained: int, frames: int) -> Tensor:
    """Frequencies for a context of `frames` latent frames, of a network trained on `trained` (YaRN, Peng et al. 2023).

    Time only: waves longer than the trained context are stretched by `frames / trained`, those that turn at least 32
    times in it stay as they are, and between the two lies a linear ramp.

    Returns:
        `(D / 2,)` float32; those of `inverse_frequencies` when the context is no longer than trained.
    """
    frequencies = inverse_frequencies(head_dim, theta)
    stretch = max(1.0, frames / trained)
    time = axis_dims(head_dim)[0] // 2
    turns = trained * frequencies[:time] / (2 * math.pi)
    kept = ((turns - _YARN_SLOW_TURNS) / (_YARN_FAST_TURNS - _YARN_SLOW_TURNS)).clamp(0, 1)
    frequencies[:time] *= kept + (1 - kept) / stretch
    return frequencies


def yarn_attention_scale(trained: int, frames: int) -> float:
    """Factor of the attention logits that goes with `yarn_frequencies` (Peng et al. 2023, eq. 22)."""
    return float((0.1 * math.log(max(1.0, frames / trained)) + 1.0) ** 2)


def rotation(
    time_L: Tensor, space_L2: Tensor, head_dim: int, theta: float, frequencies: Tensor | None = None
) -> Tensor:
    """Unit complex rotations of tokens.

    Args:
        time_L: latent-frame index of each token.
        space_L2: row and column of each token.
        head_dim: D.
        theta: base of the frequencies.
        frequencies: `(D / 2,)` other ones than theta's.

    Returns:
        `(L, D / 2)` complex64.
    """
    if frequencies is None:
        frequencies = inverse_frequencies(head_dim, theta)
    axes = (time_L[:, None].float(), *space_L2.float().split(1, dim=1))
    dims = axis_dims(head_dim)
    repeated = torch.cat([axis.expand(-1, dim // 2) for axis, dim in zip(axes, dims, strict=True)], dim=1)
    angle = repeated * frequencies.to(repeated.device)
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, rotation_LD: Tensor) -> Tensor:
    """Rotate `(..., L, heads, D)` by `(L, D / 2)` complex rotations; the dtype of `x` is kept."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = torch.view_as_complex(wide.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation_LD[:, None, :]).flatten(-2).to(x.dtype)
