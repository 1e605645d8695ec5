"""The C++ blocks compute what the reference does in float64, for every size, precision and number of threads."""

import dataclasses
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from relic_kernels.frame_blocks import BlockInputs, BlockWeights, FrameBlocks, Gelu
from relic_kernels.frame_blocks.reference import frame_blocks
from tests.relic_kernels.closeness import assert_close

pytestmark = pytest.mark.native

Tensors = TypeVar("Tensors", BlockWeights, BlockInputs)
EPS = 1e-6
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.2e-2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of a problem; the first is the mini world's, with some memory."""

    tokens: int = 60
    heads: int = 5
    width: int = 64
    hidden: int = 1280
    text: int = 32
    memory: int = 300
    poses: int = 60
    layers: int = 2
    gelu: Gelu = "none"


CASES = {
    "mini": Case(),
    "no memory": Case(memory=60),
    "long memory, whose ends are ragged": Case(memory=1213),
    "a token": Case(tokens=1, poses=1, memory=1),
    "odd sizes": Case(tokens=7, heads=3, width=10, hidden=26, text=1, memory=63, poses=1, layers=3, gelu="tanh"),
    "all lanes, wide heads": Case(tokens=64, heads=1, width=128, hidden=66, text=5, memory=1000, poses=64, layers=1),
    "small, keys of two blocks": Case(tokens=4, heads=2, width=24, hidden=64, text=4, memory=121, poses=4),
}


def weights_of(case: Case, seed: int) -> BlockWeights:
    torch.manual_seed(seed)
    dim = case.heads * case.width
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


def inputs_of(case: Case, seed: int) -> BlockInputs:
    torch.manual_seed(1000 + seed)
    dim, head = case.heads * case.width, (case.heads, case.width)
    nothing = torch.full((case.tokens, *head), torch.nan)
    keys, values = torch.randn(2, case.memory, *head)
    keys[: case.tokens] = values[: case.tokens] = torch.nan
    return BlockInputs(
        action=0.3 * torch.randn(dim),
        pose=0.3 * torch.randn(case.poses, dim),
        text_k=torch.randn(case.text, *head),
        text_v=torch.randn(case.text, *head),
        keys=keys,
        values=values,
        own_k=nothing,
        own_v=nothing.clone(),
    )


def cast(one: Tensors, dtype: torch.dtype, *, wide: tuple[str, ...] = ()) -> Tensors:
    values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    copies = {name: value.clone() if name in wide else value.to(dtype, copy=True) for name, value in values.items()}
    return dataclasses.replace(one, **copies)


WIDE = ("text_norm", "text_norm_bias", "modulation")


class Problem:
    """One case in one precision: what the C++ reads, and the reference's answer to the same numbers in float64."""

    def __init__(self, case: Case, dtype: torch.dtype, scale: float = 1.0) -> None:
        self.case = case
        self.layers = [cast(weights_of(case, i), dtype, wide=WIDE) for i in range(case.layers)]
        self.inputs = [cast(inputs_of(case, i), dtype) for i in range(case.layers)]
        torch.manual_seed(7)
        self.x = (scale * torch.randn(case.tokens, case.heads * case.width)).to(dtype)
        self.modulation = 0.3 * torch.randn(6, case.heads * case.width)
        angle = 6 * torch.rand(case.tokens, case.width // 2)
        self.rotation = torch.polar(torch.ones_like(angle), angle)
        self.exact_inputs = [cast(one, torch.float64) for one in self.inputs]
        self.exact = self.answer(self.exact_inputs)

    def answer(self, inputs: list[BlockInputs]) -> Tensor:
        layers = [cast(one, torch.float64) for one in self.layers]
        rest = (self.x.double(), self.modulation.double(), self.rotation.to(torch.complex128), inputs)
        return frame_blocks(layers, self.case.heads, EPS, self.case.gelu, *rest)

    def blocks(self) -> FrameBlocks:
        return FrameBlocks(self.layers, self.case.heads, EPS, self.case.gelu)

    def run(self, threads: int = 1) -> Tensor:
        return self.blocks()(self.x, self.modulation, self.rotation, self.inputs, threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_blocks_are_the_reference_s_in_float64(name: str, dtype: torch.dtype, threads: int) -> None:
    problem = Problem(CASES[name], dtype)
    got = problem.run(threads)
    assert got.dtype == dtype
    assert_close("tokens", got, problem.exact, TOLERANCE[dtype])
    for one, exact in zip(problem.inputs, problem.exact_inputs, strict=True):
        for written in ("own_k", "own_v", "keys", "values"):
            assert_close(written, getattr(one, written), getattr(exact, written), TOLERANCE[dtype])
        own = problem.case.tokens
        assert torch.equal(one.keys[own:].double(), exact.keys[own:])
        assert torch.equal(one.values[own:].double(), exact.values[own:])


def test_results_do_not_depend_on_the_threads(dtype: torch.dtype) -> None:
    case = CASES["long memory, whose ends are ragged"]
    results = [Problem(case, dtype).run(threads) for threads in (1, 2, 3, 7)]
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("scale", [1e-4, 300.0])
def test_small_and_large_tokens_stay_exact(dtype: torch.dtype, scale: float) -> None:
    problem = Problem(CASES["odd sizes"], dtype, scale)
    assert_close("tokens", problem.run() / scale, problem.exact / scale, TOLERANCE[dtype])


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_activations_far_from_zero_stay_finite_and_exact(dtype: torch.dtype, gelu: Gelu) -> None:
    problem = Problem(dataclasses.replace(CASES["odd sizes"], layers=1, gelu=gelu), dtype)
    problem.layers = [
        dataclasses.replace(one, widen=(300 * one.widen).to(dtype), narrow=(one.narrow / 300).to(dtype))
        for one in problem.layers
    ]
    exact = problem.answer(problem.exact_inputs)
    assert_close("tokens", problem.run(), exact, TOLERANCE[dtype])


def test_sharp_attention_takes_one_key_and_late_peaks_win(dtype: torch.dtype) -> None:
    problem = Problem(CASES["small, keys of two blocks"], dtype)
    for one, exact in zip(problem.inputs, problem.exact_inputs, strict=True):
        for memory in (one, exact):
            memory.keys.mul_(40)  # logits of hundreds, whose largest may come last
            memory.keys[-1].mul_(3)
    exact = problem.answer(problem.exact_inputs)
    assert_close("tokens", problem.run(), exact, 3 * TOLERANCE[dtype])


def test_weights_are_read_where_they_lie_and_missed_when_they_move() -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    blocks, call = problem.blocks(), (problem.x, problem.modulation, problem.rotation, problem.inputs, 1)
    before = blocks(*call)
    problem.layers[0].out.mul_(2)
    assert not torch.allclose(blocks(*call), before), "written in place"
    assert torch.equal(blocks(*call), problem.blocks()(*call))
    assert blocks.holds()
    before = blocks(*call)
    problem.layers[0].out.data = torch.zeros_like(problem.layers[0].out)
    assert not blocks.holds()
    assert torch.equal(blocks(*call), before), "by the weights of before, which are still there"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": torch.zeros(6, 3, 10)}, "6 keys leave no room for the 7"),
        ({"pose": torch.zeros(3, 30)}, r"pose is \(3, 30\)"),
        ({"text_k": torch.zeros(1, 3, 10).double()}, "text_k is .* of torch.float64"),
        ({"values": torch.zeros(63, 10, 3).transpose(1, 2)}, "not contiguous"),
        ({"own_k": torch.zeros(7, 3, 12)}, r"must be \(7, 3, 10\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named_before_anything_is_written(changes: dict[str, Tensor], message: str) -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    problem.inputs[-1] = dataclasses.replace(problem.inputs[-1], **changes)
    with pytest.raises(ValueError, match=message):
        problem.run()
    assert problem.inputs[0].own_v.isnan().all()


def test_weights_and_sizes_that_do_not_fit_are_named() -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    blocks = problem.blocks()
    rest = (problem.modulation, problem.rotation, problem.inputs, 1)
    with pytest.raises(ValueError, match="x of 65 tokens: 1 to 64 fit"):
        blocks(torch.zeros(65, 30), *rest)
    with pytest.raises(ValueError, match="2 inputs for 3 blocks"):
        blocks(problem.x, problem.modulation, problem.rotation, problem.inputs[:2], 1)
    with pytest.raises(ValueError, match="4 heads of a width of 30"):
        FrameBlocks(problem.layers, 4, EPS, "none")
    with pytest.raises(ValueError, match="for a processor, and the weights lie on meta"):
        FrameBlocks([dataclasses.replace(one, q=one.q.to("meta")) for one in problem.layers], 3, EPS, "none")
    with pytest.raises(ValueError, match=r"not in torch\.float64"):
        FrameBlocks([cast(one, torch.float64) for one in problem.layers], 3, EPS, "none")
    with pytest.raises(ValueError, match="narrow is"):
        FrameBlocks([dataclasses.replace(problem.layers[0], narrow=torch.zeros(30, 24))], 3, EPS, "none")
