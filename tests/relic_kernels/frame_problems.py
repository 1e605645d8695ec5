"""Problems for the C++ network: sizes, numbers, and the reference's answer to the same numbers in float64."""

import dataclasses
from typing import TypeVar

import torch
from torch import Tensor

from relic_kernels.frame_network import BlockInputs, BlockWeights, EndWeights, FrameInputs, FrameNetwork, Gelu, Level
from relic_kernels.frame_network.reference import frame_network

Tensors = TypeVar("Tensors", EndWeights, BlockWeights, FrameInputs, Level, BlockInputs)
EPS = 1e-6
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.2e-2}
TOLERANCE_IN_BYTES = {torch.float32: 4e-3, torch.bfloat16: 2e-2}
"""A number that lies between two bytes is rounded either way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of a problem; the first is the mini world's, with some memory."""

    cases: int = 1
    channels: int = 16
    grid: tuple[int, int] = (6, 10)
    side: int = 2
    heads: int = 5
    width: int = 64
    hidden: int = 1280
    text: int = 32
    memory: int = 300
    poses: int = 60
    layers: int = 2
    guided: bool = True
    gelu: Gelu = "none"

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def dim(self) -> int:
        return self.heads * self.width

    @property
    def patch(self) -> int:
        return self.channels * self.side**2


CASES = {
    "mini": Case(),
    "two cases, nothing known": Case(cases=2, memory=129, poses=1, layers=1, guided=False),
    "no memory": Case(memory=60),
    "long memory, whose ends are ragged": Case(memory=1213),
    "a token": Case(grid=(1, 1), poses=1, memory=1),
    "odd sizes": Case(
        cases=3, channels=2, grid=(7, 1), side=3, heads=3, width=10, hidden=26, text=1, memory=63, poses=1, layers=3,
        gelu="tanh",
    ),
    "all lanes, wide heads": Case(grid=(4, 16), heads=1, width=128, hidden=66, text=5, memory=1000, poses=64, layers=1),
    "small, keys of two blocks": Case(
        channels=6, grid=(2, 2), side=1, heads=2, width=24, hidden=64, text=4, memory=121, poses=4
    ),
    "outputs that fill no two tiles": Case(grid=(3, 5), heads=3, width=32, hidden=80, text=3, memory=77, poses=1),
}  # fmt: skip


IN_BYTES = [name for name, case in CASES.items() if case.dim % 4 == 0 == case.hidden % 4]


def ends_of(case: Case) -> EndWeights:
    torch.manual_seed(99)
    return EndWeights(
        embed=torch.randn(case.dim, case.channels, 1, case.side, case.side) * case.patch**-0.5,
        embed_bias=0.2 * torch.randn(case.dim),
        out=torch.randn(case.patch, case.dim) * case.dim**-0.5,
        out_bias=0.2 * torch.randn(case.patch),
    )


def weights_of(case: Case, seed: int) -> BlockWeights:
    torch.manual_seed(seed)
    dim = case.dim
    values: dict[str, Tensor] = {}
    for field in dataclasses.fields(BlockWeights):
        if field.name == "modulation":
            values[field.name] = 0.3 * torch.randn(1, 6, dim)
        elif field.name.endswith("bias") or "norm" in field.name:
            size = case.hidden if field.name == "widen_bias" else dim
            values[field.name] = 0.2 * torch.randn(size) + (0 if field.name.endswith("bias") else 1)
        else:
            rows = case.hidden if field.name == "widen" else dim
            columns = case.hidden if field.name == "narrow" else dim
            values[field.name] = torch.randn(rows, columns) * columns**-0.5
    return BlockWeights(**values)


def frame_of(case: Case) -> FrameInputs:
    torch.manual_seed(7)
    angle = 6 * torch.rand(case.tokens, case.width // 2)
    height, width = (case.side * count for count in case.grid)
    return FrameInputs(
        latents=torch.randn(case.cases, case.channels, height, width),
        rotation=torch.polar(torch.ones_like(angle), angle),
        guide=0.3 * torch.randn(case.cases, case.tokens, case.dim) if case.guided else None,
        skip=torch.randn(case.cases, case.tokens, case.patch) if case.guided else None,
    )


def level_of(case: Case, seed: int = 0) -> Level:
    torch.manual_seed(70 + seed)
    return Level(
        sigma=[0.9 - 0.3 * i for i in range(case.cases)],
        modulation=0.3 * torch.randn(case.cases, 6, case.dim),
        ends_modulation=0.3 * torch.randn(case.cases, 2, case.dim),
    )


def inputs_of(case: Case, seed: int) -> BlockInputs:
    torch.manual_seed(1000 + seed)
    dim, head = case.dim, (case.heads, case.width)
    nothing = torch.full((case.cases, 1, case.tokens, *head), torch.nan)
    keys, values = torch.randn(2, case.cases, case.memory, *head)
    keys[:, : case.tokens] = values[:, : case.tokens] = torch.nan
    return BlockInputs(
        action=0.3 * torch.randn(case.cases, 1, 1, dim),
        pose=0.3 * torch.randn(case.cases, 1, case.poses, dim),
        text_k=torch.randn(case.cases, case.text, *head),
        text_v=torch.randn(case.cases, case.text, *head),
        keys=keys,
        values=values,
        own_k=nothing,
        own_v=nothing.clone(),
    )


def cast(one: Tensors, dtype: torch.dtype, *, wide: tuple[str, ...] = ()) -> Tensors:
    values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    copies = {
        name: value.clone() if name in wide else value.to(dtype, copy=True)
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    return dataclasses.replace(one, **copies)


WIDE = ("text_norm", "text_norm_bias", "modulation")
WIDE_OF_FRAME = ("latents", "rotation", "skip")


class Problem:
    """One case in one precision: what the C++ reads, and the reference's answer to the same numbers in float64."""

    def __init__(self, case: Case, dtype: torch.dtype, scale: float = 1.0, *, in_bytes: bool = False) -> None:
        self.case, self.in_bytes = case, in_bytes
        self.ends = cast(ends_of(case), dtype)
        self.layers = [cast(weights_of(case, i), dtype, wide=WIDE) for i in range(case.layers)]
        self.inputs = [cast(inputs_of(case, i), dtype) for i in range(case.layers)]
        frame, self.level = frame_of(case), level_of(case)
        self.frame = cast(dataclasses.replace(frame, latents=scale * frame.latents), dtype, wide=WIDE_OF_FRAME)
        self.exact_inputs = [cast(one, torch.float64) for one in self.inputs]
        self.exact = self.answer(self.exact_inputs)

    def sizes(self) -> tuple[int, int, float, Gelu]:
        return self.case.heads, self.case.side, EPS, self.case.gelu

    def answer(self, inputs: list[BlockInputs], latents: Tensor | None = None, level: Level | None = None) -> Tensor:
        layers = [cast(one, torch.float64) for one in self.layers]
        frame = cast(self.frame, torch.float64, wide=("rotation",))
        frame = dataclasses.replace(frame, rotation=frame.rotation.to(torch.complex128))
        if latents is not None:
            frame = dataclasses.replace(frame, latents=latents)
        level = cast(self.level if level is None else level, torch.float64)
        ends = cast(self.ends, torch.float64)
        return frame_network(ends, layers, *self.sizes(), frame, level, inputs, in_bytes=self.in_bytes)

    def network(self) -> FrameNetwork:
        return FrameNetwork(self.ends, self.layers, *self.sizes(), in_bytes=self.in_bytes)

    def run(self, threads: int = 1) -> Tensor:
        network = self.network()
        return network(self.frame, self.level, network.prepare(self.inputs), threads)
