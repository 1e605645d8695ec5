"""What the attention kernels share: tiles of queries, keys and values, and the turning of keys."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from relic_kernels.e4m3 import load_numbers


@triton.jit
def load_tile(X, first, rows, head, heads, present, D: tl.constexpr):
    """Rows `first + rows` of `(rows, H, D)` as stored, 0 where not present; `first` may need 64 bits."""
    at = rows[:, None] * (heads * D) + tl.arange(0, D)[None, :]
    return load_numbers(X + (first * heads + head) * D, at, present[:, None])


@triton.jit
def load_passing(X, first, rows, head, heads, present, D: tl.constexpr):
    """As `load_tile`, of what no other program reads: leaves the L2 cache to keys and values."""
    at = rows[:, None] * (heads * D) + tl.arange(0, D)[None, :]
    return tl.load(X + (first * heads + head) * D + at, mask=present[:, None], other=0.0, eviction_policy="evict_first")


@triton.jit
def store_tile(X, first, rows, head, heads, present, value, D: tl.constexpr):
    """The counterpart of `load_passing`."""
    at = rows[:, None] * (heads * D) + tl.arange(0, D)[None, :]
    to = X + (first * heads + head) * D + at
    tl.store(to, value.to(X.dtype.element_ty), mask=present[:, None], eviction_policy="evict_first")


@triton.jit
def load_scales(SCALE, first, rows, head, heads, present):
    """Scales of some tokens' head, 0 where not present."""
    return tl.load(SCALE + first * heads + head + rows * heads, mask=present, other=0.0)


@triton.jit
def pairs_of(x, D: tl.constexpr):
    """Even and odd channels of `(N, D)`."""
    return tl.split(tl.reshape(x, (x.shape[0], D // 2, 2)))


@triton.jit
def load_turns(TABLE, OFFSETS, first, rows, present, D: tl.constexpr):
    """Cosines and sines `(N, D / 2)` of the places of tokens `first + rows`, float32.

    Absent tokens take the table's first rows, of which there are at least D / 2 wherever there is a token.
    """
    channel = tl.arange(0, D)[None, :]
    offset = OFFSETS + first * 3 + rows * 3
    time = tl.load(offset, mask=present, other=0)[:, None]
    row = tl.load(offset + 1, mask=present, other=0)[:, None]
    column = tl.load(offset + 2, mask=present, other=0)[:, None]
    # nested so that forward spills no register on sm_120
    place = tl.where(channel < D - 2 * (D // 6), tl.where(channel < D - 4 * (D // 6), time, row), column)
    return pairs_of(tl.load(TABLE + (place * 2 + channel)).to(tl.float32), D)


@triton.jit
def turn_pairs(even, odd, cos, sin, D: tl.constexpr):
    """`(N, D)` of even and odd channels, each pair turned."""
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (cos.shape[0], D))


@triton.jit
def turn(x, TABLE, OFFSETS, first, rows, present, BACK: tl.constexpr, D: tl.constexpr):
    """Neighbouring channels of float32 `(N, D)` turned to the places of tokens `first + rows`, or back."""
    even, odd = pairs_of(x, D)
    cos, sin = load_turns(TABLE, OFFSETS, first, rows, present, D)
    if BACK:
        sin = -sin
    return turn_pairs(even, odd, cos, sin, D)


@triton.jit
def load_keys(K, TABLE, OFFSETS, batch, start, rows, tokens, head, heads, present, D: tl.constexpr):
    """Keys of tokens `start + rows`, turned to their places, not yet scaled: float32 `(N, D)`."""
    k = load_tile(K, batch * tokens + start, rows, head, heads, present, D)
    return turn(k, TABLE, OFFSETS, start, rows, present, False, D)
