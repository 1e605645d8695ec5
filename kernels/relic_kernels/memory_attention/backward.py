"""Gradients of `memory_attention`: of the queries through all parts, of keys and values of the block alone."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from relic_kernels.dispatch import blocks_of
from relic_kernels.memory_attention.triton_impl import (
    BLOCK_M,
    BLOCK_N,
    LAUNCH,
    _load_halves,
    _load_keys,
    _load_values,
    _logits,
    _scaled,
    readable,
)


@triton.jit
def _load_rows(X, batch, row, rows, head, heads, present, D: tl.constexpr):
    at = ((batch * rows + row)[:, None] * heads + head) * D + tl.arange(0, D)[None, :]
    return tl.load(X + at, mask=present[:, None], other=0.0)


@triton.jit
def _store_halves(X, row, head, heads, present, even, odd, D: tl.constexpr):
    half = tl.arange(0, D // 2)
    at = (row[:, None] * heads + head) * D + 2 * half[None, :]
    tl.store(X + at, even.to(X.dtype.element_ty), mask=present[:, None])
    tl.store(X + at + 1, odd.to(X.dtype.element_ty), mask=present[:, None])


@triton.jit
def _query_gradient_of_part(
    dq_even, dq_odd, q_even, q_odd, grad, lse, delta, K, V, K_SCALE, V_SCALE, TURNS, batch, tokens, head, heads,
    softmax_scale, D: tl.constexpr, BN: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    for start in range(0, tokens, BN):
        token = start + tl.arange(0, BN).to(tl.int64)
        logits, k_even, k_odd = _logits(
            q_even, q_odd, K, K_SCALE, TURNS, batch, token, tokens, head, heads, softmax_scale, D, SCALED
        )
        weight = tl.exp(logits - lse[:, None])
        value = _load_values(V, V_SCALE, batch, token, tokens, head, heads, D, SCALED).to(grad.dtype)
        by_weight = tl.dot(grad, tl.trans(value), input_precision="ieee")
        d_logits = (weight * (by_weight - delta[:, None]) * softmax_scale).to(q_even.dtype)
        dq_even += tl.dot(d_logits, k_even, input_precision="ieee")
        dq_odd += tl.dot(d_logits, k_odd, input_precision="ieee")
    return dq_even, dq_odd


@triton.jit
def query_gradient_kernel(
    Q, GRAD, LSE, DELTA, K0, V0, T0, KS0, VS0, K1, V1, T1, KS1, VS1, K2, V2, T2, KS2, VS2, DQ,
    rows, tokens0, tokens1, tokens2, heads, softmax_scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    SCALED0: tl.constexpr, SCALED1: tl.constexpr, SCALED2: tl.constexpr,
):  # fmt: skip
    """Grid (query blocks, batch x heads)."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    row = tl.program_id(0) * BM + tl.arange(0, BM).to(tl.int64)
    present = row < rows
    q_even, q_odd = _load_halves(Q, batch * rows + row, head, heads, present, D)
    q_even = q_even.to(Q.dtype.element_ty)
    q_odd = q_odd.to(Q.dtype.element_ty)
    grad = _load_rows(GRAD, batch, row, rows, head, heads, present, D)
    at = (batch * heads + head) * rows + row
    lse = tl.load(LSE + at, mask=present, other=0.0)
    delta = tl.load(DELTA + at, mask=present, other=0.0)
    dq_even = tl.zeros((BM, D // 2), tl.float32)
    dq_odd = tl.zeros((BM, D // 2), tl.float32)
    dq_even, dq_odd = _query_gradient_of_part(
        dq_even, dq_odd, q_even, q_odd, grad, lse, delta, K0, V0, KS0, VS0, T0, batch, tokens0, head, heads,
        softmax_scale, D, BN, SCALED0,
    )  # fmt: skip
    dq_even, dq_odd = _query_gradient_of_part(
        dq_even, dq_odd, q_even, q_odd, grad, lse, delta, K1, V1, KS1, VS1, T1, batch, tokens1, head, heads,
        softmax_scale, D, BN, SCALED1,
    )  # fmt: skip
    dq_even, dq_odd = _query_gradient_of_part(
        dq_even, dq_odd, q_even, q_odd, grad, lse, delta, K2, V2, KS2, VS2, T2, batch, tokens2, head, heads,
        softmax_scale, D, BN, SCALED2,
    )  # fmt: skip
    _store_halves(DQ, batch * rows + row, head, heads, present, dq_even, dq_odd, D)


@triton.jit
def own_gradient_kernel(
    Q, GRAD, LSE, DELTA, K, V, TURNS, DK, DV, rows, tokens, heads, softmax_scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Grid (key blocks, batch x heads); keys are turned as they are read, their gradients turned back."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    token = tl.program_id(0) * BN + tl.arange(0, BN).to(tl.int64)
    present = token < tokens
    k_even, k_odd = _load_keys(K, TURNS, batch, token, tokens, head, heads, present, D)
    k_even = k_even.to(Q.dtype.element_ty)
    k_odd = k_odd.to(Q.dtype.element_ty)
    value = _load_rows(V, batch, token, tokens, head, heads, present, D)
    dk_even = tl.zeros((BN, D // 2), tl.float32)
    dk_odd = tl.zeros((BN, D // 2), tl.float32)
    dv = tl.zeros((BN, D), tl.float32)
    for start in range(0, rows, BM):
        row = start + tl.arange(0, BM).to(tl.int64)
        asked = row < rows
        q_even, q_odd = _load_halves(Q, batch * rows + row, head, heads, asked, D)
        q_even = q_even.to(Q.dtype.element_ty)
        q_odd = q_odd.to(Q.dtype.element_ty)
        grad = _load_rows(GRAD, batch, row, rows, head, heads, asked, D)
        at = (batch * heads + head) * rows + row
        lse = tl.load(LSE + at, mask=asked, other=0.0)
        delta = tl.load(DELTA + at, mask=asked, other=0.0)
        logits = tl.dot(q_even, tl.trans(k_even), input_precision="ieee")
        logits += tl.dot(q_odd, tl.trans(k_odd), input_precision="ieee")
        weight = tl.where(asked[:, None], tl.exp(logits * softmax_scale - lse[:, None]), 0.0)
        dv += tl.dot(tl.trans(weight.to(grad.dtype)), grad, input_precision="ieee")
        by_weight = tl.dot(grad, tl.trans(value), input_precision="ieee")
        d_logits = (weight * (by_weight - delta[:, None]) * softmax_scale).to(q_even.dtype)
        dk_even += tl.dot(tl.trans(d_logits), q_even, input_precision="ieee")
        dk_odd += tl.dot(tl.trans(d_logits), q_odd, input_precision="ieee")
    half = tl.arange(0, D // 2)
    at_turn = (token[:, None] * (D // 2) + half[None, :]) * 2
    cos = tl.load(TURNS + at_turn, mask=present[:, None], other=1.0)
    sin = tl.load(TURNS + at_turn + 1, mask=present[:, None], other=0.0)
    at_token = batch * tokens + token
    _store_halves(DK, at_token, head, heads, present, dk_even * cos + dk_odd * sin, dk_odd * cos - dk_even * sin, D)
    at_value = (at_token[:, None] * heads + head) * D + tl.arange(0, D)[None, :]
    tl.store(DV + at_value, dv.to(DV.dtype.element_ty), mask=present[:, None])


def backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    own: Sequence[Tensor],
    memory: Sequence[Sequence[Tensor]],
    softmax_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, and of the block's keys and values; all tensors contiguous."""
    batch, rows, heads, width = q.shape
    pooled, window = (readable(part) for part in memory)
    delta = (grad.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
    dq, dk, dv = torch.empty_like(q), torch.empty_like(own[0]), torch.empty_like(own[1])
    query_gradient_kernel[(blocks_of(rows, BLOCK_M), batch * heads)](
        q, grad, lse, delta, *pooled, *window, *own, dq,
        rows, pooled[0].shape[1], window[0].shape[1], own[0].shape[1], heads, softmax_scale,
        D=width, BM=BLOCK_M, BN=BLOCK_N, SCALED0=_scaled(pooled), SCALED1=_scaled(window), SCALED2=_scaled(own),
        **LAUNCH,
    )  # fmt: skip
    tokens = own[0].shape[1]
    own_gradient_kernel[(blocks_of(tokens, BLOCK_N), batch * heads)](
        q, grad, lse, delta, own[0], own[1], own[2], dk, dv, rows, tokens, heads, softmax_scale,
        D=width, BM=BLOCK_M, BN=BLOCK_N, **LAUNCH,
    )  # fmt: skip
    return dq, dk, dv
