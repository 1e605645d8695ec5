"""The Triton kernel of `memory_commit`: pool, find the scale, quantise, write; keys and values are read once."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from relic_kernels import dispatch
from relic_kernels.configurations import COMMIT_HEADS
from relic_kernels.dispatch import blocks_of
from relic_kernels.e4m3 import to_stored
from relic_kernels.memory_commit.reference import E4M3_MAX


@triton.jit
def _pool_and_quantise(
    X, OUT, SCALE, frame, heads_here, cell, columns_of_cells, rows, columns, heads, cells,
    D: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, FACTOR: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, BLOCK)
    there = heads_here < heads
    inside = there[:, None] & (channel < D)[None, :]
    at = heads_here[:, None] * D + channel[None, :]
    total = tl.zeros((HEADS, BLOCK), tl.float32)
    first_row = (cell // columns_of_cells) * FACTOR
    first_column = (cell % columns_of_cells) * FACTOR
    for down in tl.static_range(FACTOR):
        for across in tl.static_range(FACTOR):
            row = first_row + down
            column = first_column + across
            present = inside & (row < rows) & (column < columns)
            token = frame * rows * columns + row * columns + column
            total += tl.load(X + token * heads * D + at, mask=present, other=0.0).to(tl.float32)
    size = tl.minimum(rows - first_row, FACTOR) * tl.minimum(columns - first_column, FACTOR)
    mean = total / size
    scale = tl.maximum(tl.max(tl.abs(mean), 1), 1e-12) / LARGEST
    out = (frame * cells + cell) * heads
    tl.store(SCALE + out + heads_here, scale, mask=there)
    scaled = tl.minimum(tl.maximum(mean / scale[:, None], -LARGEST), LARGEST)
    tl.store(OUT + out * D + at, to_stored(scaled, OUT.dtype.element_ty), mask=inside)


@triton.jit
def memory_commit_kernel(
    K, V, K_OUT, V_OUT, K_SCALE, V_SCALE, rows, columns, heads, cells, columns_of_cells,
    D: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, FACTOR: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Grid (frames, cells, blocks of heads)."""
    frame = tl.program_id(0).to(tl.int64)
    cell = tl.program_id(1)
    here = tl.program_id(2) * HEADS + tl.arange(0, HEADS)
    _pool_and_quantise(
        K, K_OUT, K_SCALE, frame, here, cell, columns_of_cells, rows, columns, heads, cells,
        D, BLOCK, HEADS, FACTOR, LARGEST,
    )  # fmt: skip
    _pool_and_quantise(
        V, V_OUT, V_SCALE, frame, here, cell, columns_of_cells, rows, columns, heads, cells,
        D, BLOCK, HEADS, FACTOR, LARGEST,
    )  # fmt: skip


def memory_commit(k: Tensor, v: Tensor, grid: tuple[int, int], factor: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `relic_kernels.memory_commit`; k and v contiguous."""
    frames, _, heads, width = k.shape
    rows, columns = grid
    down, across = -(-rows // factor), -(-columns // factor)
    cells = down * across
    kind = torch.float8_e4m3fn if dispatch.has_e4m3(k.device) else torch.uint8
    k_out, v_out = (k.new_empty((frames, cells, heads, width), dtype=kind) for _ in range(2))
    k_scale, v_scale = (k.new_empty((frames, cells, heads), dtype=torch.float32) for _ in range(2))
    memory_commit_kernel[(frames, cells, blocks_of(heads, COMMIT_HEADS))](
        k, v, k_out, v_out, k_scale, v_scale, rows, columns, heads, cells, across,
        D=width, BLOCK=triton.next_power_of_2(width), HEADS=COMMIT_HEADS, FACTOR=factor, LARGEST=E4M3_MAX,
    )  # fmt: skip
    return k_out.view(torch.float8_e4m3fn), v_out.view(torch.float8_e4m3fn), k_scale, v_scale
