"""The C++ network computes what the reference does in float64, for every size, precision and number of threads."""

import dataclasses
import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relic_kernels.frame_network import FrameNetwork, Gelu, Step
from tests.relic_kernels.closeness import assert_close
from tests.relic_kernels.frame_problems import (
    CASES,
    EPS,
    IN_BYTES,
    TOLERANCE,
    TOLERANCE_IN_BYTES,
    Problem,
    cast,
    level_of,
)

pytestmark = pytest.mark.native


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_passes_are_the_reference_s_in_float64(name: str, dtype: torch.dtype, threads: int) -> None:
    problem = Problem(CASES[name], dtype)
    got = problem.run(threads)
    assert got.dtype == torch.float32
    assert_close("velocity", got, problem.exact, TOLERANCE[dtype])
    for one, exact in zip(problem.inputs, problem.exact_inputs, strict=True):
        for written in ("own_k", "own_v", "keys", "values"):
            assert_close(written, getattr(one, written), getattr(exact, written), TOLERANCE[dtype])
        own = problem.case.tokens
        assert torch.equal(one.keys[:, own:].double(), exact.keys[:, own:])
        assert torch.equal(one.values[:, own:].double(), exact.values[:, own:])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", IN_BYTES)
def test_layers_of_bytes_are_the_reference_s(
    name: str, dtype: torch.dtype, threads: int, require: Callable[..., None]
) -> None:
    require("bytes")
    problem = Problem(CASES[name], dtype, in_bytes=True)
    assert_close("velocity", problem.run(threads), problem.exact, TOLERANCE_IN_BYTES[dtype])
    for one, exact in zip(problem.inputs, problem.exact_inputs, strict=True):
        for written in ("own_k", "own_v", "keys", "values"):
            assert_close(written, getattr(one, written), getattr(exact, written), TOLERANCE_IN_BYTES[dtype])


def test_bytes_lose_little(dtype: torch.dtype, require: Callable[..., None]) -> None:
    require("bytes")
    whole, problem = Problem(CASES["mini"], dtype), Problem(CASES["mini"], dtype, in_bytes=True)
    got = problem.run()
    assert_close("velocity", got, whole.exact, 3e-2)
    assert (got - whole.exact).norm() > 2e-3 * whole.exact.norm(), "bytes were multiplied"


@pytest.mark.parametrize("in_bytes", [False, True])
def test_results_do_not_depend_on_the_threads(dtype: torch.dtype, in_bytes: bool, require: Callable[..., None]) -> None:
    if in_bytes:
        require("bytes")
    case = CASES["long memory, whose ends are ragged"]
    results = [Problem(case, dtype, in_bytes=in_bytes).run(threads) for threads in (1, 2, 3, 7)]
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("scale", [1e-4, 300.0])
def test_bytes_take_any_scale_and_rows_of_zeros(scale: float, require: Callable[..., None]) -> None:
    require("bytes")
    problem = Problem(CASES["small, keys of two blocks"], torch.float32, in_bytes=True)
    changed = []
    for one in problem.layers:
        one.widen.mul_(scale)
        one.narrow.div_(scale)
        one.q[3], one.v[:] = 0, 0
        changed.append(dataclasses.replace(one, v_bias=torch.zeros_like(one.v_bias)))
    problem.layers = changed  # no value, so all that attention gathers is 0
    problem.inputs = [dataclasses.replace(one, values=torch.zeros_like(one.values)) for one in problem.inputs]
    exact = problem.answer([cast(one, torch.float64) for one in problem.inputs])
    assert_close("velocity", problem.run(), exact, TOLERANCE_IN_BYTES[torch.float32])


def test_weights_in_bytes_are_those_of_when_they_were_made(require: Callable[..., None]) -> None:
    require("bytes")
    problem = Problem(CASES["small, keys of two blocks"], torch.float32, in_bytes=True)
    network = problem.network()
    call = (problem.frame, problem.level, network.prepare(problem.inputs), 1)
    before = network(*call)
    problem.layers[0].out.mul_(2)
    assert torch.equal(network(*call), before)
    assert not torch.equal(problem.run(), before)
    problem.layers[0].out.data = problem.layers[0].out.clone()
    assert not network.holds()


def test_widths_that_bytes_do_not_fill_are_named(require: Callable[..., None]) -> None:
    require("bytes")
    with pytest.raises(ValueError, match="a width of 30: layers of bytes take multiples of 4"):
        Problem(CASES["odd sizes"], torch.float32, in_bytes=True).network()
    case = dataclasses.replace(CASES["a token"], hidden=66)
    with pytest.raises(ValueError, match="a width of 66"):
        Problem(case, torch.float32, in_bytes=True).network()


def test_a_processor_without_products_of_bytes_is_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("relic_kernels.native.library")
    monkeypatch.setattr(library, "why_not_bytes", lambda: "this processor has none: use float32")
    with pytest.raises(ValueError, match="cannot run in bytes: this processor has none: use float32"):
        Problem(CASES["a token"], torch.float32, in_bytes=True).network()


def test_cases_may_lie_apart_as_slices_of_a_buffer_do(dtype: torch.dtype) -> None:
    problem = Problem(CASES["odd sizes"], dtype)
    room = torch.full((3, 100, 3, 10), torch.nan, dtype=dtype)
    for i, one in enumerate(problem.inputs):
        keys = room.clone()[:, :63].copy_(one.keys)
        assert not keys.is_contiguous()
        problem.inputs[i] = dataclasses.replace(one, keys=keys)
    assert_close("velocity", problem.run(), problem.exact, TOLERANCE[dtype])


@pytest.mark.parametrize("scale", [1e-4, 300.0])
def test_small_and_large_latents_stay_exact(dtype: torch.dtype, scale: float) -> None:
    problem = Problem(CASES["odd sizes"], dtype, scale)
    assert_close("velocity", problem.run(), problem.exact, TOLERANCE[dtype])


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_activations_far_from_zero_stay_finite_and_exact(dtype: torch.dtype, gelu: Gelu) -> None:
    problem = Problem(dataclasses.replace(CASES["odd sizes"], layers=1, gelu=gelu), dtype)
    problem.layers = [
        dataclasses.replace(one, widen=(300 * one.widen).to(dtype), narrow=(one.narrow / 300).to(dtype))
        for one in problem.layers
    ]
    exact = problem.answer(problem.exact_inputs)
    assert_close("velocity", problem.run(), exact, TOLERANCE[dtype])


def test_sharp_attention_takes_one_key_and_late_peaks_win(dtype: torch.dtype) -> None:
    problem = Problem(CASES["small, keys of two blocks"], dtype)
    for one, exact in zip(problem.inputs, problem.exact_inputs, strict=True):
        for memory in (one, exact):
            memory.keys.mul_(40)  # logits of hundreds, whose largest may come last
            memory.keys[-1].mul_(3)
    exact = problem.answer(problem.exact_inputs)
    assert_close("velocity", problem.run(), exact, 3 * TOLERANCE[dtype])


def test_weights_are_read_where_they_lie_and_missed_when_they_move() -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    network = problem.network()
    call = (problem.frame, problem.level, network.prepare(problem.inputs), 1)
    before = network(*call)
    problem.layers[0].out.mul_(2)
    assert not torch.allclose(network(*call), before), "written in place"
    assert torch.equal(network(*call), problem.run())
    assert network.holds()
    before = network(*call)
    problem.layers[0].out.data = torch.zeros_like(problem.layers[0].out)
    assert not network.holds()
    assert torch.equal(network(*call), before), "by the weights of before, which are still there"
    network = problem.network()
    problem.ends.embed.data = torch.zeros_like(problem.ends.embed)
    assert not network.holds()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": torch.zeros(3, 62, 3, 10)}, r"keys is .* must be \(3, 63, 3, 10\)"),
        ({"pose": torch.zeros(3, 1, 3, 30)}, r"pose is \(3, 1, 3, 30\)"),
        ({"text_k": torch.zeros(3, 1, 3, 10).double()}, "text_k is .* of torch.float64"),
        ({"values": torch.zeros(3, 63, 10, 3).transpose(2, 3)}, "a case of values .* not contiguous"),
        ({"own_k": torch.zeros(3, 1, 7, 3, 12)}, r"must be \(3, 1, 7, 3, 10\)"),
        ({"text_v": torch.zeros(3, 2, 3, 10)}, r"must be \(3, 1, 3, 10\)"),
        ({"action": torch.zeros(2, 1, 1, 30)}, r"must be \(3, 1, 1, 30\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named_before_anything_is_written(changes: dict[str, Tensor], message: str) -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    problem.inputs[-1] = dataclasses.replace(problem.inputs[-1], **changes)
    with pytest.raises(ValueError, match=message):
        problem.run()
    assert problem.inputs[0].own_v.isnan().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": torch.zeros(3, 2, 39, 6)}, "latents of 13 x 2 tokens for inputs of 7"),
        ({"latents": torch.zeros(3, 2, 22, 3)}, r"must be \(3, 2, 21, 3\)"),
        ({"latents": torch.zeros(2, 2, 21, 3)}, r"must be \(3, 2, 21, 3\)"),
        ({"rotation": torch.zeros(7, 5)}, "rotation is .* must be .* of torch.complex64"),
        ({"guide": torch.zeros(3, 6, 30)}, "guide is"),
        ({"skip": torch.zeros(3, 7, 17)}, "skip is"),
    ],
)
def test_frames_that_do_not_fit_are_named(changes: dict[str, Tensor], message: str) -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    problem.frame = dataclasses.replace(problem.frame, **changes)
    with pytest.raises(ValueError, match=message):
        problem.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": [0.5]}, "1 noise levels for 3 cases"),
        ({"modulation": torch.zeros(3, 5, 30)}, "modulation is"),
        ({"ends_modulation": torch.zeros(3, 2, 30).double()}, "ends_modulation is"),
    ],
)
def test_levels_that_do_not_fit_are_named(changes: dict[str, Tensor], message: str) -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    problem.level = dataclasses.replace(problem.level, **changes)
    with pytest.raises(ValueError, match=message):
        problem.run()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["odd sizes", "two cases, nothing known", "all lanes, wide heads"])
def test_steps_are_passes_over_what_each_leaves(dtype: torch.dtype, name: str, threads: int) -> None:
    problem = Problem(CASES[name], dtype)
    network, exact_steps = problem.network(), [(0.75, -0.6, 0.25), (1.0, -0.3, 0.0), (0.5, -0.2, 0.5)]
    steps, exact = [], problem.frame.latents.double()
    for number, (keep, move, fresh) in enumerate(exact_steps):
        level, noise = level_of(problem.case, number), torch.randn_like(problem.frame.latents) if fresh else None
        steps.append(Step(level=level, keep=keep, move=move, fresh=fresh, noise=noise))
        inputs = [cast(one, torch.float64) for one in problem.inputs]
        exact = keep * exact + move * problem.answer(inputs, exact, level)
        exact += 0 if noise is None else fresh * noise.double()
    before = problem.frame.latents.clone()
    got = network.denoise(problem.frame, steps, network.prepare(problem.inputs), threads)
    assert_close("latents", got, exact, TOLERANCE[dtype])
    assert torch.equal(problem.frame.latents, before)
    for got_inputs, exact_inputs in zip(problem.inputs, inputs, strict=True):
        assert_close("own values", got_inputs.own_v, exact_inputs.own_v, 2 * TOLERANCE[dtype])


def test_steps_that_do_not_fit_are_named() -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    network, level, noise = problem.network(), problem.level, torch.zeros_like(problem.frame.latents)
    for steps, message in (
        ([], "no pass to run"),
        ([Step(level=level), Step(level=level, noise=noise)], "noise goes with a factor, and `fresh` is 0"),
        ([Step(level=level, fresh=0.5)], r"`fresh` is 0\.5"),
        ([Step(level=level, fresh=0.5, noise=noise[:2])], "noise is"),
    ):
        with pytest.raises(ValueError, match=message):
            network.denoise(problem.frame, steps, network.prepare(problem.inputs), 1)
    assert problem.inputs[0].own_v.isnan().all()


def test_own_keys_and_values_alone_are_those_of_a_pass(dtype: torch.dtype) -> None:
    problem = Problem(CASES["two cases, nothing known"], dtype)
    network = problem.network()
    prepared = network.prepare(problem.inputs)
    network(problem.frame, problem.level, prepared, 2)
    written = [[getattr(one, name).clone() for name in ("own_k", "own_v", "keys")] for one in problem.inputs]
    for one in problem.inputs:
        one.own_k.fill_(torch.nan)
        one.own_v.fill_(torch.nan)
    network.write_own(problem.frame, problem.level, prepared, 2)
    for one, exact in zip(problem.inputs, written, strict=True):
        for name, tensor in zip(("own_k", "own_v", "keys"), exact, strict=True):
            assert torch.equal(getattr(one, name), tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": torch.zeros(3, 6, 3, 10)}, "6 keys leave no room for the 7"),
        ({"own_k": torch.zeros(3, 1, 65, 3, 10)}, "a frame of 65 tokens: 1 to 64 fit"),
        ({"text_k": torch.zeros(3, 0, 3, 10)}, "a prompt without tokens"),
        ({"pose": torch.zeros(3, 1, 3, 30)}, "3 poses for 7 tokens"),
    ],
)
def test_inputs_of_no_frame_are_named(changes: dict[str, Tensor], message: str) -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    problem.inputs[0] = dataclasses.replace(problem.inputs[0], **changes)
    with pytest.raises(ValueError, match=message):
        problem.run()


def test_what_is_prepared_once_serves_every_pass(dtype: torch.dtype) -> None:
    problem = Problem(CASES["two cases, nothing known"], dtype)
    network = problem.network()
    prepared = network.prepare(problem.inputs)
    first = network(problem.frame, problem.level, prepared, 1)
    other = dataclasses.replace(problem.frame, latents=problem.frame.latents.flip(0))
    network(other, problem.level, prepared, 1)
    assert torch.equal(network(problem.frame, problem.level, prepared, 1), first)
    assert torch.equal(first, problem.run())


def test_weights_and_sizes_that_do_not_fit_are_named() -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    network, ends, layers = problem.network(), problem.ends, problem.layers
    with pytest.raises(ValueError, match="2 inputs for 3 blocks"):
        network.prepare(problem.inputs[:2])
    with pytest.raises(ValueError, match="4 heads of a width of 30"):
        FrameNetwork(ends, layers, 4, 3, EPS, "none")
    with pytest.raises(ValueError, match="for a processor, and the weights lie on meta"):
        FrameNetwork(ends, [dataclasses.replace(one, q=one.q.to("meta")) for one in layers], 3, 3, EPS, "none")
    with pytest.raises(ValueError, match=r"not in torch\.float64"):
        FrameNetwork(ends, [cast(one, torch.float64) for one in layers], 3, 3, EPS, "none")
    with pytest.raises(ValueError, match="narrow is"):
        FrameNetwork(ends, [dataclasses.replace(layers[0], narrow=torch.zeros(30, 24))], 3, 3, EPS, "none")
    with pytest.raises(ValueError, match="out is"):
        FrameNetwork(dataclasses.replace(ends, out=torch.zeros(18, 32)), layers, 3, 3, EPS, "none")
    with pytest.raises(ValueError, match="patches of 9 numbers"):
        FrameNetwork(dataclasses.replace(ends, embed=torch.zeros(30, 1, 1, 3, 3)), layers, 3, 3, EPS, "none")
