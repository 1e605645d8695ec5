"""Gradients of `memory_attention`: of the queries through all parts, of keys and values of the block alone."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from relic_kernels.configurations import attention_tile, target_of
from relic_kernels.dispatch import blocks_of
from relic_kernels.memory_attention.tiles import load_keys, load_passing, load_scales, load_tile, store_tile, turn
from relic_kernels.memory_attention.triton_impl import LOG2_E, head_groups, readable, scaled


@triton.jit
def _query_gradient_of_part(
    dq, q, grad, lse, delta, K, V, K_SCALE, V_SCALE, TABLE, OFFSETS, batch, tokens, head, heads, softmax_scale,
    D: tl.constexpr, BN: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    rows = tl.arange(0, BN)
    for start in range(0, tokens, BN):
        present = rows < tokens - start
        k = load_keys(K, TABLE, OFFSETS, batch, start, rows, tokens, head, heads, present, D)
        value = load_tile(V, batch * tokens + start, rows, head, heads, present, D)
        if SCALED:
            k *= load_scales(K_SCALE, batch * tokens + start, rows, head, heads, present)[:, None]
            value *= load_scales(V_SCALE, batch * tokens + start, rows, head, heads, present)[:, None]
        k = k.to(q.dtype)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (softmax_scale * LOG2_E)
        weight = tl.where(present[None, :], tl.exp2(logits - lse[:, None]), 0.0)
        by_weight = tl.dot(grad, tl.trans(value.to(grad.dtype)), input_precision="ieee")
        d_logits = weight * (by_weight - delta[:, None]) * softmax_scale
        dq = tl.dot(d_logits.to(q.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit(do_not_specialize=["first_head"])
def query_gradient_kernel(
    Q, OUT, GRAD, LSE, DELTA, K0, V0, T0, O0, KS0, VS0, K1, V1, T1, O1, KS1, VS1, K2, V2, T2, O2, KS2, VS2, DQ,
    rows, tokens0, tokens1, tokens2, heads, first_head, softmax_scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    SCALED0: tl.constexpr, SCALED1: tl.constexpr, SCALED2: tl.constexpr,
):  # fmt: skip
    """Grid (query blocks, some of batch x heads from `first_head`).

    Also writes DELTA `(B, H, L)`, each query's sum of gradient x output.
    """
    batch = ((first_head + tl.program_id(1)) // heads).to(tl.int64)
    head = (first_head + tl.program_id(1)) % heads
    first = tl.program_id(0) * BM
    local = tl.arange(0, BM)
    present = local < rows - first
    q = load_passing(Q, batch * rows + first, local, head, heads, present, D)
    grad = load_passing(GRAD, batch * rows + first, local, head, heads, present, D)
    at = (batch * heads + head) * rows + first + local
    lse = tl.load(LSE + at, mask=present, other=0.0)
    out = load_passing(OUT, batch * rows + first, local, head, heads, present, D).to(tl.float32)
    delta = tl.sum(grad.to(tl.float32) * out, 1)
    tl.store(DELTA + at, delta, mask=present)
    dq = tl.zeros((BM, D), tl.float32)
    dq = _query_gradient_of_part(
        dq, q, grad, lse, delta, K0, V0, KS0, VS0, T0, O0, batch, tokens0, head, heads, softmax_scale, D, BN, SCALED0
    )
    dq = _query_gradient_of_part(
        dq, q, grad, lse, delta, K1, V1, KS1, VS1, T1, O1, batch, tokens1, head, heads, softmax_scale, D, BN, SCALED1
    )
    dq = _query_gradient_of_part(
        dq, q, grad, lse, delta, K2, V2, KS2, VS2, T2, O2, batch, tokens2, head, heads, softmax_scale, D, BN, SCALED2
    )
    store_tile(DQ, batch * rows + first, local, head, heads, present, dq, D)


@triton.jit
def own_gradient_kernel(
    Q, GRAD, LSE, DELTA, K, V, TABLE, OFFSETS, DK, DV, rows, tokens, heads, softmax_scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Grid (key blocks, batch x heads); keys are turned as they are read, their gradients turned back."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    first = tl.program_id(0) * BN
    local = tl.arange(0, BN)
    present = local < tokens - first
    k = load_keys(K, TABLE, OFFSETS, batch, first, local, tokens, head, heads, present, D).to(Q.dtype.element_ty)
    value = load_tile(V, batch * tokens + first, local, head, heads, present, D).to(V.dtype.element_ty)
    dk = tl.zeros((BN, D), tl.float32)
    dv = tl.zeros((BN, D), tl.float32)
    asking = tl.arange(0, BM)
    for start in range(0, rows, BM):
        asked = asking < rows - start
        q = load_tile(Q, batch * rows + start, asking, head, heads, asked, D).to(Q.dtype.element_ty)
        grad = load_tile(GRAD, batch * rows + start, asking, head, heads, asked, D).to(GRAD.dtype.element_ty)
        at = (batch * heads + head) * rows + start + asking
        lse = tl.load(LSE + at, mask=asked, other=0.0)
        delta = tl.load(DELTA + at, mask=asked, other=0.0)
        logits = tl.dot(k, tl.trans(q), input_precision="ieee") * (softmax_scale * LOG2_E)
        weight = tl.where(asked[None, :], tl.exp2(logits - lse[None, :]), 0.0)
        dv = tl.dot(weight.to(grad.dtype), grad, dv, input_precision="ieee")
        by_weight = tl.dot(value, tl.trans(grad), input_precision="ieee")
        d_logits = weight * (by_weight - delta[None, :]) * softmax_scale
        dk = tl.dot(d_logits.to(q.dtype), q, dk, input_precision="ieee")
    dk = turn(dk, TABLE, OFFSETS, first, local, present, True, D)
    store_tile(DK, batch * tokens + first, local, head, heads, present, dk, D)
    store_tile(DV, batch * tokens + first, local, head, heads, present, dv, D)


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
    delta = torch.empty_like(lse)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(own[0]), torch.empty_like(own[1])
    target = target_of(q.device)
    tile = attention_tile("query_gradient", target, width, q.dtype)
    blocks = blocks_of(rows, tile.queries)
    for first, count in head_groups(blocks, batch * heads, q.device):
        query_gradient_kernel[(blocks, count)](
            q, out, grad, lse, delta, *pooled, *window, *own, dq,
            rows, pooled[0].shape[1], window[0].shape[1], own[0].shape[1], heads, first, softmax_scale,
            D=width, BM=tile.queries, BN=tile.keys,
            SCALED0=scaled(pooled), SCALED1=scaled(window), SCALED2=scaled(own),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    tokens = own[0].shape[1]
    tile = attention_tile("own_gradient", target, width, q.dtype)
    own_gradient_kernel[(blocks_of(tokens, tile.keys), batch * heads)](
        q, grad, lse, delta, *own[:4], dk, dv, rows, tokens, heads, softmax_scale,
        D=width, BM=tile.queries, BN=tile.keys,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return dq, dk, dv
