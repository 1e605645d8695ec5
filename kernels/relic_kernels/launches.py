"""Every kernel as the library launches it, for compilation ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton

from relic_kernels.configurations import (
    CHUNK,
    COMBINE_ROWS,
    COMMIT_HEADS,
    UNPACK_HEADS,
    UNPACK_NUMBERS,
    AttentionKernel,
    Target,
    attention_tile,
    row_warps,
)
from relic_kernels.memory_attention import backward, unpack
from relic_kernels.memory_attention import triton_impl as attention
from relic_kernels.memory_commit import FACTORS
from relic_kernels.memory_commit import triton_impl as commit
from relic_kernels.memory_commit.reference import E4M3_MAX
from relic_kernels.modulated_norm import triton_impl as norm
from relic_kernels.qk_norm_rope_pose import triton_impl as pose

SHAPES = {"mini": (320, 64), "wan-1.3b": (1536, 128), "wan-14b": (5120, 128)}
"""Width of a token and of a head, a preset."""
BYTES_TARGETS = ("sm_80", "gfx942")
"""Targets whose memory is read and written as bytes."""
DEFAULT_WARPS = 4
_BF16, _F32, _I32 = "*bf16", "*fp32", "*i32"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A kernel as it is launched.

    Attributes:
        operator: name in `torch.ops.relic`.
        kernel: which of its kernels, and the shape.
        function: the Triton function.
        types: element type of each pointer argument; arguments not named here or in `constants` are int32.
        constants: compile-time arguments.
        floats: arguments that are float32 numbers.
        warps: of a program.
        stages: of pipelined loads; None for the compiler's choice.
    """

    operator: str
    kernel: str
    function: Any
    types: dict[str, str]
    constants: dict[str, Any]
    floats: tuple[str, ...] = ()
    warps: int = DEFAULT_WARPS
    stages: int | None = None


def launches(target: Target) -> Iterator[Launch]:
    """Every kernel at the sizes of every preset, in bfloat16 with E4M3 memory and window; attention in float32 too."""
    for preset, (width, head) in SHAPES.items():
        yield from _norms(width, preset)
        yield from _queries_and_keys(width, head, preset)
    stored = "u8" if target in BYTES_TARGETS else "fp8e4nv"
    for head in (64, 128):
        yield from _attention(target, head, f"*{stored}", _BF16)
        yield from _unpacking(head, f"*{stored}")
        yield from _commits(head, f"*{stored}")
    yield from _attention(target, 128, f"*{stored}", _F32)


def _norms(width: int, preset: str) -> Iterator[Launch]:
    block = triton.next_power_of_2(width)
    rows = {"M": width, "BLOCK": block}
    chunks = {**rows, "CHUNK": CHUNK}
    for operator, kernel, function, types, constants in (
        ("modulated_norm", "forward", norm.modulated_norm_fwd_kernel, _of(_BF16, "X SHIFT SCALE OUT"), rows),
        (
            "modulated_norm",
            "backward",
            norm.modulated_norm_bwd_kernel,
            _of(_BF16, "X SCALE GRAD DX") | _of(_F32, "DSHIFT DSCALE"),
            chunks,
        ),
        ("gated_residual", "forward", norm.gated_residual_fwd_kernel, _of(_BF16, "X Y GATE OUT"), rows),
        (
            "gated_residual",
            "backward",
            norm.gated_residual_bwd_kernel,
            _of(_BF16, "Y GATE GRAD DY") | _of(_F32, "DGATE"),
            chunks,
        ),
    ):
        yield Launch(
            operator=operator, kernel=f"{kernel}, {preset}", function=function, types=types, constants=constants,
            floats=("eps",), warps=row_warps(block),
        )  # fmt: skip


def _queries_and_keys(width: int, head: int, preset: str) -> Iterator[Launch]:
    block = triton.next_power_of_2(width)
    rows = {"M": width, "WIDTH": head, "BLOCK": block}
    inputs = _of(_BF16, "Q K POSE WQ WK") | _of(_F32, "ROTATION")
    yield Launch(
        operator="qk_norm_rope_pose",
        kernel=f"forward, {preset}",
        function=pose.qk_norm_rope_pose_fwd_kernel,
        types=inputs | _of(_BF16, "Q_OUT K_OUT"),
        constants=rows,
        floats=("eps",),
        warps=row_warps(block),
    )
    for rotated in (True, False):
        yield Launch(
            operator="qk_norm_rope_pose",
            kernel=f"backward of {'queries' if rotated else 'keys'}, {preset}",
            function=pose.qk_norm_rope_pose_bwd_kernel,
            types=_of(_BF16, "X POSE W G DX") | _of(_F32, "ROTATION DW DPOSE"),
            constants={**rows, "CHUNK": CHUNK, "ROTATED": rotated, "SUM_POSE": True},
            floats=("eps",),
            warps=row_warps(block),
        )


def _attention(target: Target, head: int, stored: str, kind: str) -> Iterator[Launch]:
    dtype = torch.float32 if kind == _F32 else torch.bfloat16
    shape = f"D {head}" if kind == _BF16 else f"D {head}, float32"
    parts = _of(stored, "K0 V0") | _of(stored if kind == _BF16 else kind, "K1 V1") | _of(kind, "K2 V2")
    parts |= {f"{name}{part}": _F32 for name in ("T", "KS", "VS") for part in range(3)} | _of(_I32, "O0 O1 O2")
    scaled = {"SCALED0": True, "SCALED1": True, "SCALED2": False}
    of_queries = _of(kind, "Q GRAD") | _of(_F32, "LSE DELTA")
    cases: tuple[tuple[AttentionKernel, str, Any, dict[str, str], dict[str, Any]], ...] = (
        (
            "forward",
            "forward",
            attention.memory_attention_fwd_kernel,
            {"Q": kind, **parts, "OUT": kind, "LSE": _F32},
            scaled,
        ),
        (
            "query_gradient",
            "gradient of queries",
            backward.query_gradient_kernel,
            {**of_queries, **parts, **_of(kind, "OUT DQ")},
            scaled,
        ),
        (
            "own_gradient",
            "gradient of keys",
            backward.own_gradient_kernel,
            {**of_queries, **_of(kind, "K V DK DV"), "TABLE": _F32, "OFFSETS": _I32},
            {},
        ),
    )
    for kernel, name, function, types, constants in cases:
        tile = attention_tile(kernel, target, head, dtype)
        yield Launch(
            operator="memory_attention", kernel=f"{name}, {shape}", function=function, types=types,
            constants={"D": head, "BM": tile.queries, "BN": tile.keys, **constants}, floats=("softmax_scale",),
            warps=tile.warps, stages=tile.stages,
        )  # fmt: skip
    yield Launch(
        operator="memory_attention",
        kernel=f"splits joined, {shape}",
        function=attention.combine_splits_kernel,
        types=_of(_F32, "PARTIAL LSE OUT_LSE") | _of(kind, "OUT"),
        constants={"D": head, "ROWS": COMBINE_ROWS, "SPLITS": 4},
    )


def _unpacking(head: int, stored: str) -> Iterator[Launch]:
    for name, kind, scaled in (("E4M3", stored, True), ("bfloat16", _BF16, False)):
        yield Launch(
            operator="memory_attention",
            kernel=f"unpack {name}, D {head}",
            function=unpack.unpack_kernel,
            types=_of(kind, "K V") | _of(_F32, "TABLE K_SCALE V_SCALE") | _of(_I32, "OFFSETS")
            | _of(_BF16, "K_OUT V_OUT"),
            constants={"D": head, "ROWS": UNPACK_NUMBERS // head, "HEADS": UNPACK_HEADS, "SCALED": scaled},
        )  # fmt: skip


def _commits(head: int, stored: str) -> Iterator[Launch]:
    for factor in FACTORS:
        yield Launch(
            operator="memory_commit",
            kernel=f"factor {factor}, D {head}",
            function=commit.memory_commit_kernel,
            types=_of(_BF16, "K V") | _of(stored, "K_OUT V_OUT") | _of(_F32, "K_SCALE V_SCALE"),
            constants={"D": head, "BLOCK": head, "HEADS": COMMIT_HEADS, "FACTOR": factor, "LARGEST": E4M3_MAX},
        )


def _of(kind: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)
