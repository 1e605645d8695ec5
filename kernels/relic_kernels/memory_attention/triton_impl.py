"""The Triton kernels of `memory_attention`; the maths is in this folder's README.

Keys are loaded as even and odd channels, turned in registers, and multiplied half by half, so that no rotated copy of
the memory exists. The three parts are read where they lie, one after another, into one running softmax.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from relic_kernels import dispatch
from relic_kernels.dispatch import blocks_of
from relic_kernels.e4m3 import load_numbers

BLOCK_M, BLOCK_N = 64, 32
LAUNCH = {"num_warps": 8, "num_stages": 2}
"""Chosen by static analysis: the forward kernel spills no register on sm_80 and sm_90."""


@triton.jit
def _load_halves(X, row, head, heads, present, D: tl.constexpr):
    """Even and odd channels `(rows, D / 2)` of rows of `(rows, H, D)`, float32."""
    half = tl.arange(0, D // 2)
    at = (row[:, None] * heads + head) * D + 2 * half[None, :]
    even = load_numbers(X, at, present[:, None])
    odd = load_numbers(X, at + 1, present[:, None])
    return even, odd


@triton.jit
def _load_keys(K, TURNS, batch, token, tokens, head, heads, present, D: tl.constexpr):
    """Keys of some tokens, turned to their places: even and odd channels, float32."""
    even, odd = _load_halves(K, batch * tokens + token, head, heads, present, D)
    half = tl.arange(0, D // 2)
    at = (token[:, None] * (D // 2) + half[None, :]) * 2
    cos = tl.load(TURNS + at, mask=present[:, None], other=1.0)
    sin = tl.load(TURNS + at + 1, mask=present[:, None], other=0.0)
    return even * cos - odd * sin, even * sin + odd * cos


@triton.jit
def _logits(
    q_even, q_odd, K, K_SCALE, TURNS, batch, token, tokens, head, heads, softmax_scale,
    D: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Logits `(BM, BN)`, -inf beyond the last token, and the turned keys they came from in the queries' dtype."""
    present = token < tokens
    k_even, k_odd = _load_keys(K, TURNS, batch, token, tokens, head, heads, present, D)
    if SCALED:
        scale = tl.load(K_SCALE + (batch * tokens + token) * heads + head, mask=present, other=0.0)
        k_even *= scale[:, None]
        k_odd *= scale[:, None]
    k_even = k_even.to(q_even.dtype)
    k_odd = k_odd.to(q_even.dtype)
    logits = tl.dot(q_even, tl.trans(k_even), input_precision="ieee")
    logits += tl.dot(q_odd, tl.trans(k_odd), input_precision="ieee")
    return tl.where(present[None, :], logits * softmax_scale, float("-inf")), k_even, k_odd


@triton.jit
def _load_values(V, V_SCALE, batch, token, tokens, head, heads, D: tl.constexpr, SCALED: tl.constexpr):
    """Values `(BN, D)`, float32."""
    present = token < tokens
    row = batch * tokens + token
    at = (row[:, None] * heads + head) * D + tl.arange(0, D)[None, :]
    value = load_numbers(V, at, present[:, None])
    if SCALED:
        value *= tl.load(V_SCALE + row * heads + head, mask=present, other=0.0)[:, None]
    return value


@triton.jit
def _attend_part(
    total, highest, norm, q_even, q_odd, K, V, K_SCALE, V_SCALE, TURNS, batch, first, last, tokens, head, heads,
    softmax_scale, D: tl.constexpr, BN: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Take tokens `first .. last` of a part into the running softmax."""
    for start in range(first, last, BN):
        token = start + tl.arange(0, BN).to(tl.int64)
        logits, _, _ = _logits(
            q_even, q_odd, K, K_SCALE, TURNS, batch, token, tokens, head, heads, softmax_scale, D, SCALED
        )
        logits = tl.where((token < last)[None, :], logits, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(logits, 1))
        shrink = tl.exp(highest - new_highest)
        weight = tl.exp(logits - new_highest[:, None])
        norm = norm * shrink + tl.sum(weight, 1)
        value = _load_values(V, V_SCALE, batch, token, tokens, head, heads, D, SCALED)
        total = total * shrink[:, None]
        total += tl.dot(weight.to(q_even.dtype), value.to(q_even.dtype), input_precision="ieee")
        highest = new_highest
    return total, highest, norm


@triton.jit
def memory_attention_fwd_kernel(
    Q, K0, V0, T0, KS0, VS0, K1, V1, T1, KS1, VS1, K2, V2, T2, KS2, VS2, OUT, LSE,
    rows, tokens0, tokens1, tokens2, heads, per_split, softmax_scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    SCALED0: tl.constexpr, SCALED1: tl.constexpr, SCALED2: tl.constexpr,
):  # fmt: skip
    """Grid (query blocks, batch x heads, splits). Part 0 is shared out among the splits, the last takes the others.

    OUT is `(splits, B, L, H, D)`, each split's own softmax; LSE `(splits, B, H, L)`.
    """
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    batches = tl.num_programs(1) // heads
    row = tl.program_id(0) * BM + tl.arange(0, BM).to(tl.int64)
    present = row < rows
    q_even, q_odd = _load_halves(Q, batch * rows + row, head, heads, present, D)
    q_even = q_even.to(Q.dtype.element_ty)
    q_odd = q_odd.to(Q.dtype.element_ty)
    total = tl.zeros((BM, D), tl.float32)
    highest = tl.full((BM,), -1e30, tl.float32)
    norm = tl.zeros((BM,), tl.float32)
    total, highest, norm = _attend_part(
        total, highest, norm, q_even, q_odd, K0, V0, KS0, VS0, T0, batch,
        split * per_split, tl.minimum((split + 1) * per_split, tokens0), tokens0, head, heads, softmax_scale,
        D, BN, SCALED0,
    )  # fmt: skip
    if split == splits - 1:
        total, highest, norm = _attend_part(
            total, highest, norm, q_even, q_odd, K1, V1, KS1, VS1, T1, batch, 0, tokens1, tokens1, head, heads,
            softmax_scale, D, BN, SCALED1,
        )  # fmt: skip
        total, highest, norm = _attend_part(
            total, highest, norm, q_even, q_odd, K2, V2, KS2, VS2, T2, batch, 0, tokens2, tokens2, head, heads,
            softmax_scale, D, BN, SCALED2,
        )  # fmt: skip
    lse = highest + tl.log(tl.maximum(norm, 1e-38))
    out = total / tl.maximum(norm, 1e-38)[:, None]
    at_row = (split * batches + batch) * rows + row
    at = (at_row[:, None] * heads + head) * D + tl.arange(0, D)[None, :]
    tl.store(OUT + at, out.to(OUT.dtype.element_ty), mask=present[:, None])
    tl.store(LSE + ((split * batches + batch) * heads + head) * rows + row, lse, mask=present)


@triton.jit
def combine_splits_kernel(
    PARTIAL, LSE, OUT, OUT_LSE, rows, heads, D: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr
):
    """Grid (rows, batch x heads): the softmax over all splits from each split's own."""
    row = tl.program_id(0).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    batches = tl.num_programs(1) // heads
    channel = tl.arange(0, BLOCK)
    inside = channel < D
    highest = tl.load(LSE + (batch * heads + head) * rows + row)
    for split in range(1, SPLITS):
        highest = tl.maximum(highest, tl.load(LSE + ((split * batches + batch) * heads + head) * rows + row))
    total = tl.zeros((BLOCK,), tl.float32)
    norm = 0.0
    for split in range(SPLITS):
        weight = tl.exp(tl.load(LSE + ((split * batches + batch) * heads + head) * rows + row) - highest)
        at = (((split * batches + batch) * rows + row) * heads + head) * D + channel
        total += weight * tl.load(PARTIAL + at, mask=inside, other=0.0)
        norm += weight
    at = ((batch * rows + row) * heads + head) * D + channel
    tl.store(OUT + at, (total / norm).to(OUT.dtype.element_ty), mask=inside)
    tl.store(OUT_LSE + (batch * heads + head) * rows + row, highest + tl.log(norm))


def forward(
    q: Tensor, own: Sequence[Tensor], memory: Sequence[Sequence[Tensor]], softmax_scale: float, splits: int
) -> tuple[Tensor, Tensor]:
    """See `relic_kernels.memory_attention`; all tensors contiguous.

    Returns:
        The output, and the logarithm of each query's sum of exponentials, `(B, H, L)` float32.
    """
    batch, rows, heads, width = q.shape
    pooled, window = (readable(part) for part in memory)
    per_split = blocks_of(blocks_of(pooled[0].shape[1], BLOCK_N), splits) * BLOCK_N
    kind = q.dtype if splits == 1 else torch.float32
    partial = q.new_empty((splits, *q.shape), dtype=kind)
    lse = q.new_empty((splits, batch, heads, rows), dtype=torch.float32)
    grid = (blocks_of(rows, BLOCK_M), batch * heads, splits)
    memory_attention_fwd_kernel[grid](
        q, *pooled, *window, *own, partial, lse,
        rows, pooled[0].shape[1], window[0].shape[1], own[0].shape[1], heads, per_split, softmax_scale,
        D=width, BM=BLOCK_M, BN=BLOCK_N, SCALED0=_scaled(pooled), SCALED1=_scaled(window), SCALED2=_scaled(own),
        **LAUNCH,
    )  # fmt: skip
    if splits == 1:
        return partial[0], lse[0]
    out, all_lse = torch.empty_like(q), torch.empty_like(lse[0])
    combine_splits_kernel[(rows, batch * heads)](
        partial, lse, out, all_lse, rows, heads, D=width, BLOCK=triton.next_power_of_2(width), SPLITS=splits
    )
    return out, all_lse


def readable(part: Sequence[Tensor]) -> list[Tensor]:
    """A part's tensors as a kernel can name their types: E4M3 as bytes where the GPU has no such type."""
    k, v, *rest = part
    if k.dtype == torch.float8_e4m3fn and not dispatch.has_e4m3(k.device):
        k, v = k.view(torch.uint8), v.view(torch.uint8)
    return [k, v, *rest]


def _scaled(part: Sequence[Tensor]) -> bool:
    return part[3].numel() > 0
