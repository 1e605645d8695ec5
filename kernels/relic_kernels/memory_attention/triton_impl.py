"""The Triton kernels of `memory_attention`; the maths is in this folder's README.

Keys are turned in registers as they are read, so that no rotated copy of the memory exists. The three parts are read
where they lie, one after another, into one running softmax.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from relic_kernels import dispatch
from relic_kernels.configurations import COMBINE_ROWS, attention_tile, heads_together, multiprocessors_of, target_of
from relic_kernels.dispatch import blocks_of
from relic_kernels.memory_attention.tiles import load_keys, load_passing, load_scales, load_tile, store_tile

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _attend_part(
    total, highest, norm, q, K, V, K_SCALE, V_SCALE, TABLE, OFFSETS, batch, first, last, tokens, head, heads, to_log2,
    D: tl.constexpr, BN: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Take tokens `first .. last` of a part into the running softmax, whose logits count in powers of two."""
    rows = tl.arange(0, BN)
    for start in range(first, last, BN):
        present = rows < last - start
        k = load_keys(K, TABLE, OFFSETS, batch, start, rows, tokens, head, heads, present, D).to(q.dtype)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee")
        if SCALED:
            logits *= (load_scales(K_SCALE, batch * tokens + start, rows, head, heads, present) * to_log2)[None, :]
        else:
            logits *= to_log2
        logits = tl.where(present[None, :], logits, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(logits, 1))
        shrink = tl.exp2(highest - new_highest)
        weight = tl.exp2(logits - new_highest[:, None])
        norm = norm * shrink + tl.sum(weight, 1)
        value = load_tile(V, batch * tokens + start, rows, head, heads, present, D)
        if SCALED:
            value *= load_scales(V_SCALE, batch * tokens + start, rows, head, heads, present)[:, None]
        total = total * shrink[:, None]
        total = tl.dot(weight.to(q.dtype), value.to(q.dtype), total, input_precision="ieee")
        highest = new_highest
    return total, highest, norm


@triton.jit(do_not_specialize=["first_head"])
def memory_attention_fwd_kernel(
    Q, K0, V0, T0, O0, KS0, VS0, K1, V1, T1, O1, KS1, VS1, K2, V2, T2, O2, KS2, VS2, OUT, LSE,
    rows, tokens0, tokens1, tokens2, batches, heads, first_head, per_split, softmax_scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    SCALED0: tl.constexpr, SCALED1: tl.constexpr, SCALED2: tl.constexpr,
):  # fmt: skip
    """Grid (query blocks, some of batch x heads from `first_head`, splits).

    Part 0 is shared out among the splits, the last takes the others.

    OUT is `(splits, B, L, H, D)`, each split's own softmax; LSE `(splits, B, H, L)`, base 2.
    """
    batch = ((first_head + tl.program_id(1)) // heads).to(tl.int64)
    head = (first_head + tl.program_id(1)) % heads
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    first = tl.program_id(0) * BM
    local = tl.arange(0, BM)
    present = local < rows - first
    q = load_passing(Q, batch * rows + first, local, head, heads, present, D)
    total = tl.zeros((BM, D), tl.float32)
    highest = tl.full((BM,), -1e30, tl.float32)
    norm = tl.zeros((BM,), tl.float32)
    to_log2 = softmax_scale * LOG2_E
    total, highest, norm = _attend_part(
        total, highest, norm, q, K0, V0, KS0, VS0, T0, O0, batch, split * per_split,
        tl.minimum((split + 1) * per_split, tokens0), tokens0, head, heads, to_log2, D, BN, SCALED0,
    )  # fmt: skip
    if split == splits - 1:
        total, highest, norm = _attend_part(
            total, highest, norm, q, K1, V1, KS1, VS1, T1, O1, batch, 0, tokens1, tokens1, head, heads, to_log2,
            D, BN, SCALED1,
        )  # fmt: skip
        total, highest, norm = _attend_part(
            total, highest, norm, q, K2, V2, KS2, VS2, T2, O2, batch, 0, tokens2, tokens2, head, heads, to_log2,
            D, BN, SCALED2,
        )  # fmt: skip
    lse = highest + tl.log2(tl.maximum(norm, 1e-38))
    out = total / tl.maximum(norm, 1e-38)[:, None]
    of_split = split * batches + batch
    store_tile(OUT, of_split * rows + first, local, head, heads, present, out, D)
    tl.store(LSE + (of_split * heads + head) * rows + first + local, lse, mask=present)


@triton.jit
def combine_splits_kernel(
    PARTIAL, LSE, OUT, OUT_LSE, rows, heads, D: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr
):
    """Grid (blocks of rows, batch x heads): the softmax over all splits from each split's own."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    batches = tl.num_programs(1) // heads
    first = tl.program_id(0) * ROWS
    local = tl.arange(0, ROWS)
    present = local < rows - first
    highest = tl.full((ROWS,), -1e38, tl.float32)
    for split in range(SPLITS):
        at = ((split * batches + batch) * heads + head) * rows + first + local
        highest = tl.maximum(highest, tl.load(LSE + at, mask=present, other=0.0))
    total = tl.zeros((ROWS, D), tl.float32)
    norm = tl.zeros((ROWS,), tl.float32)
    for split in range(SPLITS):
        at = ((split * batches + batch) * heads + head) * rows + first + local
        weight = tl.exp2(tl.load(LSE + at, mask=present, other=0.0) - highest)
        of_split = (split * batches + batch) * rows + first
        total += weight[:, None] * load_tile(PARTIAL, of_split, local, head, heads, present, D)
        norm += weight
    store_tile(OUT, batch * rows + first, local, head, heads, present, total / norm[:, None], D)
    tl.store(OUT_LSE + (batch * heads + head) * rows + first + local, highest + tl.log2(norm), mask=present)


def forward(
    q: Tensor, own: Sequence[Tensor], memory: Sequence[Sequence[Tensor]], softmax_scale: float, splits: int
) -> tuple[Tensor, Tensor]:
    """See `relic_kernels.memory_attention`; all tensors contiguous.

    Returns:
        The output, and the base-2 logarithm of each query's sum of exponentials, `(B, H, L)` float32.
    """
    batch, rows, heads, width = q.shape
    pooled, window = (readable(part) for part in memory)
    target = target_of(q.device)
    tile = attention_tile("forward", target, width, q.dtype)
    per_split = blocks_of(blocks_of(pooled[0].shape[1], tile.keys), splits) * tile.keys
    kind = q.dtype if splits == 1 else torch.float32
    partial = q.new_empty((splits, *q.shape), dtype=kind)
    lse = q.new_empty((splits, batch, heads, rows), dtype=torch.float32)
    blocks = blocks_of(rows, tile.queries)
    for first, count in head_groups(blocks * splits, batch * heads, q.device):
        memory_attention_fwd_kernel[(blocks, count, splits)](
            q, *pooled, *window, *own, partial, lse,
            rows, pooled[0].shape[1], window[0].shape[1], own[0].shape[1],
            batch, heads, first, per_split, softmax_scale,
            D=width, BM=tile.queries, BN=tile.keys,
            SCALED0=scaled(pooled), SCALED1=scaled(window), SCALED2=scaled(own),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    if splits == 1:
        return partial[0], lse[0]
    out, all_lse = torch.empty_like(q), torch.empty_like(lse[0])
    combine_splits_kernel[(blocks_of(rows, COMBINE_ROWS), batch * heads)](
        partial, lse, out, all_lse, rows, heads, D=width, ROWS=COMBINE_ROWS, SPLITS=splits
    )
    return out, all_lse


def head_groups(programs: int, heads: int, device: torch.device) -> list[tuple[int, int]]:
    """First head and number of heads of each launch; `programs` a head, `heads` of all sequences."""
    together = heads_together(programs, heads, multiprocessors_of(device))
    return [(first, min(together, heads - first)) for first in range(0, heads, together)]


def readable(part: Sequence[Tensor]) -> list[Tensor]:
    """A part's tensors as a kernel can name their types: E4M3 as bytes where the GPU has no such type."""
    k, v, *rest = part
    if k.dtype == torch.float8_e4m3fn and not dispatch.has_e4m3(k.device):
        k, v = k.view(torch.uint8), v.view(torch.uint8)
    return [k, v, *rest]


def scaled(part: Sequence[Tensor]) -> bool:
    """Whether a part's numbers have scales."""
    return part[4].numel() > 0
