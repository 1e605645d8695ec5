"""What the kernels become on GPUs that are not here: compiled ahead of time, registers and spills counted.

Run in a process without `TRITON_INTERPRET`: `python -m relic_kernels.static_analysis` prints one JSON line a kernel and
target. Nothing here needs a GPU or its driver; ptxas and cuobjdump come with Triton.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from relic_kernels.dispatch import warps_for
from relic_kernels.memory_attention import backward
from relic_kernels.memory_attention import triton_impl as attention
from relic_kernels.memory_commit import triton_impl as commit
from relic_kernels.memory_commit.reference import E4M3_MAX
from relic_kernels.modulated_norm import triton_impl as norm
from relic_kernels.qk_norm_rope_pose import triton_impl as pose

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_LIMIT = {
    "sm_80": 166_912, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376, "gfx942": 65_536,
}  # fmt: skip
"""Bytes of shared memory that one program may have."""
WIDTHS = {"mini": 320, "wan-1.3b": 1536, "wan-14b": 5120}
_BYTES_TARGETS = ("sm_80", "gfx942")
"""Targets whose memory is read and written as bytes."""
_INSTRUCTIONS = {
    "tensor cores": r"(wgmma\.mma_async|mma\.sync|tcgen05\.mma|v_mfma_)",
    "E4M3 conversions": r"(cvt\.\S*e4m3|v_cvt_\S*fp8)",
    "async copies": r"(cp\.async|ld\.global\.\S*L2|buffer_load_\S* lds)",
}


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A kernel as it is launched.

    Attributes:
        name: kernel and shape.
        kernel: the Triton function.
        types: element type of each pointer argument; arguments not named here or in `constants` are int32.
        constants: compile-time arguments.
        floats: arguments that are float32 numbers.
        warps: of a program.
        stages: of pipelined loads; None for the compiler's choice.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    floats: tuple[str, ...] = ()
    warps: int = 4
    stages: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """A kernel on a target.

    Attributes:
        name: kernel and shape.
        target: architecture.
        registers: of a thread.
        spilled_bytes: of a thread, stores and loads; scratch memory on AMD.
        shared_bytes: of a program.
        shared_limit: what the target has.
        instructions: how often the ones that matter occur in the assembly.
    """

    name: str
    target: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    shared_limit: int
    instructions: dict[str, int]


def shipped(target: str) -> Iterator[Shipped]:
    """Every kernel at the sizes of every preset, in bfloat16 with E4M3 memory."""
    for preset, width in WIDTHS.items():
        yield from _row_kernels(preset, width)
    stored = "u8" if target in _BYTES_TARGETS else "fp8e4nv"
    for head in (64, 128):
        yield from _memory_kernels(head, stored)


def _row_kernels(preset: str, width: int) -> Iterator[Shipped]:
    block = triton.next_power_of_2(width)
    rows = {"M": width, "BLOCK": block}
    chunked = {**rows, "CHUNK": norm.CHUNK}
    half = {"M": width, "HALF": 64 if width % 128 == 0 else 32, "BLOCK": triton.next_power_of_2(width // 2)}
    bf16, f32 = "*bf16", "*fp32"
    kernels: list[tuple[str, Any, dict[str, str], dict[str, Any]]] = [
        ("modulated_norm", norm.modulated_norm_fwd_kernel, dict.fromkeys(("X", "SHIFT", "SCALE", "OUT"), bf16), rows),
        (
            "modulated_norm backward",
            norm.modulated_norm_bwd_kernel,
            {**dict.fromkeys(("X", "SCALE", "GRAD", "DX"), bf16), "DSHIFT": f32, "DSCALE": f32},
            chunked,
        ),
        ("gated_residual", norm.gated_residual_fwd_kernel, dict.fromkeys(("X", "Y", "GATE", "OUT"), bf16), rows),
        (
            "gated_residual backward",
            norm.gated_residual_bwd_kernel,
            {**dict.fromkeys(("Y", "GATE", "GRAD", "DY"), bf16), "DGATE": f32},
            chunked,
        ),
        (
            "qk_norm_rope_pose",
            pose.qk_norm_rope_pose_fwd_kernel,
            {**dict.fromkeys(("Q", "K", "POSE", "WQ", "WK", "Q_OUT", "K_OUT"), bf16), "ROTATION": f32},
            half,
        ),
        (
            "qk_norm_rope_pose backward",
            pose.qk_norm_rope_pose_bwd_kernel,
            {
                **dict.fromkeys(("Q", "K", "POSE", "WQ", "WK", "GQ", "GK", "DQ", "DK"), bf16),
                **dict.fromkeys(("ROTATION", "DWQ", "DWK"), f32),
            },
            {**half, "CHUNK": pose.CHUNK},
        ),
    ]
    for name, kernel, types, constants in kernels:
        yield Shipped(
            name=f"{name}, {preset}", kernel=kernel, types=types, constants=constants, floats=("eps",),
            warps=warps_for(block),
        )  # fmt: skip


def _memory_kernels(head: int, stored: str) -> Iterator[Shipped]:
    bf16, f32 = "*bf16", "*fp32"
    parts = {f"{name}{part}": bf16 for name in ("K", "V") for part in range(3)}
    parts |= {"K0": f"*{stored}", "V0": f"*{stored}"}
    parts |= {f"{name}{part}": f32 for name in ("T", "KS", "VS") for part in range(3)}
    tiles = {"D": head, "BM": attention.BLOCK_M, "BN": attention.BLOCK_N}
    scaled = {"SCALED0": True, "SCALED1": False, "SCALED2": False}
    yield Shipped(
        name=f"memory_attention, D {head}",
        kernel=attention.memory_attention_fwd_kernel,
        types={"Q": bf16, **parts, "OUT": bf16, "LSE": f32},
        constants={**tiles, **scaled},
        floats=("softmax_scale",),
        warps=attention.LAUNCH["num_warps"],
        stages=attention.LAUNCH["num_stages"],
    )
    yield Shipped(
        name=f"memory_attention, splits joined, D {head}",
        kernel=attention.combine_splits_kernel,
        types={"PARTIAL": f32, "LSE": f32, "OUT": bf16, "OUT_LSE": f32},
        constants={"D": head, "BLOCK": head, "SPLITS": 4},
    )
    yield Shipped(
        name=f"memory_attention, gradient of queries, D {head}",
        kernel=backward.query_gradient_kernel,
        types={"Q": bf16, "GRAD": bf16, "LSE": f32, "DELTA": f32, **parts, "DQ": bf16},
        constants={**tiles, **scaled},
        floats=("softmax_scale",),
        warps=attention.LAUNCH["num_warps"],
        stages=attention.LAUNCH["num_stages"],
    )
    yield Shipped(
        name=f"memory_attention, gradient of keys, D {head}",
        kernel=backward.own_gradient_kernel,
        types={
            **dict.fromkeys(("Q", "GRAD", "K", "V", "DK", "DV"), bf16), **dict.fromkeys(("LSE", "DELTA", "TURNS"), f32)
        },
        constants=tiles,
        floats=("softmax_scale",),
        warps=attention.LAUNCH["num_warps"],
        stages=attention.LAUNCH["num_stages"],
    )  # fmt: skip
    for factor in (1, 2, 4):
        yield Shipped(
            name=f"memory_commit, factor {factor}, D {head}",
            kernel=commit.memory_commit_kernel,
            types={
                **dict.fromkeys(("K", "V"), bf16), **dict.fromkeys(("K_OUT", "V_OUT"), f"*{stored}"),
                **dict.fromkeys(("K_SCALE", "V_SCALE"), f32),
            },
            constants={"D": head, "BLOCK": head, "FACTOR": factor, "LARGEST": E4M3_MAX},
        )  # fmt: skip


def compile_for(kernel: Shipped, target: str) -> Compiled:
    """Compile one kernel for one target and count."""
    names = [parameter.name for parameter in kernel.kernel.params]
    signature = dict.fromkeys(names, "i32")
    signature.update(kernel.types)
    signature.update(dict.fromkeys(set(kernel.floats) & set(names), "fp32"))
    signature.update(dict.fromkeys(kernel.constants, "constexpr"))
    aligned: dict[Any, Any] = {(names.index(name),): [["tt.divisibility", 16]] for name in kernel.types}
    source = ASTSource(fn=kernel.kernel, signature=signature, constexprs=kernel.constants, attrs=aligned)
    options = {"num_warps": kernel.warps, **({} if kernel.stages is None else {"num_stages": kernel.stages})}
    built = triton.compile(source, target=TARGETS[target], options=options)
    assembly = built.asm["amdgcn" if target == "gfx942" else "ptx"]
    registers, spilled = _amd_use(assembly) if target == "gfx942" else _nvidia_use(assembly, target)
    return Compiled(
        name=kernel.name,
        target=target,
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=int(built.metadata.shared),
        shared_limit=SHARED_LIMIT[target],
        instructions={name: len(re.findall(pattern, assembly)) for name, pattern in _INSTRUCTIONS.items()},
    )


def _nvidia_use(ptx: str, target: str) -> tuple[int, int]:
    """Registers of a thread and bytes it spills, as ptxas reports them."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    wanted = re.search(r"^\.target (\S+)", ptx, re.MULTILINE)
    assert wanted is not None
    ptxas = tools / ("ptxas-blackwell" if target in ("sm_100", "sm_120") else "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [str(ptxas), "-v", f"-arch={wanted[1]}", str(path), "-o", str(path.with_suffix(".cubin"))]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = max(int(count) for count in re.findall(r"Used (\d+) registers", told))
    return registers, sum(int(count) for count in re.findall(r"(\d+) bytes spill (?:stores|loads)", told))


def _amd_use(assembly: str) -> tuple[int, int]:
    registers = max(int(count) for count in re.findall(r"\.vgpr_count:\s+(\d+)", assembly))
    return registers, 4 * sum(int(count) for count in re.findall(r"\.vgpr_spill_count:\s+(\d+)", assembly))


def main() -> None:
    """One JSON line for each kernel and target."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--targets", nargs="+", choices=sorted(TARGETS), default=sorted(TARGETS))
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    given = parser.parse_args()
    for target in given.targets:
        for kernel in shipped(target):
            if given.only in kernel.name:
                sys.stdout.write(json.dumps(asdict(compile_for(kernel, target))) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
