"""Problems for the C++ picture networks: steps, numbers, and the reference's answer to the same numbers in float64."""

import dataclasses

import torch
from torch import Tensor

from relic_kernels.picture_network import Blocks, Layer, PictureNetwork, ResidualWeights, Step, reference

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8e-3}
TOLERANCE_IN_BYTES = {torch.float32: 2e-3, torch.bfloat16: 8e-3}
"""A number that lies between two bytes is rounded either way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of a problem of residual blocks alone."""

    channels: int
    hidden: int
    size: tuple[int, int]
    side: int = 3
    shifted: int = 0
    frames: int = 1
    streams: int = 1
    blocks: int = 2
    begun: bool = False


CASES = {
    "decoder at a quarter": Case(channels=128, hidden=256, size=(24, 40), shifted=16, begun=True),
    "encoder at an eighth, two moments": Case(channels=192, hidden=384, size=(12, 20), shifted=24, frames=2),
    "depth, deepest": Case(channels=256, hidden=512, size=(6, 10), side=5),
    "streams": Case(channels=8, hidden=10, size=(5, 19), shifted=3, frames=6, streams=2, begun=True, blocks=3),
    "a row of one": Case(channels=2, hidden=2, size=(1, 1), side=1, shifted=2, frames=3),
    "wide kernel, ragged lanes": Case(channels=6, hidden=14, size=(7, 67), side=11, frames=2),
    "narrow, two moments of two streams": Case(
        channels=12, hidden=20, size=(9, 21), shifted=5, frames=4, streams=2, begun=True
    ),
    "few positions, odd parts": Case(channels=100, hidden=76, size=(5, 9), shifted=37, frames=3, begun=True),
}
IN_BYTES = [name for name, case in CASES.items() if case.channels % 4 == 0 == case.hidden % 4]


def weights_of(channels: int, hidden: int, side: int, dtype: torch.dtype) -> ResidualWeights:
    c, n = channels, hidden
    values = {
        "norm": 1 + 0.2 * torch.randn(c),
        "norm_bias": 0.2 * torch.randn(c),
        "depthwise": torch.randn(c, 1, side, side) / side,
        "depthwise_bias": 0.2 * torch.randn(c),
        "widen": torch.randn(n, c) * c**-0.5,
        "widen_bias": 0.2 * torch.randn(n),
        "narrow": torch.randn(c, n) * n**-0.5,
        "narrow_bias": 0.2 * torch.randn(c),
    }
    return ResidualWeights(**{name: value.to(dtype) for name, value in values.items()})


def layer(
    inputs: int, outputs: int, source: int, target: int, dtype: torch.dtype, side: int = 0, **settings: int
) -> Layer:
    """A layer of random weights, a convolution where the kernel has a side."""
    weight = torch.randn(outputs, inputs, *[side] * 2 * (side > 0)) * (inputs * max(1, side) ** 2) ** -0.5
    bias = 0.2 * torch.randn(outputs)
    return Layer(weight=weight.to(dtype), bias=bias.to(dtype), source=source, target=target, **settings)  # type: ignore[arg-type]


@dataclasses.dataclass(eq=False)
class Problem:
    """A network and what it reads."""

    x: Tensor
    steps: list[Step]
    past: list[Tensor | None]
    streams: int = 1

    def run(self) -> tuple[Tensor, list[Tensor]]:
        return PictureNetwork(self.x.shape[1], self.steps)(self.x, self.past, self.streams)

    def exactly(self) -> tuple[Tensor, list[Tensor]]:
        past = [None if one is None else one.double() for one in self.past]
        return reference.picture_network(self.x.double(), [wide(step) for step in self.steps], past, self.streams)


def wide(step: Step) -> Step:
    """The same step in float64."""
    if isinstance(step, Layer):
        return dataclasses.replace(step, weight=step.weight.double(), bias=step.bias.double())
    blocks = [ResidualWeights(**{name: value.double() for name, value in vars(one).items()}) for one in step.blocks]
    return dataclasses.replace(step, blocks=blocks)


def of_blocks(case: Case, dtype: torch.dtype, *, in_bytes: bool = False) -> Problem:
    torch.manual_seed(0)
    blocks = [weights_of(case.channels, case.hidden, case.side, dtype) for _ in range(case.blocks)]
    past = [torch.randn(case.streams, case.shifted, *case.size) if case.begun else None for _ in blocks]
    steps: list[Step] = [Blocks(blocks=blocks, source=0, target=1, shifted=case.shifted, in_bytes=in_bytes)]
    return Problem(torch.randn(case.frames, case.channels, *case.size), steps, past, case.streams)


def of_all_steps(dtype: torch.dtype, *, in_bytes: bool = False, size: tuple[int, int] = (12, 28)) -> Problem:
    """Two moments of two streams through a network of three resolutions that has all kinds of steps."""
    torch.manual_seed(0)
    height, width = size

    def blocks(channels: int, hidden: int, side: int, shifted: int, source: int, target: int) -> Blocks:
        weights = [weights_of(channels, hidden, side, dtype) for _ in range(2)]
        return Blocks(blocks=weights, source=source, target=target, shifted=shifted, in_bytes=in_bytes)

    steps: list[Step] = [
        layer(6, 20, 0, 1, dtype, side=3),
        layer(6, 20, 0, 1, dtype, adds=True),
        blocks(20, 36, 3, 7, source=1, target=1),
        layer(82, 44, 1, 2, dtype, fold=2, coordinates=True),
        blocks(44, 52, 5, 0, source=2, target=3),
        blocks(44, 20, 3, 44, source=3, target=3),
        layer(44, 80, 3, 1, dtype, unfold=2, adds=True),
        blocks(20, 24, 3, 3, source=1, target=4),
        layer(20, 32, 4, 5, dtype, unfold=4),
    ]
    past = [torch.randn(2, 7, height, width), None, None, None, None, torch.randn(2, 44, height // 2, width // 2)]
    return Problem(torch.randn(4, 6, height, width), steps, [*past, None, torch.randn(2, 3, height, width)], 2)
