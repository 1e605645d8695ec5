"""The C++ picture networks compute what the reference does in float64."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch

from relic_kernels.dispatch import force
from relic_kernels.native import may_run
from relic_kernels.picture_network import Blocks, Layer, PictureNetwork, fits
from tests.relic_kernels.closeness import assert_close
from tests.relic_kernels.picture_problems import (
    CASES,
    IN_BYTES,
    TOLERANCE,
    TOLERANCE_IN_BYTES,
    Problem,
    layer,
    of_all_steps,
    of_blocks,
    weights_of,
)

pytestmark = pytest.mark.native

SIZES = [(12, 28), (2, 2), (6, 130)]


def check(problem: Problem, tolerance: float) -> None:
    """What the network gives and keeps, beside the reference; what is given is not written."""
    before = copy.deepcopy((problem.x, problem.past))
    got, kept = problem.run()
    exact, exact_kept = problem.exactly()
    assert got.dtype == torch.float32
    assert_close("out", got, exact, tolerance)
    for one, wanted in zip(kept, exact_kept, strict=True):
        assert one.shape == wanted.shape
        if one.numel():
            assert_close("kept", one, wanted, tolerance)
    assert torch.equal(problem.x, before[0])
    assert all(a is b or torch.equal(a, b) for a, b in zip(problem.past, before[1], strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_blocks_are_the_reference_s_in_float64(
    name: str, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    check(of_blocks(CASES[name], dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", IN_BYTES)
def test_layers_of_bytes_are_the_reference_s(
    name: str, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch, require: Callable[..., None]
) -> None:
    require("bytes")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    problem = of_blocks(CASES[name], dtype, in_bytes=True)
    check(problem, TOLERANCE_IN_BYTES[dtype])
    got, (whole, _) = problem.run()[0], of_blocks(CASES[name], dtype).exactly()
    assert_close("x", got, whole, 3e-2)
    assert (got - whole).norm() > 1e-3 * whole.norm(), "bytes were multiplied"


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
        ((2, 2, 9, 21), 3, 1),
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
    inputs, outputs, x = shape[1] * fold**2, 34 if unfold == 1 else 48, torch.randn(shape)
    for places in (False, True):
        made = layer(inputs + 2 * places, outputs, 0, 1, dtype, fold=fold, unfold=unfold, coordinates=places)
        problem = Problem(x, [made], [])
        check(problem, TOLERANCE[dtype])
    turned = dataclasses.replace(problem, x=x.to(memory_format=torch.channels_last))
    assert torch.equal(turned.run()[0], problem.run()[0])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("shape", [(1, 16, 12, 20), (2, 4, 5, 13), (3, 2, 1, 1), (1, 6, 2, 131)])
def test_convolutions_are_the_reference_s(
    shape: tuple[int, ...], side: int, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    for unfold in (1, 2):
        made = layer(shape[1], 36, 0, 1, dtype, side=side, unfold=unfold)
        check(Problem(torch.randn(shape), [made], []), TOLERANCE[dtype])


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("size", SIZES)
def test_steps_follow_each_other(
    size: tuple[int, int], dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    check(of_all_steps(dtype, size=size), TOLERANCE[dtype])


def test_results_do_not_depend_on_the_threads(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [of_blocks(case, dtype) for case in CASES.values()] + [of_all_steps(dtype, size=size) for size in SIZES]
    for problem in problems:
        check_threads(problem, monkeypatch)


def test_results_in_bytes_do_not_depend_on_the_threads(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, require: Callable[..., None]
) -> None:
    require("bytes")
    problems = [of_blocks(CASES[name], dtype, in_bytes=True) for name in IN_BYTES]
    for problem in [*problems, *(of_all_steps(dtype, in_bytes=True, size=size) for size in SIZES)]:
        check_threads(problem, monkeypatch)


def check_threads(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(problem.run())
    assert all(torch.equal(got, results[0][0]) for got, _ in results)
    assert all(torch.equal(a, b) for _, kept in results for a, b in zip(kept, results[0][1], strict=True))


def test_what_was_in_the_room_is_not_read(poisoned_memory: None) -> None:
    small, large = of_all_steps(torch.float32, size=(2, 2)), of_all_steps(torch.float32)
    first = small.run()[0]
    bad = Problem(torch.full_like(large.x, float("nan")), large.steps, large.past, large.streams)
    assert bad.run()[0].isnan().all()
    assert torch.equal(small.run()[0], first)


@pytest.mark.parametrize("unread", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_frames_left_out_change_no_other_number(
    threads: int, unread: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    still = Problem(torch.randn(4, 6, 4, 8), [layer(24, 16, 0, 1, dtype, fold=2)], [])
    for problem in (of_all_steps(dtype), of_blocks(CASES["streams"], dtype), still):
        network = PictureNetwork(problem.x.shape[1], problem.steps)
        whole, end = network(problem.x, problem.past, problem.streams)
        got, kept = network(problem.x, problem.past, problem.streams, unread)
        assert torch.equal(got, whole[unread:])
        assert all(torch.equal(a, b) for a, b in zip(kept, end, strict=True))
    with pytest.raises(ValueError, match="4 frames unread of 4"):
        network(still.x, unread=4)


def test_activations_far_from_zero_stay_finite_and_exact(dtype: torch.dtype) -> None:
    problem = of_blocks(CASES["wide kernel, ragged lanes"], dtype)
    (step,) = problem.steps
    assert isinstance(step, Blocks)
    block, *_ = step.blocks
    block = dataclasses.replace(block, widen=(300 * block.widen).to(dtype), narrow=(block.narrow / 300).to(dtype))
    check(Problem(problem.x, [dataclasses.replace(step, blocks=[block])], [None]), TOLERANCE[dtype])


def test_frames_one_by_one_are_frames_together() -> None:
    problem = of_all_steps(torch.float32)
    network = PictureNetwork(6, problem.steps)
    whole, end = network(problem.x, problem.past, 2)
    shown, past = [], problem.past
    for moment in problem.x.split(2):
        out, past = network(moment, past, 2)  # type: ignore[assignment]
        shown.append(out)
    assert torch.equal(torch.cat(shown), whole)
    assert all(torch.equal(a, b) for a, b in zip(past, end, strict=True))
    begun = [torch.zeros_like(one) for one in end]
    assert torch.equal(network(problem.x, (), 2)[0], network(problem.x, begun, 2)[0]), "without a past"


def test_tensors_that_do_not_fit_are_named() -> None:
    problem = of_blocks(CASES["streams"], torch.float32)
    x, run = problem.x, PictureNetwork(8, problem.steps)
    with pytest.raises(ValueError, match="6 frames of 4 streams"):
        run(x, [None] * 3, 4)
    with pytest.raises(ValueError, match="0 frames of 2 streams"):
        run(x[:0], [None] * 3, 2)
    with pytest.raises(ValueError, match="2 pasts of 3 blocks"):
        run(x, [None] * 2, 2)
    with pytest.raises(ValueError, match=r"a past \(1, 3, 5, 19\) on cpu must be \(2, 3, 5, 19\)"):
        run(x, [None, torch.zeros(1, 3, 5, 19), None], 2)
    with pytest.raises(ValueError, match=r"x \(6, 6, 5, 19\) on cpu must be \(N, 8, H, W\)"):
        run(x[:, :6])
    with pytest.raises(ValueError, match="pictures of 5x19 cannot be folded by 2: 5x19 went in"):
        PictureNetwork(8, [layer(32, 4, 0, 1, torch.float32, fold=2)])(x)
    differing = [layer(8, 4, 0, 1, torch.float32), layer(8, 16, 0, 1, torch.float32, unfold=2)]
    with pytest.raises(ValueError, match="pictures 1 of 5x19 cannot become 10x38"):
        PictureNetwork(8, differing)(x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": torch.zeros(3)}, r"norm is \(3,\)"),
        ({"depthwise": torch.zeros(8, 1, 4, 4)}, "a depth-wise kernel of 4x4"),
        ({"depthwise": torch.zeros(8, 1, 13, 13)}, "a depth-wise kernel of 13x13"),
        ({"widen": torch.zeros(9, 8)}, "8 channels and 9 hidden ones: both must be even"),
        ({"narrow": torch.zeros(8, 10).double()}, "narrow is .* it must be .* of torch.float32"),
    ],
)
def test_blocks_that_do_not_fit_are_named(changes: dict[str, torch.Tensor], message: str) -> None:
    block = dataclasses.replace(weights_of(8, 10, 3, torch.float32), **changes)
    with pytest.raises(ValueError, match=message):
        PictureNetwork(8, [Blocks(blocks=[block], source=0, target=1)])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (layer(8, 5, 0, 1, torch.float32), "a layer of 8 by 5 channels: both must be even"),
        (layer(6, 4, 0, 1, torch.float32), r"weight is \(4, 6\) .* it must be \(4, 8\)"),
        (layer(8, 6, 0, 1, torch.float32, unfold=2), "6 outputs do not unfold by 2"),
        (layer(8, 4, 0, 1, torch.float32, side=4), "a kernel of 4x4: its side must be odd"),
        (layer(32, 4, 0, 1, torch.float32, side=3, fold=2), "a convolution does not fold, and fold is 2"),
        (layer(10, 4, 0, 1, torch.float32, side=3, coordinates=True), "a convolution reads no coordinates"),
        (layer(8, 4, 0, 1, torch.float32, adds=True), "pictures 1 are added to unwritten"),
        (layer(8, 4, 2, 1, torch.float32), "pictures 2 are read before they are written"),
        (layer(8, 8, 0, 0, torch.float32), "pictures 0 cannot be written: 1 to 7 can"),
        (layer(8, 8, 0, 8, torch.float32), "pictures 8 cannot be written: 1 to 7 can"),
        (layer(8, 4, 0, 1, torch.float64), r"not in torch\.float64"),
    ],
)
def test_layers_that_do_not_fit_are_named(step: Layer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PictureNetwork(8, [step])


def test_steps_that_do_not_fit_each_other_are_named(require: Callable[..., None]) -> None:
    first, block = layer(8, 4, 0, 1, torch.float32), weights_of(8, 10, 3, torch.float32)
    with pytest.raises(ValueError, match="a layer reads pictures 1, and would write them"):
        PictureNetwork(8, [first, layer(4, 4, 1, 1, torch.float32)])
    with pytest.raises(ValueError, match="pictures 1 of 4 channels cannot become 6"):
        PictureNetwork(8, [first, layer(8, 6, 0, 1, torch.float32)])
    with pytest.raises(ValueError, match="9 shifted channels of 8"):
        PictureNetwork(8, [Blocks(blocks=[block], source=0, target=1, shifted=9)])
    require("bytes")
    with pytest.raises(ValueError, match="a width of 10: layers of bytes take multiples of 4"):
        PictureNetwork(8, [Blocks(blocks=[block], source=0, target=1, in_bytes=True)])


def test_weights_that_the_cpp_does_not_take_are_known() -> None:
    steps = of_all_steps(torch.float32).steps
    assert fits(torch.float32, steps)
    assert not fits(torch.bfloat16, steps)
    assert not fits(torch.float32, [*steps, layer(3, 4, 0, 1, torch.float32)])
    assert not fits(torch.float32, [*steps, Blocks(blocks=[weights_of(4, 7, 3, torch.float32)], source=0, target=1)])
    turned = layer(4, 4, 0, 1, torch.float32, side=3)
    turned = dataclasses.replace(turned, weight=turned.weight.to(memory_format=torch.channels_last))
    assert not fits(torch.float32, [turned])


def test_weights_that_were_cast_are_missed() -> None:
    problem = of_all_steps(torch.float32)
    network = PictureNetwork(6, problem.steps)
    assert network.holds()
    (weights,) = (step for step in problem.steps[:3] if isinstance(step, Blocks))
    weights.blocks[1].narrow.data = weights.blocks[1].narrow.clone()
    assert not network.holds()
    assert copy.deepcopy({"network": network}) == {"network": None}


def test_gradients_mixed_precision_and_forced_operators_keep_it_out() -> None:
    x = torch.zeros(1, 2, 1, 1)
    assert not may_run(torch.float32, x), "gradients"
    with torch.no_grad():
        assert may_run(torch.float32, x)
        assert not may_run(torch.float64, x)
        with force("reference"):
            assert not may_run(torch.float32, x)
        with torch.autocast("cpu", torch.bfloat16):
            assert not may_run(torch.float32, x)
