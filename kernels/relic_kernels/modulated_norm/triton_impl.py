"""The Triton kernels of `modulated_norm` and `gated_residual`; the maths is in this folder's README.

A program takes a chunk of one group's rows and holds a row in registers: every input is read once. Gradients of shift,
scale and gate are summed over a chunk in registers and over chunks by PyTorch: they come out the same each time.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from relic_kernels.configurations import CHUNK, row_warps
from relic_kernels.dispatch import blocks_of


@triton.jit
def modulated_norm_fwd_kernel(X, SHIFT, SCALE, OUT, rows, eps, M: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (groups, rows)."""
    group = tl.program_id(0).to(tl.int64)
    row = group * rows + tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < M
    x = tl.load(X + row * M + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / M
    centred = tl.where(inside, x - mean, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / M + eps)
    shift = tl.load(SHIFT + group * M + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(SCALE + group * M + column, mask=inside, other=0.0).to(tl.float32)
    out = centred * inverse * (1.0 + scale) + shift
    tl.store(OUT + row * M + column, out.to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def modulated_norm_bwd_kernel(
    X, SCALE, GRAD, DX, DSHIFT, DSCALE, rows, chunks, eps, M: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """Grid (groups, chunks)."""
    group = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < M
    scale = 1.0 + tl.load(SCALE + group * M + column, mask=inside, other=0.0).to(tl.float32)
    dshift = tl.zeros((BLOCK,), tl.float32)
    dscale = tl.zeros((BLOCK,), tl.float32)
    for local in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, rows)):
        row = group * rows + local
        x = tl.load(X + row * M + column, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(GRAD + row * M + column, mask=inside, other=0.0).to(tl.float32)
        mean = tl.sum(x, 0) / M
        centred = tl.where(inside, x - mean, 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / M + eps)
        normed = centred * inverse
        dshift += grad
        dscale += grad * normed
        inner = grad * scale
        along = tl.sum(inner * normed, 0) / M
        dx = (inner - tl.sum(inner, 0) / M - normed * along) * inverse
        tl.store(DX + row * M + column, dx.to(DX.dtype.element_ty), mask=inside)
    out = (group * chunks + chunk) * M + column
    tl.store(DSHIFT + out, dshift, mask=inside)
    tl.store(DSCALE + out, dscale, mask=inside)


@triton.jit
def gated_residual_fwd_kernel(X, Y, GATE, OUT, rows, M: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (groups, rows)."""
    group = tl.program_id(0).to(tl.int64)
    row = group * rows + tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < M
    x = tl.load(X + row * M + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(Y + row * M + column, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(GATE + group * M + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + row * M + column, (x + y * gate).to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def gated_residual_bwd_kernel(
    Y, GATE, GRAD, DY, DGATE, rows, chunks, M: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """Grid (groups, chunks); the gradient of x is that of the output itself."""
    group = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < M
    gate = tl.load(GATE + group * M + column, mask=inside, other=0.0).to(tl.float32)
    dgate = tl.zeros((BLOCK,), tl.float32)
    for local in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, rows)):
        row = group * rows + local
        y = tl.load(Y + row * M + column, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(GRAD + row * M + column, mask=inside, other=0.0).to(tl.float32)
        dgate += grad * y
        tl.store(DY + row * M + column, (grad * gate).to(DY.dtype.element_ty), mask=inside)
    tl.store(DGATE + (group * chunks + chunk) * M + column, dgate, mask=inside)


def modulated_norm_forward(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `relic_kernels.modulated_norm`; all tensors contiguous."""
    groups, rows, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    modulated_norm_fwd_kernel[(groups, rows)](
        x, shift, scale, out, rows, eps, M=width, BLOCK=block, num_warps=row_warps(block)
    )
    return out


def modulated_norm_backward(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, shift and scale."""
    groups, rows, width = x.shape
    block = triton.next_power_of_2(width)
    chunks = blocks_of(rows, CHUNK)
    dx = torch.empty_like(x)
    dshift, dscale = (x.new_empty((groups, chunks, width), dtype=torch.float32) for _ in range(2))
    modulated_norm_bwd_kernel[(groups, chunks)](
        x, scale, grad, dx, dshift, dscale, rows, chunks, eps,
        M=width, BLOCK=block, CHUNK=CHUNK, num_warps=row_warps(block),
    )  # fmt: skip
    return dx, dshift.sum(1).to(scale.dtype), dscale.sum(1).to(scale.dtype)


def gated_residual_forward(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """See `relic_kernels.gated_residual`; all tensors contiguous."""
    groups, rows, width = x.shape
    block = triton.next_power_of_2(width)
    out = torch.empty_like(x)
    gated_residual_fwd_kernel[(groups, rows)](x, y, gate, out, rows, M=width, BLOCK=block, num_warps=row_warps(block))
    return out


def gated_residual_backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of y and gate."""
    groups, rows, width = y.shape
    block = triton.next_power_of_2(width)
    chunks = blocks_of(rows, CHUNK)
    dy = torch.empty_like(y)
    dgate = y.new_empty((groups, chunks, width), dtype=torch.float32)
    gated_residual_bwd_kernel[(groups, chunks)](
        y, gate, grad, dy, dgate, rows, chunks, M=width, BLOCK=block, CHUNK=CHUNK, num_warps=row_warps(block)
    )
    return dy, dgate.sum(1).to(gate.dtype)
