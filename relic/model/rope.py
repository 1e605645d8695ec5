"""Rotary position embedding over time, rows and columns (Wan 2.1's split of the head width).

Positions may be fractional: a pooled token sits at the mean position of its cell. Pairs of neighbouring channels
rotate together.

Axes: L tokens, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def rotation(time_L: Tensor, space_L2: Tensor, head_dim: int, theta: float) -> Tensor:
    """Unit complex rotations of tokens.

    Args:
        time_L: latent-frame index of each token.
        space_L2: row and column of each token.
        head_dim: D.
        theta: base of the frequencies.

    Returns:
        `(L, D / 2)` complex64.
    """
    dims = axis_dims(head_dim)
    axes = torch.cat([time_L[:, None].float(), space_L2.float()], dim=1)
    repeated = axes.repeat_interleave(torch.tensor([dim // 2 for dim in dims], device=axes.device), dim=1)
    angle = repeated * inverse_frequencies(head_dim, theta).to(axes.device)
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, rotation_LD: Tensor) -> Tensor:
    """Rotate `(..., L, heads, D)` by `(L, D / 2)` complex rotations; the dtype of `x` is kept."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = torch.view_as_complex(wide.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation_LD[:, None, :]).flatten(-2).to(x.dtype)
