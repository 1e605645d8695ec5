"""The Triton kernels of `qk_norm_rope_pose`; the maths is in this folder's README.

A program holds a row as its even and its odd channels, so that rotation needs no shuffle. Forward reads q, k and pose
once and writes q and k once.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from relic_kernels.dispatch import blocks_of, warps_for

CHUNK = 16
"""Rows whose gradients of the norm's weights one program sums."""


@triton.jit
def _load_pair(X, row, pair, inside, M: tl.constexpr):
    even = tl.load(X + row * M + 2 * pair, mask=inside, other=0.0).to(tl.float32)
    odd = tl.load(X + row * M + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
    return even, odd


@triton.jit
def _store_pair(X, row, pair, inside, even, odd, M: tl.constexpr):
    tl.store(X + row * M + 2 * pair, even.to(X.dtype.element_ty), mask=inside)
    tl.store(X + row * M + 2 * pair + 1, odd.to(X.dtype.element_ty), mask=inside)


@triton.jit
def _turn_of(ROTATION, row, pair, inside, turns, HALF: tl.constexpr):
    place = ((row % turns) * HALF + pair % HALF) * 2
    cos = tl.load(ROTATION + place, mask=inside, other=1.0)
    sin = tl.load(ROTATION + place + 1, mask=inside, other=0.0)
    return cos, sin


@triton.jit
def qk_norm_rope_pose_fwd_kernel(
    Q, K, POSE, WQ, WK, ROTATION, Q_OUT, K_OUT, rows, pose_rows, turns, eps,
    M: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (groups, rows of a group)."""
    group = tl.program_id(0).to(tl.int64)
    local = tl.program_id(1)
    row = group * rows + local
    pose_row = group * pose_rows + tl.minimum(local, pose_rows - 1)
    pair = tl.arange(0, BLOCK)
    inside = pair < M // 2
    pose_even, pose_odd = _load_pair(POSE, pose_row, pair, inside, M)

    q_even, q_odd = _load_pair(Q, row, pair, inside, M)
    q_even += pose_even
    q_odd += pose_odd
    q_inverse = 1.0 / tl.sqrt(tl.sum(tl.where(inside, q_even * q_even + q_odd * q_odd, 0.0), 0) / M + eps)
    w_even, w_odd = _load_pair(WQ, 0, pair, inside, M)
    q_even *= q_inverse * w_even
    q_odd *= q_inverse * w_odd
    cos, sin = _turn_of(ROTATION, row, pair, inside, turns, HALF)
    _store_pair(Q_OUT, row, pair, inside, q_even * cos - q_odd * sin, q_even * sin + q_odd * cos, M)

    k_even, k_odd = _load_pair(K, row, pair, inside, M)
    k_even += pose_even
    k_odd += pose_odd
    k_inverse = 1.0 / tl.sqrt(tl.sum(tl.where(inside, k_even * k_even + k_odd * k_odd, 0.0), 0) / M + eps)
    w_even, w_odd = _load_pair(WK, 0, pair, inside, M)
    _store_pair(K_OUT, row, pair, inside, k_even * k_inverse * w_even, k_odd * k_inverse * w_odd, M)


@triton.jit
def _norm_gradient(X, row, pair, inside, pose_even, pose_odd, w_even, w_odd, g_even, g_odd, eps, M: tl.constexpr):
    """Gradient through the norm of `x + pose`, and of the norm's weight."""
    even, odd = _load_pair(X, row, pair, inside, M)
    even = tl.where(inside, even + pose_even, 0.0)
    odd = tl.where(inside, odd + pose_odd, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(even * even + odd * odd, 0) / M + eps)
    even *= inverse
    odd *= inverse
    along = tl.sum(g_even * w_even * even + g_odd * w_odd * odd, 0) / M
    d_even = (g_even * w_even - even * along) * inverse
    d_odd = (g_odd * w_odd - odd * along) * inverse
    return d_even, d_odd, g_even * even, g_odd * odd


@triton.jit
def qk_norm_rope_pose_bwd_kernel(
    Q, K, POSE, WQ, WK, ROTATION, GQ, GK, DQ, DK, DWQ, DWK, rows, pose_rows, turns, chunks, eps,
    M: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Grid (groups, chunks of rows); the gradient of the pose is that of q and k together."""
    group = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    pair = tl.arange(0, BLOCK)
    wide = pair < M // 2
    wq_even, wq_odd = _load_pair(WQ, 0, pair, wide, M)
    wk_even, wk_odd = _load_pair(WK, 0, pair, wide, M)
    dwq_even = tl.zeros((BLOCK,), tl.float32)
    dwq_odd = tl.zeros((BLOCK,), tl.float32)
    dwk_even = tl.zeros((BLOCK,), tl.float32)
    dwk_odd = tl.zeros((BLOCK,), tl.float32)
    for step in range(CHUNK):
        local = chunk * CHUNK + step
        inside = wide & (local < rows)
        row = group * rows + local
        pose_row = group * pose_rows + tl.minimum(local, pose_rows - 1)
        pose_even, pose_odd = _load_pair(POSE, pose_row, pair, inside, M)
        cos, sin = _turn_of(ROTATION, row, pair, inside, turns, HALF)
        t_even, t_odd = _load_pair(GQ, row, pair, inside, M)
        g_even = t_even * cos + t_odd * sin
        g_odd = t_odd * cos - t_even * sin
        d_even, d_odd, w_even, w_odd = _norm_gradient(
            Q, row, pair, inside, pose_even, pose_odd, wq_even, wq_odd, g_even, g_odd, eps, M
        )
        dwq_even += w_even
        dwq_odd += w_odd
        _store_pair(DQ, row, pair, inside, d_even, d_odd, M)
        g_even, g_odd = _load_pair(GK, row, pair, inside, M)
        d_even, d_odd, w_even, w_odd = _norm_gradient(
            K, row, pair, inside, pose_even, pose_odd, wk_even, wk_odd, g_even, g_odd, eps, M
        )
        dwk_even += w_even
        dwk_odd += w_odd
        _store_pair(DK, row, pair, inside, d_even, d_odd, M)
    out = group * chunks + chunk
    _store_pair(DWQ, out, pair, wide, dwq_even, dwq_odd, M)
    _store_pair(DWK, out, pair, wide, dwk_even, dwk_odd, M)


def forward(
    q: Tensor, k: Tensor, pose: Tensor, weight_q: Tensor, weight_k: Tensor, rotation: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See `relic_kernels.qk_norm_rope_pose`; all tensors contiguous."""
    groups, rows, width = q.shape
    block = triton.next_power_of_2(width // 2)
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    qk_norm_rope_pose_fwd_kernel[(groups, rows)](
        q, k, pose, weight_q, weight_k, rotation, q_out, k_out, rows, pose.shape[1], rotation.shape[0], eps,
        M=width, HALF=rotation.shape[1], BLOCK=block, num_warps=warps_for(2 * block),
    )  # fmt: skip
    return q_out, k_out


def backward(
    grad_q: Tensor,
    grad_k: Tensor,
    q: Tensor,
    k: Tensor,
    pose: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    rotation: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, pose and the two weights."""
    groups, rows, width = q.shape
    block = triton.next_power_of_2(width // 2)
    chunks = blocks_of(rows, CHUNK)
    dq, dk = torch.empty_like(q), torch.empty_like(k)
    dwq, dwk = (q.new_empty((groups, chunks, width), dtype=torch.float32) for _ in range(2))
    qk_norm_rope_pose_bwd_kernel[(groups, chunks)](
        q, k, pose, weight_q, weight_k, rotation, grad_q, grad_k, dq, dk, dwq, dwk,
        rows, pose.shape[1], rotation.shape[0], chunks, eps,
        M=width, HALF=rotation.shape[1], BLOCK=block, CHUNK=CHUNK, num_warps=warps_for(2 * block),
    )  # fmt: skip
    dpose = dq.float() + dk.float()
    if pose.shape[1] == 1:
        dpose = dpose.sum(1, keepdim=True)
    return (
        dq,
        dk,
        dpose.to(pose.dtype),
        dwq.sum((0, 1)).to(weight_q.dtype),
        dwk.sum((0, 1)).to(weight_k.dtype),
    )
