"""Problems for the C++ encoders of control: sizes, numbers, and the reference's answer to the same in float64."""

import dataclasses

import torch
from torch import Tensor

from relic_kernels.control_encoders import ControlEncoders, ControlInputs, ControlWeights, EncodedControl, Layers
from relic_kernels.control_encoders.reference import control_encoders
from tests.relic_kernels.closeness import assert_close

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.2e-2}
POSE_SCALE = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of a problem; the first is the mini world's."""

    cases: int = 1
    frames: int = 4
    actions: int = 13
    channels: int = 16
    grid: tuple[int, int] = (6, 10)
    side: int = 2
    octaves: int = 4
    dim: int = 320
    blocks: int = 8
    guided: bool = True

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


CASES = {
    "mini": Case(),
    "two cases, nothing known": Case(cases=2, guided=False, blocks=2, dim=64),
    "a token": Case(grid=(1, 1), blocks=1, dim=48),
    "odd sizes": Case(cases=3, frames=2, actions=7, channels=2, grid=(7, 1), side=3, octaves=0, dim=22, blocks=3),
    "all lanes, one pixel frame": Case(frames=1, actions=2, channels=4, grid=(4, 16), side=1, dim=50, blocks=2),
    "lanes that end between vectors": Case(cases=2, grid=(3, 11), dim=96, octaves=6, blocks=1),
}


def layers_of(case: Case, inputs: int) -> Layers:
    sizes = [inputs, *[case.dim] * (case.blocks + 1)]
    return [(torch.randn(case.dim, size) * 1.5 * size**-0.5, 0.2 * torch.randn(case.dim)) for size in sizes]


def weights_of(case: Case) -> ControlWeights:
    torch.manual_seed(3)
    area = case.side**2
    patch, cells = (case.channels + 2 * case.frames) * area, case.channels * area
    return ControlWeights(
        action_scale=0.5 + torch.rand(case.actions),
        action=layers_of(case, case.frames * case.actions),
        rays=torch.nn.functional.normalize(torch.randn(case.tokens, 3), dim=-1),
        pose=layers_of(case, 18 * (3 + 2 * case.octaves)),
        guide=torch.randn(case.dim, patch) * patch**-0.5 if case.guided else None,
        skip=torch.randn(cells, cells) * cells**-0.5 if case.guided else None,
    )


def inputs_of(case: Case) -> ControlInputs:
    torch.manual_seed(4)
    before = (case.cases, 1, case.frames)
    rows, columns = case.grid
    channels = case.channels + 2 * case.frames
    return ControlInputs(
        actions=torch.randn(*before, case.actions),
        rotations_w2c=torch.linalg.qr(torch.randn(*before, 3, 3))[0].contiguous(),
        positions=torch.randn(*before, 3),
        guide=torch.randn(case.cases, channels, 1, rows * case.side, columns * case.side) if case.guided else None,
    )


def _cast(layers: Layers, dtype: torch.dtype) -> Layers:
    return [(weight.to(dtype), bias.to(dtype)) for weight, bias in layers]


def weights_in(weights: ControlWeights, dtype: torch.dtype, wide: torch.dtype) -> ControlWeights:
    return ControlWeights(
        action_scale=weights.action_scale.to(wide),
        action=_cast(weights.action, dtype),
        rays=weights.rays.to(wide),
        pose=_cast(weights.pose, dtype),
        guide=None if weights.guide is None else weights.guide.to(dtype),
        skip=None if weights.skip is None else weights.skip.to(wide),
    )


def doubled(inputs: ControlInputs) -> ControlInputs:
    values: dict[str, Tensor | None] = vars(inputs)
    return ControlInputs(**{name: None if x is None else x.double() for name, x in values.items()})


class Problem:
    """One case in one precision."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.case, self.dtype = case, dtype
        self.weights = weights_in(weights_of(case), dtype, torch.float32)
        self.inputs = inputs_of(case)

    def encoders(self) -> ControlEncoders:
        case = self.case
        return ControlEncoders(self.weights, case.octaves, POSE_SCALE, case.grid[1], case.side)

    def run(self, threads: int = 1) -> EncodedControl:
        return self.encoders()(self.inputs, threads)

    def exactly(self) -> EncodedControl:
        weights = weights_in(self.weights, torch.float64, torch.float64)
        return control_encoders(weights, self.case.octaves, POSE_SCALE, self.case.side, doubled(self.inputs))

    def check(self, got: EncodedControl) -> None:
        """Fail unless it is the reference's answer, in the precision of the problem."""
        for name, exact in vars(self.exactly()).items():
            found = getattr(got, name)
            assert (found is None) == (exact is None) == (not self.case.guided and name in ("guide", "skip"))
            if found is not None:
                narrow = name != "skip"
                assert found.dtype == (self.dtype if narrow else torch.float32)
                assert_close(name, found, exact, TOLERANCE[self.dtype if narrow else torch.float32])
