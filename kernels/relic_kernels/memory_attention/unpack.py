"""All parts as one stretch of turned keys and dequantised values: what SDPA reads where a block has many queries."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from relic_kernels.configurations import UNPACK_HEADS, UNPACK_NUMBERS
from relic_kernels.dispatch import blocks_of
from relic_kernels.memory_attention.tiles import load_scales, load_tile, load_turns, pairs_of, store_tile, turn_pairs
from relic_kernels.memory_attention.triton_impl import readable, scaled


@triton.jit(do_not_specialize=["first"])
def unpack_kernel(
    K, V, TABLE, OFFSETS, K_SCALE, V_SCALE, K_OUT, V_OUT, tokens, heads, first, all_tokens,
    D: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of a part's tokens x groups of heads, batch); written from token `first` of `all_tokens` on.

    The heads of a group share the tokens' cosines and sines. Groups vary first, so that neighbours read on.
    """
    batch = tl.program_id(1).to(tl.int64)
    groups = tl.cdiv(heads, HEADS)
    start = tl.program_id(0) // groups * ROWS
    first_head = tl.program_id(0) % groups * HEADS
    rows = tl.arange(0, ROWS)
    present = rows < tokens - start
    cos, sin = load_turns(TABLE, OFFSETS, start, rows, present, D)
    source = batch * tokens + start
    target = batch * all_tokens + first + start
    for head in range(first_head, tl.minimum(first_head + HEADS, heads)):
        k = load_tile(K, source, rows, head, heads, present, D)
        value = load_tile(V, source, rows, head, heads, present, D)
        if SCALED:
            k *= load_scales(K_SCALE, source, rows, head, heads, present)[:, None]
            value *= load_scales(V_SCALE, source, rows, head, heads, present)[:, None]
        even, odd = pairs_of(k, D)
        store_tile(K_OUT, target, rows, head, heads, present, turn_pairs(even, odd, cos, sin, D), D)
        store_tile(V_OUT, target, rows, head, heads, present, value, D)


def unpack(parts: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values `(B, T, H, D)` of all parts, one after another; all tensors contiguous."""
    batch, _, heads, width = parts[0][0].shape
    lengths = [part[0].shape[1] for part in parts]
    keys = parts[0][0].new_empty((batch, sum(lengths), heads, width), dtype=dtype)
    values = torch.empty_like(keys)
    first, rows = 0, UNPACK_NUMBERS // width
    for part, tokens in zip(parts, lengths, strict=True):
        if tokens:
            unpack_kernel[(blocks_of(tokens, rows) * blocks_of(heads, UNPACK_HEADS), batch)](
                *readable(part), keys, values, tokens, heads, first, keys.shape[1],
                D=width, ROWS=rows, HEADS=UNPACK_HEADS, SCALED=scaled(part),
            )  # fmt: skip
        first += tokens
    return keys, values
