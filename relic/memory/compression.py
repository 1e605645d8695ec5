"""Spatial compression of past keys and values (paper, section 4.3).

Axes: L tokens of a frame, C cells of the pooled frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def frame_factor(frame: int, schedule: Sequence[int]) -> int:
    """Per-side pooling factor of latent frame `frame`: `s_i = S[i mod len(S)]`."""
    return schedule[frame % len(schedule)]


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def pooling_matrix(grid: tuple[int, int], factor: int) -> Tensor:
    """Averages of `factor` x `factor` cells as a matrix; ragged edges average what is there.

    Args:
        grid: token rows and columns of a frame.
        factor: cells a side, at least 1.

    Returns:
        `(C, L)` float32 whose rows sum to one; C = ceil(rows / factor) * ceil(columns / factor).
    """
    rows, columns = grid
    pooled_columns = -(-columns // factor)
    cell = (torch.arange(rows)[:, None] // factor) * pooled_columns + torch.arange(columns) // factor
    members = torch.nn.functional.one_hot(cell.flatten(), pooled_tokens(grid, factor)).float().T
    return members / members.sum(dim=1, keepdim=True)


def pooled_tokens(grid: tuple[int, int], factor: int) -> int:
    """Tokens of one pooled frame."""
    return -(-grid[0] // factor) * -(-grid[1] // factor)


def pool_tokens(x: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Average-pool `(..., L, heads, width)` to `(..., C, heads, width)`."""
    if factor == 1:
        return x
    frames = x.reshape(-1, *grid, x.shape[-2] * x.shape[-1]).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.avg_pool2d(frames, factor, ceil_mode=True, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1).reshape(*x.shape[:-3], -1, *x.shape[-2:])


def pooled_positions(positions_L2: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Mean row and column of each pooled cell: `(C, 2)`."""
    return pooling_matrix(grid, factor).to(positions_L2) @ positions_L2


def memory_tokens(num_frames: int, grid: tuple[int, int], schedule: Sequence[int], window: int) -> int:
    """Tokens that a compressed memory of `num_frames` latent frames holds."""
    old = max(0, num_frames - window)
    pooled = sum(pooled_tokens(grid, frame_factor(frame, schedule)) for frame in range(old))
    return pooled + (num_frames - old) * grid[0] * grid[1]
