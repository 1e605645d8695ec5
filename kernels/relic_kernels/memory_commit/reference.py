"""Pooling and quantisation of a block's keys and values, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from relic_kernels.dispatch import working_dtype

E4M3_MAX = 448.0
_TINY = 1e-12


def pool(x: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Average `factor` x `factor` cells of a frame; ragged edges average what is there.

    Args:
        x: `(N, L, H, D)` N frames of L = rows x columns tokens, row-major.
        grid: rows and columns.
        factor: cells a side.

    Returns:
        `(N, C, H, D)` in the dtype of the computation; C = ceil(rows / factor) * ceil(columns / factor).
    """
    rows, columns = grid
    wide = x.to(working_dtype(x))
    cells_down, cells_across = -(-rows // factor), -(-columns // factor)
    row = torch.arange(rows, device=x.device) // factor
    column = torch.arange(columns, device=x.device) // factor
    cell = (row[:, None] * cells_across + column).flatten()
    count = cells_down * cells_across
    pooled = wide.new_zeros((x.shape[0], count, *x.shape[2:])).index_add_(1, cell, wide)
    size = wide.new_zeros(count).index_add_(0, cell, wide.new_ones(rows * columns))
    return pooled / size[:, None, None]


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit floats (E4M3) and the scale of each token's head: `x = q scale`.

    Args:
        x: `(..., D)` float32 or wider.

    Returns:
        `(..., D)` float8_e4m3fn, and `(...,)` float32 scales: the largest magnitude becomes 448.
    """
    scale = x.abs().amax(-1).clamp(min=_TINY) / E4M3_MAX
    return (x / scale.unsqueeze(-1)).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale.float()


def memory_commit(k: Tensor, v: Tensor, grid: tuple[int, int], factor: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pool and quantise keys and values.

    Args:
        k: `(N, L, H, D)` keys after QK-norm, before RoPE.
        v: `(N, L, H, D)`.
        grid: rows and columns of a frame's tokens.
        factor: cells a side, 1, 2 or 4.

    Returns:
        Keys and values `(N, C, H, D)` as float8_e4m3fn, their scales `(N, C, H)` float32.
    """
    k_q, k_scale = quantise(pool(k, grid, factor))
    v_q, v_scale = quantise(pool(v, grid, factor))
    return k_q, v_q, k_scale, v_scale
