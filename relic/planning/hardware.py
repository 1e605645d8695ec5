"""What machines can do: data sheets of GPUs, and this machine's processor, measured.

Rates are dense (no sparsity), in operations and bytes a second. Sources: NVIDIA's data sheets of A100 80GB SXM, H100
SXM, H200 SXM and HGX B200, and the architecture papers of GeForce RTX 4090 and 5090 (float32 accumulation). A link's
rate is one direction's: NVLink of one GPU, or PCIe x16 where there is none.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch

Dtype = Literal["fp32", "bf16", "fp8"]

BYTES_OF: Mapping[Dtype, int] = MappingProxyType({"fp32": 4, "bf16": 2, "fp8": 1})
"""Bytes of one number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One GPU, or this machine's processor.

    Attributes:
        name: as on the command line.
        title: as people call it.
        memory_bytes: of the device.
        flops: matrix operations a second by precision.
        bandwidth: of its memory, bytes a second.
        link: to each other device in one direction, bytes a second; 0 where there is no other.
        measured: whether the rates were measured here, and not read from a data sheet.
    """

    name: str
    title: str
    memory_bytes: float
    flops: Mapping[Dtype, float]
    bandwidth: float
    link: float
    measured: bool = False


def _gpu(name: str, title: str, gigabytes: float, bf16: float, fp32: float, bandwidth: float, link: float) -> Device:
    """A row of the table: gigabytes, TFLOP/s in bf16 and float32, GB/s of memory and of the link."""
    return Device(
        name=name,
        title=title,
        memory_bytes=gigabytes * 1e9,
        flops=MappingProxyType({"bf16": bf16 * 1e12, "fp32": fp32 * 1e12}),
        bandwidth=bandwidth * 1e9,
        link=link * 1e9,
    )


GPUS: Mapping[str, Device] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            _gpu("a100", "A100 80GB SXM", 80, 312, 19.5, 2039, 300),
            _gpu("h100", "H100 80GB SXM", 80, 989, 67, 3350, 450),
            _gpu("h200", "H200 141GB SXM", 141, 989, 67, 4800, 450),
            _gpu("b200", "B200 180GB SXM", 180, 2250, 75, 7700, 900),
            _gpu("rtx5090", "GeForce RTX 5090", 32, 209.5, 104.8, 1792, 64),
            _gpu("rtx4090", "GeForce RTX 4090", 24, 165.2, 82.6, 1008, 32),
        )
    }
)
"""GPUs by their name on the command line."""

CPU = "cpu"
DEVICE_NAMES = (*GPUS, CPU)


def find_device(name: str, dtype: Dtype = "fp32") -> Device:
    """A GPU of the table, or this machine's processor, which is measured for a second.

    Args:
        name: one of `DEVICE_NAMES`.
        dtype: precision in which a processor is measured.

    Raises:
        ValueError: for an unknown name; it lists the known ones.
    """
    if name == CPU:
        return this_processor(dtype)
    if name not in GPUS:
        raise ValueError(f"unknown GPU {name!r}: choose one of {', '.join(DEVICE_NAMES)}")
    return GPUS[name]


def find_gpu_by_title(title: str) -> Device | None:
    """The table's GPU that a driver calls `title` ("NVIDIA H100 80GB HBM3"); None for one that is not in it.

    Cards of the PCIe form are slower than those of the table and not taken for them.
    """
    words = title.lower().replace("-", " ").split()
    if "pcie" in words or "laptop" in words:
        return None
    for gpu in GPUS.values():
        model = gpu.name.removeprefix("rtx")
        if model in words and (not gpu.name.startswith("rtx") or "rtx" in words):
            return gpu
    return None


def this_processor(*dtypes: Dtype) -> Device:
    """This machine's processor with torch's current number of threads, measured for about a second.

    Args:
        dtypes: precisions to measure; fp32 when left out.
    """
    threads = torch.get_num_threads()
    return Device(
        name=CPU,
        title=f"this machine's processor ({threads} thread{'s' if threads != 1 else ''})",
        memory_bytes=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        flops=MappingProxyType({dtype: measured_flops(dtype=dtype) for dtype in dtypes or ("fp32",)}),
        bandwidth=measured_bandwidth(),
        link=0.0,
        measured=True,
    )


def measured_flops(seconds: float = 0.4, dtype: Dtype = "fp32") -> float:
    """Operations a second of a product of two 1024 x 1024 matrices here, median.

    Raises:
        ValueError: for a precision in which torch multiplies no matrices on a processor.
    """
    kinds: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if dtype not in kinds:
        raise ValueError(f"matrix products are not measured in {dtype!r}: choose one of {', '.join(kinds)}")
    a, b = (torch.randn(1024, 1024).to(kinds[dtype]) for _ in range(2))
    return 2 * 1024**3 / _median_s(lambda: torch.mm(a, b), seconds)


def measured_bandwidth(seconds: float = 0.2) -> float:
    """Bytes a second read while 128 MB are summed here, median."""
    values = torch.ones(2**25)
    return values.nbytes / _median_s(values.sum, seconds)


def _median_s(job: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 3:
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
