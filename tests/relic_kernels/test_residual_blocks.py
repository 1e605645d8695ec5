"""The C++ convolution blocks compute what the reference does in float64."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relic_kernels.dispatch import force
from relic_kernels.residual_blocks import ResidualBlocks, ResidualWeights, pointwise, reference, runs_natively
from tests.relic_kernels.closeness import assert_close

pytestmark = pytest.mark.native

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8e-3}
TOLERANCE_IN_BYTES = {torch.float32: 2e-3, torch.bfloat16: 8e-3}
"""A number that lies between two bytes is rounded either way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of a problem."""

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
}
IN_BYTES = [name for name, case in CASES.items() if case.channels % 4 == 0 == case.hidden % 4]


def weights_of(case: Case, dtype: torch.dtype) -> ResidualWeights:
    c, n = case.channels, case.hidden
    values = {
        "norm": 1 + 0.2 * torch.randn(c),
        "norm_bias": 0.2 * torch.randn(c),
        "depthwise": torch.randn(c, 1, case.side, case.side) / case.side,
        "depthwise_bias": 0.2 * torch.randn(c),
        "widen": torch.randn(n, c) * c**-0.5,
        "widen_bias": 0.2 * torch.randn(n),
        "narrow": torch.randn(c, n) * n**-0.5,
        "narrow_bias": 0.2 * torch.randn(c),
    }
    return ResidualWeights(**{name: value.to(dtype) for name, value in values.items()})


def wide(one: ResidualWeights) -> ResidualWeights:
    return ResidualWeights(**{name: value.double() for name, value in vars(one).items()})


def tensors(one: ResidualWeights) -> list[Tensor]:
    return list(vars(one).values())


def problem(case: Case, dtype: torch.dtype) -> tuple[Tensor, list[ResidualWeights], list[Tensor | None]]:
    torch.manual_seed(0)
    blocks = [weights_of(case, dtype) for _ in range(case.blocks)]
    past = [torch.randn(case.streams, case.shifted, *case.size) if case.begun else None for _ in blocks]
    return torch.randn(case.frames, case.channels, *case.size), blocks, past


def exactly(
    case: Case, x: Tensor, blocks: list[ResidualWeights], past: list[Tensor | None], *, in_bytes: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The reference's answer in float64."""
    before = [None if one is None else one.double() for one in past]
    layers = [wide(one) for one in blocks]
    return reference.residual_blocks(x.double(), layers, before, case.shifted, case.streams, in_bytes=in_bytes)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_blocks_are_the_reference_s_in_float64(
    name: str, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    case = CASES[name]
    x, blocks, past = problem(case, dtype)
    given = x.clone(), [None if one is None else one.clone() for one in past]
    got, kept = ResidualBlocks(blocks, case.shifted)(x, past, case.streams)
    exact, exact_kept = exactly(case, x, blocks, past)
    assert got.dtype == torch.float32
    assert_close("x", got, exact, TOLERANCE[dtype])
    for one, wanted in zip(kept, exact_kept, strict=True):
        assert one.shape == wanted.shape
        if case.shifted:
            assert_close("kept", one, wanted, TOLERANCE[dtype])
    assert torch.equal(x, given[0]), "what is given is not written"
    assert all(a is b or torch.equal(a, b) for a, b in zip(past, given[1], strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", IN_BYTES)
def test_layers_of_bytes_are_the_reference_s(
    name: str, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch, require: Callable[..., None]
) -> None:
    require("bytes")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    case = CASES[name]
    x, blocks, past = problem(case, dtype)
    got, kept = ResidualBlocks(blocks, case.shifted, in_bytes=True)(x, past, case.streams)
    exact, exact_kept = exactly(case, x, blocks, past, in_bytes=True)
    assert_close("x", got, exact, TOLERANCE_IN_BYTES[dtype])
    for one, wanted in zip(kept, exact_kept, strict=True):
        if case.shifted:
            assert_close("kept", one, wanted, TOLERANCE_IN_BYTES[dtype])
    whole, _ = exactly(case, x, blocks, past)
    assert_close("x", got, whole, 3e-2)
    assert (got - whole).norm() > 1e-3 * whole.norm(), "bytes were multiplied"


def test_widths_that_bytes_do_not_fill_are_named(require: Callable[..., None]) -> None:
    require("bytes")
    _, blocks, _ = problem(CASES["streams"], torch.float32)
    with pytest.raises(ValueError, match="a width of 10: layers of bytes take multiples of 4"):
        ResidualBlocks(blocks, in_bytes=True)


def test_results_do_not_depend_on_the_threads(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES.values():
        x, blocks, past = problem(case, dtype)
        results = []
        for threads in (1, 2, 3, 7):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            results.append(ResidualBlocks(blocks, case.shifted)(x, past, case.streams))
        assert all(torch.equal(got, results[0][0]) for got, _ in results)
        assert all(torch.equal(a, b) for _, kept in results for a, b in zip(kept, results[0][1], strict=True))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("shape", "fold", "unfold"),
    [
        ((2, 96, 24, 40), 1, 1),
        ((1, 16, 6, 10), 1, 2),
        ((3, 2, 1, 1), 1, 1),
        ((1, 50, 5, 13), 1, 4),
        ((2, 3, 24, 40), 4, 1),
        ((1, 12, 96, 160), 8, 1),
        ((1, 6, 10, 14), 2, 2),
    ],
)
def test_pointwise_layers_are_the_reference_s(
    shape: tuple[int, ...],
    fold: int,
    unfold: int,
    dtype: torch.dtype,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    inputs, outputs = shape[1] * fold**2, 34 if unfold == 1 else 48
    weight = (torch.randn(outputs, inputs) * inputs**-0.5).to(dtype)
    x, bias = torch.randn(shape), torch.randn(outputs).to(dtype)
    exact = reference.pointwise(x.double(), weight.double(), bias.double(), fold, unfold)
    assert_close("out", pointwise(x, weight, bias, fold, unfold), exact, TOLERANCE[dtype])
    turned = x.to(memory_format=torch.channels_last)
    assert torch.equal(pointwise(turned, weight, bias, fold, unfold), pointwise(x, weight, bias, fold, unfold))


def test_activations_far_from_zero_stay_finite_and_exact(dtype: torch.dtype) -> None:
    case = CASES["wide kernel, ragged lanes"]
    x, (block, *_), _ = problem(case, dtype)
    block = dataclasses.replace(block, widen=(300 * block.widen).to(dtype), narrow=(block.narrow / 300).to(dtype))
    got, _ = ResidualBlocks([block])(x, [None])
    exact, _ = reference.residual_blocks(x.double(), [wide(block)], [None], 0)
    assert_close("x", got, exact, TOLERANCE[dtype])


def test_frames_one_by_one_are_frames_together() -> None:
    case = dataclasses.replace(CASES["streams"], frames=8)
    x, blocks, past = problem(case, torch.float32)
    run = ResidualBlocks(blocks, case.shifted)
    whole, end = run(x, past, case.streams)
    shown = []
    for moment in x.split(case.streams):
        out, past = run(moment, past, case.streams)  # type: ignore[assignment]
        shown.append(out)
    assert torch.equal(torch.cat(shown), whole)
    assert all(torch.equal(a, b) for a, b in zip(past, end, strict=True))


def test_tensors_that_do_not_fit_are_named() -> None:
    x, (block, *_), _ = problem(CASES["streams"], torch.float32)
    run = ResidualBlocks([block], 3)
    with pytest.raises(ValueError, match="6 frames of 4 streams"):
        run(x, [None], 4)
    with pytest.raises(ValueError, match=r"a past that is not \(2, 3, 5, 19\)"):
        run(x, [torch.zeros(1, 3, 5, 19)], 2)
    with pytest.raises(ValueError, match=r"x \(6, 6, 5, 19\) must be"):
        run(x[:, :6], [None], 2)
    with pytest.raises(ValueError, match=r"norm is \(3,\)"):
        ResidualBlocks([dataclasses.replace(block, norm=torch.zeros(3))])
    with pytest.raises(ValueError, match="a kernel of 4x4"):
        ResidualBlocks([dataclasses.replace(block, depthwise=torch.zeros(8, 1, 4, 4))])
    with pytest.raises(ValueError, match="9 shifted channels of 8"):
        ResidualBlocks([block], 9)
    with pytest.raises(ValueError, match="both must be even"):
        pointwise(x, torch.zeros(5, 8), torch.zeros(5))
    with pytest.raises(ValueError, match=r"x \(6, 8, 5, 19\) folded by 1 must have 6 channels"):
        pointwise(x, torch.zeros(4, 6), torch.zeros(4))
    with pytest.raises(ValueError, match=r"not in torch\.float64"):
        pointwise(x, torch.zeros(4, 8).double(), torch.zeros(4).double())


def test_weights_that_were_cast_or_replaced_are_missed() -> None:
    _, (block, other, *_), _ = problem(CASES["streams"], torch.float32)
    run = ResidualBlocks([block])
    assert run.holds(tensors(block))
    assert not run.holds(tensors(other))
    block.narrow.data = block.narrow.clone()
    assert not run.holds(tensors(block))
    assert copy.deepcopy({"run": run}) == {"run": None}


def test_gradients_mixed_precision_and_forced_operators_keep_it_out() -> None:
    x, weight = torch.zeros(1, 2, 1, 1), torch.zeros(2, 2)
    assert not runs_natively(x, weight), "gradients"
    with torch.no_grad():
        assert runs_natively(x, weight)
        assert not runs_natively(x, weight.double())
        with force("reference"):
            assert not runs_natively(x, weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert not runs_natively(x, weight)
