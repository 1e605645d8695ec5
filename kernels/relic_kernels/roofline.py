"""Bytes and operations of every kernel, counted by walking its launch grid and its loops, beside the least possible.

The grids, tiles and chunks are those of `configurations`, which launch the kernels. What is counted:

* least: every tensor read or written once;
* from memory: programs run in the order of the launches and their grids, as many at a time as the GPU's multiprocessors
  hold (a wave). What several programs of a wave read comes from memory once. A tensor that the wave before read as well
  stays in the L2 cache if that wave's bytes fit there, without those loaded or stored as the first to leave it (the
  query rows of attention); otherwise it comes from memory again;
* requested: every load and store of every program, as if there were no L2 cache. Tables of turns count once a program:
  the places of the tokens of a tile are at most those of a frame, 14 kB of the L1 cache at D = 128.

Time is the longer of operations over the peak rate and bytes from memory over the bandwidth, both published: no kernel
takes less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from relic_kernels.configurations import (
    CHUNK,
    COMMIT_HEADS,
    UNPACK_HEADS,
    UNPACK_NUMBERS,
    Target,
    attention_tile,
    heads_together,
)
from relic_kernels.dispatch import blocks_of
from relic_kernels.memory_attention.turns import AXES, axis_pairs

_BF16, _E4M3, _FP32, _INT32 = 2, 1, 4, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A GPU's published rates.

    Attributes:
        title: as people call it.
        target: its architecture.
        flops: dense bfloat16 operations a second, summed in float32.
        bandwidth: of its memory, bytes a second.
        l2_bytes: of its L2 cache.
        multiprocessors: that run programs side by side.
    """

    title: str
    target: Target
    flops: float
    bandwidth: float
    l2_bytes: float
    multiprocessors: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A block of a world and what it remembers.

    Attributes:
        title: of the world.
        heads: of attention.
        head_width: D.
        grid: tokens a column and a row of a latent frame.
        block_frames: latent frames of the block.
        window_frames: latent frames kept whole.
        pooled_tokens: tokens of the compressed part.
        pooled_places: different times, rows and columns of those tokens.
        factor: pooling factor a side with which `memory_commit` is counted.
        turn_bytes: bytes of a cosine or sine in the tables of turns: 4, or 2 for float16.
    """

    title: str
    heads: int
    head_width: int
    grid: tuple[int, int]
    block_frames: int
    window_frames: int
    pooled_tokens: int
    pooled_places: tuple[int, int, int]
    factor: int = 4
    turn_bytes: int = _FP32

    @property
    def width(self) -> int:
        """M, of a token."""
        return self.heads * self.head_width

    @property
    def frame_tokens(self) -> int:
        """Tokens of a latent frame."""
        return math.prod(self.grid)

    @property
    def tokens(self) -> int:
        """L, of the block."""
        return self.block_frames * self.frame_tokens

    @property
    def parts(self) -> tuple[tuple[str, int, int, bool], ...]:
        """Name, tokens, bytes a stored number and whether there are scales: pooled memory, window, the block."""
        window = self.window_frames * self.frame_tokens
        return (
            ("pooled", self.pooled_tokens, _E4M3, True),
            ("window", window, _BF16, False),
            ("own", self.tokens, _BF16, False),
        )

    def turns_of(self, part: str) -> tuple[int, int]:
        """Bytes of a part's table of turns, and of a token's offsets into it."""
        places = {
            "pooled": self.pooled_places,
            "window": (self.window_frames, *self.grid),
            "own": (self.block_frames, *self.grid),
        }[part]
        rows = sum(count * pairs for count, pairs in zip(places, axis_pairs(self.head_width), strict=True))
        return rows * 2 * self.turn_bytes, AXES * _INT32


@dataclass(frozen=True, slots=True)
class Program:
    """What one program of a grid does.

    Attributes:
        touched: bytes of each tensor's stretch that it reads or writes.
        flops: operations.
        passing: how many of the first stretches are loaded and stored as the first to leave the L2 cache.
    """

    touched: tuple[tuple[str, float], ...]
    flops: float = 0.0
    passing: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """A kernel's traffic and time on a machine.

    Attributes:
        operator: name in `torch.ops.relic`.
        kernel: which of its kernels.
        least_bytes: every tensor once.
        memory_bytes: from and to memory.
        requested_bytes: by all programs.
        least_flops: of attention, without what tiles add at ragged ends; 0 where tensor cores have no part.
        flops: that programs do.
        seconds: on the machine, bound from below.
        compute_bound: whether operations take longer than bytes.
    """

    operator: str
    kernel: str
    least_bytes: float
    memory_bytes: float
    requested_bytes: float
    least_flops: float
    flops: float
    seconds: float
    compute_bound: bool


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    operator: str
    name: str
    programs: list[Program]
    least_bytes: float
    least_flops: float = 0.0
    programs_of_launch: int = 0


def count(shape: Shape, machine: Machine) -> list[Count]:
    """Every kernel of every operator on one machine."""
    return [
        _counted(kernel, machine)
        for kernel in (*_rows(shape), _commit(shape), _unpacking(shape), *_attention(shape, machine))
    ]


def _counted(kernel: _Kernel, machine: Machine) -> Count:
    moved = memory_bytes(kernel.programs, machine.multiprocessors, machine.l2_bytes, kernel.programs_of_launch)
    flops = sum(program.flops for program in kernel.programs)
    compute, transfer = flops / machine.flops, moved / machine.bandwidth
    return Count(
        operator=kernel.operator,
        kernel=kernel.name,
        least_bytes=kernel.least_bytes,
        memory_bytes=moved,
        requested_bytes=sum(size for program in kernel.programs for _, size in program.touched),
        least_flops=kernel.least_flops,
        flops=flops,
        seconds=max(compute, transfer),
        compute_bound=compute > transfer,
    )


def memory_bytes(programs: list[Program], side_by_side: int, l2_bytes: float, of_launch: int = 0) -> float:
    """Bytes from memory by the rule of this module; `of_launch` programs a launch, 0 for one launch of all."""
    moved = 0.0
    before: dict[str, float] = {}
    for launch in range(0, len(programs), of_launch or len(programs)):
        launched = programs[launch : launch + (of_launch or len(programs))]
        for first in range(0, len(launched), side_by_side):
            wave: dict[str, float] = {}
            held: dict[str, float] = {}
            for program in launched[first : first + side_by_side]:
                for index, (stretch, size) in enumerate(program.touched):
                    wave[stretch] = max(size, wave.get(stretch, 0.0))
                    if index >= program.passing:
                        held[stretch] = wave[stretch]
            moved += sum(size for stretch, size in wave.items() if stretch not in before)
            before = held if sum(held.values()) <= l2_bytes else {}
    return moved


def _rows(shape: Shape) -> Iterator[_Kernel]:
    """The operators that hold a row: programs are rows, or chunks of them in backward kernels."""
    row, table = _BF16 * shape.width, shape.turn_bytes * shape.head_width
    groups, rows = shape.block_frames, shape.frame_tokens
    block, vectors = groups * rows * row, groups * row
    turns, weights = shape.tokens * table, 2 * row
    for operator, inputs, outputs, of_group in (
        ("modulated_norm", ("x",), ("out",), ("shift", "scale")),
        ("gated_residual", ("x", "y"), ("out",), ("gate",)),
        ("qk_norm_rope_pose", ("q", "k"), ("q_out", "k_out"), ("pose",)),
    ):
        rotated = operator == "qk_norm_rope_pose"
        programs = []
        for group in range(groups):
            for local in range(rows):
                at = f"{group}.{local}"
                touched = [(f"{name}{at}", row) for name in (*inputs, *outputs)]
                touched += [(f"{name}{group}", row) for name in of_group]
                touched += [("weights", weights), (f"turns{at}", table)] if rotated else []
                programs.append(Program(tuple(touched)))
        least = (len(inputs) + len(outputs)) * block + len(of_group) * vectors + rotated * (turns + weights)
        yield _Kernel(operator=operator, name="forward", programs=programs, least_bytes=least)
    for operator, name, inputs, outputs, of_group, sums in (
        ("modulated_norm", "backward", ("x", "grad"), ("dx",), ("scale",), ("dshift", "dscale")),
        ("gated_residual", "backward", ("y", "grad"), ("dy",), ("gate",), ("dgate",)),
        ("qk_norm_rope_pose", "backward of queries", ("q", "grad"), ("dq",), ("pose",), ("dweight", "dpose")),
        ("qk_norm_rope_pose", "backward of keys", ("k", "grad"), ("dk",), ("pose",), ("dweight", "dpose")),
    ):
        rotated, weighed = name == "backward of queries", operator == "qk_norm_rope_pose"
        programs = []
        for group in range(groups):
            for chunk in range(blocks_of(rows, CHUNK)):
                held = min(CHUNK, rows - chunk * CHUNK)
                at = f"{group}.{chunk}"
                touched = [(f"{tensor}{at}", held * row) for tensor in (*inputs, *outputs)]
                touched += [(f"{tensor}{group}", row) for tensor in of_group]
                # written here and read once more by the sum over chunks
                touched += [(f"{tensor}{at}", 2 * _FP32 * shape.width) for tensor in sums]
                touched += [("weights", row)] if weighed else []
                touched += [(f"turns{at}", held * table)] if rotated else []
                programs.append(Program(tuple(touched)))
        least = (len(inputs) + len(outputs)) * block + (len(of_group) + len(sums)) * vectors
        least += rotated * turns + weighed * (row - vectors + row)
        yield _Kernel(operator=operator, name=name, programs=programs, least_bytes=least)


def _commit(shape: Shape) -> _Kernel:
    """`memory_commit`: programs are cells of a frame, some heads each; a ragged cell reads what is there."""
    rows, columns = shape.grid
    programs, cells = [], 0
    for frame in range(shape.block_frames):
        for top in range(0, rows, shape.factor):
            for left in range(0, columns, shape.factor):
                inside = min(shape.factor, rows - top) * min(shape.factor, columns - left)
                cells += 1
                for first in range(0, shape.heads, COMMIT_HEADS):
                    heads = min(COMMIT_HEADS, shape.heads - first)
                    at = f"{frame}.{top}.{left}.{first}"
                    read = 2 * inside * heads * shape.head_width * _BF16
                    written = 2 * heads * (shape.head_width * _E4M3 + _FP32)
                    programs.append(Program(((f"in{at}", read), (f"out{at}", written))))
    least = 2 * shape.tokens * shape.width * _BF16 + 2 * cells * shape.heads * (shape.head_width + _FP32)
    return _Kernel(operator="memory_commit", name=f"factor {shape.factor}", programs=programs, least_bytes=least)


def _unpacking(shape: Shape) -> _Kernel:
    """A launch a part; programs are some tokens of a few heads. SDPA then reads what is written here."""
    rows, token = UNPACK_NUMBERS // shape.head_width, 2 * shape.head_width
    programs = []
    for part, tokens, size, scaled in shape.parts:
        table, places = shape.turns_of(part)
        for start in range(0, tokens, rows):
            held, at = min(rows, tokens - start), f"{part}.{start}"
            for first in range(0, shape.heads, UNPACK_HEADS):
                heads = min(UNPACK_HEADS, shape.heads - first)
                read = held * heads * (token * size + 2 * _FP32 * scaled)
                touched = (
                    (f"in{at}.{first}", read), (f"out{at}.{first}", held * heads * token * _BF16),
                    (f"places{at}", held * places), (f"turns of {part}", table),
                )  # fmt: skip
                programs.append(Program(touched))
    written = sum(tokens for _, tokens, _, _ in shape.parts) * token * shape.heads * _BF16
    return _Kernel(
        operator="memory_attention", name="unpack", programs=programs, least_bytes=_memory_least(shape) + written
    )


def _attention(shape: Shape, machine: Machine) -> Iterator[_Kernel]:
    target = machine.target
    for kernel, name, products in (("forward", "forward", 2), ("query_gradient", "gradient of queries", 3)):
        tile = attention_tile(
            "forward" if kernel == "forward" else "query_gradient", target, shape.head_width, torch.bfloat16
        )
        of_row = {"forward": ("q", "out"), "query_gradient": ("q", "out", "grad", "dq")}[kernel]
        logs = {"forward": 1, "query_gradient": 2}[kernel]
        programs, blocks = [], blocks_of(shape.tokens, tile.queries)
        for head in range(shape.heads):
            memory, tiles = _read_parts(shape, head, tile.keys)
            for block in range(blocks):
                held = min(tile.queries, shape.tokens - block * tile.queries)
                own = [(f"{tensor}{head}.{block}", held * shape.head_width * _BF16) for tensor in of_row]
                own.append((f"logs{head}.{block}", held * logs * _FP32))
                flops = products * 2 * tile.queries * tile.keys * shape.head_width * tiles
                programs.append(Program((*own, *memory), flops, passing=len(of_row)))
        block_bytes = shape.tokens * shape.width * _BF16
        least = len(of_row) * block_bytes + logs * shape.tokens * shape.heads * _FP32 + _memory_least(shape)
        all_tokens = sum(tokens for _, tokens, _, _ in shape.parts)
        yield _Kernel(
            operator="memory_attention", name=name, programs=programs, least_bytes=least,
            least_flops=products * 2 * shape.tokens * all_tokens * shape.width,
            programs_of_launch=blocks * heads_together(blocks, shape.heads, machine.multiprocessors),
        )  # fmt: skip
    yield _own_gradient(shape, target)


def _read_parts(shape: Shape, head: int, keys: int) -> tuple[list[tuple[str, float]], int]:
    """What a program of one head reads of all parts, tile by tile, and how many tiles that is."""
    read: list[tuple[str, float]] = []
    tiles = 0
    for part, tokens, size, scaled in shape.parts:
        numbers = scales = offsets = 0
        table, of_token = shape.turns_of(part)
        for start in range(0, tokens, keys):
            rows = min(keys, tokens - start)
            numbers += 2 * rows * shape.head_width * size
            scales += 2 * rows * _FP32 * scaled
            offsets += rows * of_token
            tiles += 1
        read += [
            (f"{part} of head {head}", numbers + scales),
            (f"turns of {part}", table),
            (f"places of {part}", offsets),
        ]
    return read, tiles


def _memory_least(shape: Shape) -> float:
    of_token = sum(
        tokens * (2 * shape.width * size + 2 * shape.heads * _FP32 * scaled) for _, tokens, size, scaled in shape.parts
    )
    turns = ((tokens, *shape.turns_of(part)) for part, tokens, _, _ in shape.parts)
    return of_token + sum(table + tokens * offsets for tokens, table, offsets in turns)


def _own_gradient(shape: Shape, target: Target) -> _Kernel:
    """Programs are blocks of the block's own keys; each goes over all queries."""
    tile = attention_tile("own_gradient", target, shape.head_width, torch.bfloat16)
    token = shape.head_width * _BF16
    table, offsets = shape.turns_of("own")
    programs = []
    for head in range(shape.heads):
        asked = shape.tokens * (2 * token + 2 * _FP32)
        for block in range(blocks_of(shape.tokens, tile.keys)):
            held = min(tile.keys, shape.tokens - block * tile.keys)
            at = f"{head}.{block}"
            touched = (
                (f"q and grad of head {head}", asked), (f"k, v, dk, dv{at}", 4 * held * token),
                ("turns", table), (f"places{block}", 2 * held * offsets),
            )  # fmt: skip
            flops = 4 * 2 * tile.queries * tile.keys * shape.head_width * blocks_of(shape.tokens, tile.queries)
            programs.append(Program(touched, flops))
    least = shape.tokens * (6 * shape.width * _BF16 + 2 * shape.heads * _FP32 + offsets) + table
    return _Kernel(
        operator="memory_attention", name="gradient of keys", programs=programs, least_bytes=least,
        least_flops=4 * 2 * shape.tokens**2 * shape.width,
    )  # fmt: skip
