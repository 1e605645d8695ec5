"""A block's keys and values made ready for memory: pooled over the picture, as 8-bit floats with a scale a head.

Registered as `torch.ops.relic.memory_commit`; memory is constant to gradients, so there is no backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relic_kernels.dispatch import chosen, launched_on, require
from relic_kernels.memory_commit import reference

FACTORS = (1, 2, 4)


def memory_commit(k: Tensor, v: Tensor, grid: tuple[int, int], factor: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pool and quantise keys and values in one pass.

    Args:
        k: `(N, L, H, D)` keys of N frames after QK-norm, before RoPE.
        v: `(N, L, H, D)`.
        grid: rows and columns of a frame's tokens, row-major; L = rows x columns.
        factor: cells a side that become one: 1, 2 or 4; ragged edges average what is there.

    Returns:
        Keys and values `(N, C, H, D)` as float8_e4m3fn and their scales `(N, C, H)` float32, value = stored x scale;
        C = ceil(rows / factor) * ceil(columns / factor).

    Raises:
        ValueError: for shapes that do not fit or another factor.
    """
    require(k.ndim == 4 and k.shape == v.shape, f"k {tuple(k.shape)} and v {tuple(v.shape)} must be one (N, L, H, D)")
    require(
        k.shape[1] == grid[0] * grid[1], f"{k.shape[1]} tokens are no {grid[0]} x {grid[1]} grid: give the frame's grid"
    )
    require(factor in FACTORS, f"factor {factor} is not one of {FACTORS}")
    k_q, v_q, k_scale, v_scale = torch.ops.relic.memory_commit(k, v, grid[0], grid[1], factor)
    return k_q, v_q, k_scale, v_scale


@torch.library.custom_op("relic::memory_commit", mutates_args=())
def _commit(k: Tensor, v: Tensor, rows: int, columns: int, factor: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if chosen(k) == "reference":
        return reference.memory_commit(k, v, (rows, columns), factor)
    from relic_kernels.memory_commit import triton_impl

    with launched_on(k):
        return triton_impl.memory_commit(k.contiguous(), v.contiguous(), (rows, columns), factor)


@_commit.register_fake
def _(k: Tensor, v: Tensor, rows: int, columns: int, factor: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    frames, _, heads, width = k.shape
    cells = -(-rows // factor) * -(-columns // factor)
    stored = k.new_empty((frames, cells, heads, width), dtype=torch.float8_e4m3fn)
    scale = k.new_empty((frames, cells, heads), dtype=torch.float32)
    return stored, torch.empty_like(stored), scale, torch.empty_like(scale)
