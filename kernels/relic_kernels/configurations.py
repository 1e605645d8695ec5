"""How each kernel is launched on each architecture: one table for dispatch, static analysis and the roofline.

Every entry was compiled ahead of time for its architecture and spills no register (`relic bench kernels --static`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from relic_kernels.dispatch import blocks_of

Target = Literal["sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"]
AttentionKernel = Literal["forward", "query_gradient", "own_gradient"]

CHUNK = 32
"""Rows whose gradients one program sums before they are written; more leave a short sequence with too few programs."""
COMMIT_HEADS = 8
"""Heads that one program of `memory_commit` pools."""
COMBINE_ROWS = 16
"""Query rows whose splits one program joins."""
UNPACK_NUMBERS = 1024
"""Numbers of one head's keys that a program of the unpacking takes at a time: 16 bytes a thread in half precision."""
UNPACK_HEADS = 4
"""Heads of the same tokens that it goes over with one load of their turns."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A program of an attention kernel.

    Attributes:
        queries: rows of queries held or taken at a time.
        keys: rows of keys taken or held at a time.
        warps: of a program; 32 threads on NVIDIA, 64 on AMD.
        stages: of pipelined loads.
    """

    queries: int
    keys: int
    warps: int
    stages: int


_TILES: dict[tuple[AttentionKernel, int], dict[Target, Tile]] = {
    ("forward", 64): {
        "sm_80": Tile(128, 64, 8, 2), "sm_89": Tile(128, 64, 8, 2), "sm_90": Tile(128, 64, 8, 2),
        "sm_100": Tile(128, 64, 8, 2), "sm_120": Tile(128, 64, 8, 2), "gfx942": Tile(128, 32, 8, 1),
    },
    ("forward", 128): {
        "sm_80": Tile(64, 64, 8, 2), "sm_89": Tile(128, 32, 8, 2), "sm_90": Tile(128, 64, 8, 2),
        "sm_100": Tile(128, 64, 8, 2), "sm_120": Tile(128, 32, 8, 2), "gfx942": Tile(64, 32, 4, 1),
    },
    ("query_gradient", 64): {
        "sm_80": Tile(64, 32, 8, 2), "sm_89": Tile(64, 32, 8, 2), "sm_90": Tile(128, 64, 8, 2),
        "sm_100": Tile(128, 64, 8, 2), "sm_120": Tile(64, 32, 8, 2), "gfx942": Tile(64, 32, 4, 1),
    },
    ("query_gradient", 128): {
        "sm_80": Tile(64, 32, 8, 2), "sm_89": Tile(64, 32, 8, 1), "sm_90": Tile(64, 32, 8, 2),
        "sm_100": Tile(64, 64, 8, 2), "sm_120": Tile(64, 32, 8, 1), "gfx942": Tile(32, 32, 4, 1),
    },
    ("own_gradient", 64): {
        "sm_80": Tile(32, 64, 8, 2), "sm_89": Tile(32, 64, 8, 2), "sm_90": Tile(64, 64, 8, 2),
        "sm_100": Tile(64, 64, 8, 2), "sm_120": Tile(32, 64, 8, 2), "gfx942": Tile(32, 64, 4, 1),
    },
    ("own_gradient", 128): {
        "sm_80": Tile(32, 64, 8, 2), "sm_89": Tile(32, 64, 8, 2), "sm_90": Tile(64, 64, 8, 2),
        "sm_100": Tile(64, 64, 8, 2), "sm_120": Tile(32, 64, 8, 2), "gfx942": Tile(32, 32, 4, 1),
    },
}  # fmt: skip
_WIDE = Tile(16, 16, 8, 1)
"""For float32 inputs on any GPU: exact products without tensor cores; for checks, not for speed."""
_INTERPRETED = Tile(64, 32, 4, 1)
"""For CPU tensors in Triton's interpreter."""


def attention_tile(kernel: AttentionKernel, target: Target | None, head_width: int, dtype: torch.dtype) -> Tile:
    """The tile of an attention kernel.

    Args:
        kernel: which of the three.
        target: architecture; None for Triton's interpreter.
        head_width: D, at most 128.
        dtype: of the queries.
    """
    if target is None:
        return _INTERPRETED
    if dtype.itemsize > 2:
        return _WIDE
    return _TILES[kernel, 64 if head_width <= 64 else 128][target]


def row_warps(block: int) -> int:
    """Warps of a program that holds a row of `block` numbers in registers."""
    return 4 if block <= 1024 else 8 if block <= 4096 else 16


def heads_together(programs: int, heads: int, side_by_side: int) -> int:
    """Heads that one launch works on: the fewest whose launches take no more waves than one launch of all.

    A wave that ends within a head reads it again; a launch ends with a head.

    Args:
        programs: of a head.
        heads: of all sequences.
        side_by_side: programs that the GPU runs at a time.
    """
    fewest = blocks_of(programs * heads, side_by_side)

    def waves(together: int) -> int:
        whole, rest = divmod(heads, together)
        return whole * blocks_of(programs * together, side_by_side) + blocks_of(programs * rest, side_by_side)

    return next(together for together in range(1, heads + 1) if waves(together) <= fewest)


@cache
def multiprocessors_of(device: torch.device) -> int:
    """How many programs of an attention kernel a device runs at a time; 1 in Triton's interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@cache
def target_of(device: torch.device) -> Target | None:
    """The table's architecture for a device: the newest one that is no newer; None for a CPU."""
    if device.type != "cuda":
        return None
    if torch.version.hip is not None:
        return "gfx942"
    return nvidia_target(*torch.cuda.get_device_capability(device))


def nvidia_target(major: int, minor: int) -> Target:
    """The table's architecture for a compute capability.

    8.6 and 8.7 take the tiles of 8.9, which has no more shared memory than they have.

    Raises:
        ValueError: for capabilities below 8.0.
    """
    if major < 8:
        raise ValueError(f"compute capability {major}.{minor}: kernels need 8.0 (Ampere) at least; force the reference")
    if (major, minor) == (8, 0):
        return "sm_80"
    by_major: dict[int, Target] = {8: "sm_89", 9: "sm_90", 10: "sm_100", 11: "sm_100"}
    return by_major.get(major, "sm_120")
