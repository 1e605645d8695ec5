"""The Triton kernels of `qk_norm_rope_pose`; the maths is in this folder's README.

A row is loaded whole and parted into its even and its odd channels in registers. Forward reads q, k and pose once and
writes q and k once.
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
def _load_pairs(X, row, column, inside, BLOCK: tl.constexpr):
    """Even and odd channels of a row, float32, 0 where not inside."""
    return tl.split(tl.reshape(tl.load(X + row + column, mask=inside, other=0.0).to(tl.float32), (BLOCK // 2, 2)))


@triton.jit
def _store_pairs(X, row, column, inside, even, odd, BLOCK: tl.constexpr):
    tl.store(X + row + column, tl.reshape(tl.join(even, odd), (BLOCK,)).to(X.dtype.element_ty), mask=inside)


@triton.jit
def _normed(even, odd, M: tl.constexpr, eps):
    """Both halves of a row over its root mean square, and what they were multiplied with."""
    inverse = 1.0 / tl.sqrt(tl.sum(even * even + odd * odd, 0) / M + eps)
    return even * inverse, odd * inverse, inverse


@triton.jit
def qk_norm_rope_pose_fwd_kernel(
    Q, K, POSE, WQ, WK, ROTATION, Q_OUT, K_OUT, rows, pose_rows, turns, eps,
    M: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (groups, rows of a group)."""
    group = tl.program_id(0).to(tl.int64)
    local = tl.program_id(1)
    row = (group * rows + local) * M
    pose_row = (group * pose_rows + tl.minimum(local, pose_rows - 1)) * M
    column = tl.arange(0, BLOCK)
    inside = column < M
    pose_even, pose_odd = _load_pairs(POSE, pose_row, column, inside, BLOCK)

    even, odd = _load_pairs(Q, row, column, inside, BLOCK)
    even, odd, _ = _normed(even + pose_even, odd + pose_odd, M, eps)
    w_even, w_odd = _load_pairs(WQ, 0, column, inside, BLOCK)
    even *= w_even
    odd *= w_odd
    place = ((group * rows + local) % turns) * WIDTH
    cos, sin = _load_pairs(ROTATION, place, column % WIDTH, inside, BLOCK)
    _store_pairs(Q_OUT, row, column, inside, even * cos - odd * sin, even * sin + odd * cos, BLOCK)

    even, odd = _load_pairs(K, row, column, inside, BLOCK)
    even, odd, _ = _normed(even + pose_even, odd + pose_odd, M, eps)
    w_even, w_odd = _load_pairs(WK, 0, column, inside, BLOCK)
    _store_pairs(K_OUT, row, column, inside, even * w_even, odd * w_odd, BLOCK)


@triton.jit
def qk_norm_rope_pose_bwd_kernel(
    X, POSE, W, ROTATION, G, DX, DW, DPOSE, rows, pose_rows, turns, chunks, eps,
    M: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    ROTATED: tl.constexpr, SUM_POSE: tl.constexpr,
):  # fmt: skip
    """Grid (groups, chunks of rows), for queries (ROTATED) or keys. DW and, if asked for, DPOSE are a chunk's sums."""
    group = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < M
    w_even, w_odd = _load_pairs(W, 0, column, inside, BLOCK)
    dw_even, dw_odd = tl.zeros((BLOCK // 2,), tl.float32), tl.zeros((BLOCK // 2,), tl.float32)
    dp_even, dp_odd = tl.zeros((BLOCK // 2,), tl.float32), tl.zeros((BLOCK // 2,), tl.float32)
    for local in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, rows)):
        row = (group * rows + local) * M
        g_even, g_odd = _load_pairs(G, row, column, inside, BLOCK)
        if ROTATED:
            place = ((group * rows + local) % turns) * WIDTH
            cos, sin = _load_pairs(ROTATION, place, column % WIDTH, inside, BLOCK)
            g_even, g_odd = g_even * cos + g_odd * sin, g_odd * cos - g_even * sin
        even, odd = _load_pairs(X, row, column, inside, BLOCK)
        pose_row = (group * pose_rows + tl.minimum(local, pose_rows - 1)) * M
        p_even, p_odd = _load_pairs(POSE, pose_row, column, inside, BLOCK)
        even, odd, inverse = _normed(even + p_even, odd + p_odd, M, eps)
        dw_even += g_even * even
        dw_odd += g_odd * odd
        g_even *= w_even
        g_odd *= w_odd
        along = tl.sum(g_even * even + g_odd * odd, 0) / M
        d_even = (g_even - even * along) * inverse
        d_odd = (g_odd - odd * along) * inverse
        _store_pairs(DX, row, column, inside, d_even, d_odd, BLOCK)
        if SUM_POSE:
            dp_even += d_even
            dp_odd += d_odd
    out = (group * chunks + chunk) * M
    _store_pairs(DW, out, column, inside, dw_even, dw_odd, BLOCK)
    if SUM_POSE:
        _store_pairs(DPOSE, out, column, inside, dp_even, dp_odd, BLOCK)


def forward(
    q: Tensor, k: Tensor, pose: Tensor, weight_q: Tensor, weight_k: Tensor, rotation: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See `relic_kernels.qk_norm_rope_pose`; all tensors contiguous."""
    groups, rows, width = q.shape
    block = triton.next_power_of_2(width)
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    qk_norm_rope_pose_fwd_kernel[(groups, rows)](
        q, k, pose, weight_q, weight_k, rotation, q_out, k_out, rows, pose.shape[1], rotation.shape[0], eps,
        M=width, WIDTH=2 * rotation.shape[1], BLOCK=block, num_warps=row_warps(block),
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
    block = triton.next_power_of_2(width)
    chunks = blocks_of(rows, CHUNK)
    one_pose = pose.shape[1] == 1
    found = []
    for x, weight, grad, rotated in ((q, weight_q, grad_q, True), (k, weight_k, grad_k, False)):
        dx = torch.empty_like(x)
        dweight = q.new_empty((groups, chunks, width), dtype=torch.float32)
        dpose = torch.empty_like(dweight) if one_pose else dx
        qk_norm_rope_pose_bwd_kernel[(groups, chunks)](
            x, pose, weight, rotation, grad, dx, dweight, dpose, rows, pose.shape[1], rotation.shape[0], chunks, eps,
            M=width, WIDTH=2 * rotation.shape[1], BLOCK=block, CHUNK=CHUNK, ROTATED=rotated, SUM_POSE=one_pose,
            num_warps=row_warps(block),
        )  # fmt: skip
        found.append((dx, dpose, dweight.sum((0, 1)).to(weight.dtype)))
    (dq, dpose_q, dweight_q), (dk, dpose_k, dweight_k) = found
    dpose = dpose_q + dpose_k
    if one_pose:
        dpose = dpose.sum(1, keepdim=True)
    return dq, dk, dpose.to(pose.dtype), dweight_q, dweight_k
