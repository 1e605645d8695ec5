"""E4M3 numbers in Triton: rounding, and coding by hand where a GPU has no such type (sm_80, CDNA3's differs)."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def round_to_e4m3(x):
    """Nearest E4M3 number, ties to even, of float32 within its range; the cast that follows is then exact.

    GPUs round so by themselves; Triton's interpreter loses the carry of a mantissa that rounds up to the next power.
    """
    bits = x.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & ~0xFFFFF).to(tl.float32, bitcast=True)
    small = (x + 24576.0) - 24576.0  # 1.5 x 2^14: the sum keeps multiples of 2^-9, the step of subnormal numbers
    return tl.where(tl.abs(x) < 0.015625, small, normal)


@triton.jit
def to_stored(x, KIND: tl.constexpr):
    """Float32 within the range of E4M3 as the element type of a memory: E4M3, or its bytes for `uint8`."""
    rounded = round_to_e4m3(x)
    if tl.uint8 == KIND:
        # 2^-120 moves the exponent's bias from 7 to 127's bits, subnormal numbers included
        magnitude = (tl.abs(rounded) * 7.52316384526264e-37).to(tl.int32, bitcast=True) >> 20
        return (magnitude | tl.where(rounded < 0, 128, 0)).to(tl.uint8)
    return rounded.to(KIND)


@triton.jit
def load_numbers(X, at, mask):
    """Elements of a memory as float32, 0 where masked; `uint8` is read as E4M3."""
    if X.dtype.element_ty == tl.uint8:
        code = tl.load(X + at, mask=mask, other=0).to(tl.int32)
        return (((code & 127) << 20) | ((code & 128) << 24)).to(tl.float32, bitcast=True) * 1.329227995784916e36
    return tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
