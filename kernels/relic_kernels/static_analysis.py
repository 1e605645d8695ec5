"""What the kernels become on GPUs that are not here: compiled ahead of time; registers, spills and occupancy counted.

Run in a process without `TRITON_INTERPRET`: `python -m relic_kernels.static_analysis` prints one JSON line a kernel and
target; `measure_apart` does that from any process. Nothing here needs a GPU or its driver; ptxas comes with Triton.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from relic_kernels.configurations import Target

if TYPE_CHECKING:
    from relic_kernels.launches import Launch

TARGETS: tuple[Target, ...] = get_args(Target)
TENSOR_MEMORY_COLUMNS = 512
"""Of sm_100: where its tensor cores keep their sums."""
_MIB = 1024
_INSTRUCTIONS = {
    "wgmma": r"wgmma\.mma_async",
    "tcgen05": r"tcgen05\.mma",
    "mma": r"mma\.sync",
    "mfma": r"v_mfma_",
    "FP8 conversions": r"(cvt\.\S*e4m3|v_cvt_\S*fp8)",
    "async copies": r"(cp\.async\.c[ag]|buffer_load_\S* lds|global_load_lds)",
    "TMA": r"cp\.async\.bulk\.tensor",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a multiprocessor (CUDA) or compute unit (AMD) has for all programs that it runs at a time.

    Attributes:
        program_shared: bytes of shared memory that one program may have.
        shared: bytes of shared memory.
        warps: that it can hold.
        registers: 32-bit registers, of all its threads together.
        reserved: bytes of shared memory that a program takes beside its own.
    """

    program_shared: int
    shared: int
    warps: int
    registers: int = 65_536
    reserved: int = 1024


LIMITS: dict[Target, Limits] = {
    "sm_80": Limits(program_shared=163 * _MIB, shared=164 * _MIB, warps=64),
    "sm_89": Limits(program_shared=99 * _MIB, shared=100 * _MIB, warps=48),
    "sm_90": Limits(program_shared=227 * _MIB, shared=228 * _MIB, warps=64),
    "sm_100": Limits(program_shared=227 * _MIB, shared=228 * _MIB, warps=64),
    "sm_120": Limits(program_shared=99 * _MIB, shared=100 * _MIB, warps=48),
    "gfx942": Limits(program_shared=64 * _MIB, shared=64 * _MIB, warps=32, registers=4 * 512 * 64, reserved=0),
}
"""CUDA C++ programming guide, table of technical specifications; CDNA 3 instruction set architecture, section 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """A kernel on a target.

    Attributes:
        operator: name in `torch.ops.relic`.
        kernel: which of its kernels, and the shape.
        target: architecture.
        tile: queries and keys at a time, for attention; else empty.
        warps: of a program.
        stages: of pipelined loads.
        registers: of a thread.
        spilled_bytes: of a thread, stores and loads; scratch memory on AMD.
        shared_bytes: of a program.
        shared_limit: what a program may have there.
        tensor_memory: columns of tensor memory of a program; 0 where there is none.
        occupancy: warps that a multiprocessor holds at a time over those that it could.
        instructions: how often the ones that matter occur in the assembly.
    """

    operator: str
    kernel: str
    target: Target
    tile: str
    warps: int
    stages: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    shared_limit: int
    tensor_memory: int
    occupancy: float
    instructions: dict[str, int]

    @property
    def faults(self) -> list[str]:
        """What keeps this kernel from being shipped: spilled registers, or memory that the target does not have."""
        where = f"{self.operator}, {self.kernel} on {self.target}"
        found = []
        if self.spilled_bytes:
            found.append(f"{where} spills {self.spilled_bytes} bytes")
        if self.shared_bytes > self.shared_limit:
            found.append(f"{where} takes {self.shared_bytes} bytes of shared memory of {self.shared_limit}")
        if self.tensor_memory > TENSOR_MEMORY_COLUMNS:
            found.append(f"{where} takes {self.tensor_memory} columns of tensor memory of {TENSOR_MEMORY_COLUMNS}")
        return found


def measure_apart(picks: Sequence[tuple[Target, str]]) -> Iterator[Compiled]:
    """Compile shipped kernels in a process of their own, without Triton's interpreter.

    Args:
        picks: architectures, each with what the operator and name of its kernels must contain.

    Yields:
        Each kernel on each target, as it is done.

    Raises:
        RuntimeError: with the compiler's words when a kernel does not compile.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    )
    command = [sys.executable, "-m", "relic_kernels.static_analysis", *(f"{target}:{only}" for target, only in picks)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            yield Compiled(**json.loads(line))
        if process.wait():
            errors.seek(0)
            raise RuntimeError(f"a kernel does not compile: {errors.read()[-2000:]}")


def compile_for(launch: Launch, target: Target) -> Compiled:
    """Compile one kernel for one target and count."""
    import triton
    from triton.compiler import ASTSource

    names = [parameter.name for parameter in launch.function.params]
    signature = dict.fromkeys(names, "i32")
    signature.update(launch.types)
    signature.update(dict.fromkeys(set(launch.floats) & set(names), "fp32"))
    signature.update(dict.fromkeys(launch.constants, "constexpr"))
    aligned: dict[Any, Any] = {(names.index(name),): [["tt.divisibility", 16]] for name in launch.types}
    source = ASTSource(fn=launch.function, signature=signature, constexprs=launch.constants, attrs=aligned)
    options = {"num_warps": launch.warps, **({} if launch.stages is None else {"num_stages": launch.stages})}
    built = triton.compile(source, target=_gpu(target), options=options)
    assembly = built.asm["amdgcn" if target == "gfx942" else "ptx"]
    registers, spilled = _amd_use(assembly) if target == "gfx942" else _nvidia_use(assembly, target)
    shared = int(built.metadata.shared)
    constants = launch.constants
    return Compiled(
        operator=launch.operator,
        kernel=launch.kernel,
        target=target,
        tile=f"{constants['BM']} x {constants['BN']}" if "BM" in constants else "",
        warps=launch.warps,
        stages=int(built.metadata.num_stages),
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=shared,
        shared_limit=LIMITS[target].program_shared,
        tensor_memory=int(getattr(built.metadata, "tmem_size", 0) or 0),
        occupancy=occupancy(target, registers, shared, launch.warps),
        instructions={name: len(re.findall(pattern, assembly)) for name, pattern in _INSTRUCTIONS.items()},
    )


def occupancy(target: Target, registers: int, shared_bytes: int, warps: int) -> float:
    """Share of a multiprocessor's warps that programs of a kernel fill; registers are given out 8 at a time."""
    limits = LIMITS[target]
    threads = 64 if target == "gfx942" else 32
    by_registers = limits.registers // (-(-registers // 8) * 8 * threads * warps)
    by_shared = limits.shared // max(1, shared_bytes + limits.reserved)
    return min(limits.warps // warps, by_registers, by_shared) * warps / limits.warps


def _gpu(target: Target) -> Any:
    from triton.backends.compiler import GPUTarget

    if target == "gfx942":
        return GPUTarget("hip", target, 64)
    return GPUTarget("cuda", int(target.removeprefix("sm_")), 32)


def _nvidia_use(ptx: str, target: Target) -> tuple[int, int]:
    """Registers of a thread and bytes it spills, as ptxas reports them."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    wanted = re.search(r"^\.target (\S+)", ptx, re.MULTILINE)
    assert wanted is not None
    ptxas = tools / ("ptxas-blackwell" if target in ("sm_100", "sm_120") else "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [str(ptxas), "-v", f"-arch={wanted[1].rstrip(',')}", str(path), "-o", str(path.with_suffix(".cubin"))]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = max(int(count) for count in re.findall(r"Used (\d+) registers", told))
    return registers, sum(int(count) for count in re.findall(r"(\d+) bytes spill (?:stores|loads)", told))


def _amd_use(assembly: str) -> tuple[int, int]:
    """Vector registers of a thread and bytes of scratch memory."""
    registers = max(int(count) for count in re.findall(r"\.vgpr_count:\s+(\d+)", assembly))
    return registers, max(int(count) for count in re.findall(r"\.private_segment_fixed_size:\s+(\d+)", assembly))


def main() -> None:
    """One JSON line for each kernel and target."""
    from relic_kernels.launches import launches

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "picks", nargs="*", default=TARGETS, metavar="TARGET:NAME", help="kernels whose operator and name contain NAME"
    )
    for pick in parser.parse_args().picks:
        target, _, only = pick.partition(":")
        for launch in launches(target):
            if only in f"{launch.operator}, {launch.kernel}":
                sys.stdout.write(json.dumps(asdict(compile_for(launch, target))) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
