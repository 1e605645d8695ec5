import importlib

import pytest
import torch

from relic.model.rope import axis_dims, grid_positions, inverse_frequencies, rotate, rotation
from relic_kernels import Part, Turns, force, memory_attention
from relic_kernels.attention_backends import attend_as_chosen
from relic_kernels.memory_attention.turns import axis_pairs, expanded
from tests.relic_kernels.closeness import TOLERANCE, assert_close, gradients, relative_rms
from tests.relic_kernels.parts import exact, in_type, part, turns

pytestmark = pytest.mark.usefixtures("poisoned_memory")
LENGTHS = [(1, 0, 0), (7, 63, 0), (65, 0, 5), (20, 130, 65), (63, 1, 64), (1, 1000, 0)]
"""Tokens of the block, of the pooled part (quantised if more than one) and of the window."""


def learnt(given: Part) -> Part:
    return Part(k=given.k.requires_grad_(), v=given.v.requires_grad_(), turns=given.turns)


@pytest.mark.parametrize(
    ("lengths", "dtype"),
    [*((lengths, torch.float32) for lengths in LENGTHS), *((lengths, torch.float16) for lengths in LENGTHS[1:-1])],
    ids=str,
)
def test_outputs_and_gradients_are_the_references(lengths: tuple[int, int, int], dtype: torch.dtype) -> None:
    heads, width = 2, 32
    own = learnt(part(lengths[0], heads, width, dtype))
    pooled = part(lengths[1], heads, width, dtype, quantised=lengths[1] > 1)
    window = part(lengths[2], heads, width, dtype)
    q = torch.randn(2, lengths[0], heads, width).to(dtype).requires_grad_()
    with force("triton"):
        out = memory_attention(q, own, pooled, window)
        found = gradients((out,), [q, own.k, own.v])
    truth, inputs = exact(q, own, [pooled, window])
    assert_close("out", out, truth, TOLERANCE[dtype])
    for name, one, other in zip(("dq", "dk", "dv"), found, gradients((truth,), inputs), strict=True):
        assert_close(name, one, other, 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("width", [64, 128])
def test_wider_heads(width: int) -> None:
    own, pooled = learnt(part(9, 1, width, torch.float32)), part(70, 1, width, torch.float32, quantised=True)
    q = torch.randn(2, 9, 1, width).requires_grad_()
    with force("triton"):
        out = memory_attention(q, own, pooled)
        found = gradients((out,), [q, own.k, own.v])
    truth, inputs = exact(q, own, [pooled])
    assert_close("out", out, truth, 2e-6)
    for one, other in zip(found, gradients((truth,), inputs), strict=True):
        assert_close("gradient", one, other, 8e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_memory_that_is_not_quantised(dtype: torch.dtype) -> None:
    own, pooled, window = (part(tokens, 2, 32, dtype) for tokens in (5, 40, 7))
    q = torch.randn(2, 5, 2, 32).to(dtype)
    with force("triton"):
        out = memory_attention(q, own, pooled, window)
    truth, _ = exact(q, own, [pooled, window])
    assert_close("out", out, truth, TOLERANCE[dtype])


def test_turns_may_be_float16() -> None:
    own, pooled = part(5, 1, 32, torch.float32), part(9, 1, 32, torch.float32)
    halved = Part(k=pooled.k, v=pooled.v, turns=in_type(pooled.turns, torch.float16))
    q = torch.randn(2, 5, 1, 32)
    with force("triton"):
        out = memory_attention(q, own, halved)
    assert_close("out", out, exact(q, own, [halved])[0], 2e-6)
    assert_close("out", out, exact(q, own, [pooled])[0], 1e-3)


@pytest.mark.parametrize("scale", [1e-6, 3e4])
def test_extreme_scales_of_memory(scale: float) -> None:
    own, pooled = learnt(part(5, 1, 32, torch.float32)), part(9, 1, 32, torch.float32, quantised=True)
    assert pooled.k_scale is not None
    assert pooled.v_scale is not None
    pooled = Part(
        k=pooled.k, v=pooled.v, turns=pooled.turns, k_scale=pooled.k_scale / scale, v_scale=pooled.v_scale * scale
    )
    q = (torch.randn(2, 5, 1, 32) * scale).requires_grad_()
    with force("triton"):
        out = memory_attention(q, own, pooled)
        found = gradients((out,), [q, own.k, own.v])
    truth, inputs = exact(q, own, [pooled])
    for name, one, other in zip(("out", "dq"), (out, found[0]), (truth, *gradients((truth,), inputs)), strict=False):
        assert relative_rms(one, other) < 1e-4, name


def test_the_tiles_of_a_gpu_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    own, pooled = learnt(part(70, 1, 64, torch.float16)), part(70, 1, 64, torch.float16, quantised=True)
    q = torch.randn(2, 70, 1, 64).half().requires_grad_()
    for module in ("triton_impl", "backward"):
        launching = importlib.import_module(f"relic_kernels.memory_attention.{module}")
        monkeypatch.setattr(launching, "target_of", lambda _device: "sm_90")
    with force("triton"):
        out = memory_attention(q, own, pooled)
        found = gradients((out,), [q, own.k, own.v])
    truth, inputs = exact(q, own, [pooled])
    assert_close("out", out, truth, 2e-3)
    for one, other in zip(found, gradients((truth,), inputs), strict=True):
        assert_close("gradient", one, other, 8e-3)


@pytest.mark.parametrize("splits", [2, 7])
def test_a_long_memory_in_shares_is_the_same_attention(splits: int) -> None:
    own, pooled, window = (part(tokens, 2, 32, torch.float32) for tokens in (5, 200, 30))
    q = torch.randn(2, 5, 2, 32)
    with force("triton"):
        whole, shared = (memory_attention(q, own, pooled, window, splits=count) for count in (1, splits))
    torch.testing.assert_close(shared, whole, rtol=1e-5, atol=1e-6)


def test_the_reference_is_what_the_network_does() -> None:
    grid, width, heads = (3, 5), 32, 2
    own, window = part(15, heads, width, torch.float32), part(30, heads, width, torch.float32)
    space = grid_positions(grid)
    turn = rotation(torch.arange(3).repeat_interleave(15), space.repeat(3, 1), width, 100.0)
    q = torch.randn(2, 15, heads, width)
    keys = rotate(torch.cat([window.k, own.k], dim=1), turn)
    expected = attend_as_chosen(q, keys, torch.cat([window.v, own.v], dim=1))
    table = torch.view_as_real(turn)
    parts = [
        Part(k=window.k, v=window.v, turns=Turns.of_each(table[:30])),
        Part(k=own.k, v=own.v, turns=Turns.of_each(table[30:])),
    ]
    torch.testing.assert_close(memory_attention(q, parts[1], window=parts[0]), expected, rtol=1e-4, atol=1e-5)


def test_the_reference_has_the_gradients_of_autograd() -> None:
    own, pooled = learnt(part(6, 2, 32, torch.float32)), part(11, 2, 32, torch.float32)
    q = torch.randn(2, 6, 2, 32).requires_grad_()
    truth, inputs = exact(q, own, [pooled])
    for one, other in zip(
        gradients((memory_attention(q, own, pooled),), [q, own.k, own.v]), gradients((truth,), inputs), strict=True
    ):
        assert_close("gradient", one, other, 8e-6)


def test_memory_read_as_bytes_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    own = learnt(part(6, 1, 32, torch.float32))
    codes = torch.arange(256, dtype=torch.uint8)
    codes[codes % 128 == 127] = 0  # not a number
    k = codes.view(1, 8, 1, 32).expand(2, -1, -1, -1).contiguous().view(torch.float8_e4m3fn)
    scale = torch.full((2, 8, 1), 0.01)
    pooled = Part(k=k, v=k.clone(), turns=turns(8, 32), k_scale=scale, v_scale=scale)
    q = torch.randn(2, 6, 1, 32).requires_grad_()
    films = []
    with force("triton"):
        for typed in (True, False):
            monkeypatch.setattr("relic_kernels.dispatch.has_e4m3", lambda device, typed=typed: typed)
            out = memory_attention(q, own, pooled)
            films.append([out, *gradients((out,), [q, own.k, own.v])])
    for one, other in zip(*films, strict=True):
        assert torch.equal(one, other)


def test_huge_logits_stay_finite() -> None:
    own, pooled = part(4, 1, 32, torch.float32), part(70, 1, 32, torch.float32)
    q = torch.randn(2, 4, 1, 32) * 1e3
    with force("triton"):
        out = memory_attention(q, own, pooled)
    truth, _ = exact(q, own, [pooled])
    assert_close("out", out, truth, 1e-3)


def test_the_operator_is_registered_soundly_and_refuses_what_does_not_fit() -> None:
    own, pooled = learnt(part(3, 1, 32, torch.float32)), part(5, 1, 32, torch.float32)
    q = torch.randn(2, 3, 1, 32).requires_grad_()
    empty = part(0, 1, 32, torch.float32)
    arguments = (q, own.k, own.v, own.turns.table, own.turns.offsets, [*pooled.tensors, *empty.tensors], 0.2, 1, False)
    torch.library.opcheck(torch.ops.relic.memory_attention.default, arguments)
    with pytest.raises(ValueError, match=r"pooled\.turns\.offsets \(4, 3\) must be \(5, 3\) of int32"):
        memory_attention(q, own, Part(k=pooled.k, v=pooled.v, turns=part(4, 1, 32, torch.float32).turns))
    short = Turns(table=pooled.turns.table[:15], offsets=pooled.turns.offsets)
    with pytest.raises(ValueError, match=r"pooled\.turns\.table \(15, 2\) must be \(P, 2\), P at least 16"):
        memory_attention(q, own, Part(k=pooled.k, v=pooled.v, turns=short))
    with pytest.raises(ValueError, match="D one of"):
        memory_attention(q[..., :24], own)
    with pytest.raises(ValueError, match="pooled has a scale for k alone"):
        memory_attention(q, own, Part(k=pooled.k, v=pooled.v, turns=pooled.turns, k_scale=torch.ones(2, 5, 1)))


@pytest.mark.parametrize("width", [32, 64, 128])
def test_tables_of_the_axes_are_the_networks_rotation(width: int) -> None:
    assert tuple(2 * pairs for pairs in axis_pairs(width)) == axis_dims(width)
    space = torch.cat([grid_positions((3, 5)), torch.tensor([[0.5, 1.5], [2.0, 3.5]])])
    time = torch.tensor([0.0, 7.0]).repeat_interleave(len(space))
    places = torch.cat([time[:, None], space.repeat(2, 1)], dim=1)
    given = Turns.at(places, inverse_frequencies(width, 100.0))
    rows, columns = len({0.0, 1.0, 2.0, 0.5}), len({0.0, 1.0, 2.0, 3.0, 4.0, 1.5, 3.5})
    time_pairs, row_pairs, column_pairs = axis_pairs(width)
    assert len(given.table) == 2 * time_pairs + rows * row_pairs + columns * column_pairs
    found = expanded(given.table, given.offsets, width)
    truth = torch.view_as_real(rotation(time, space.repeat(2, 1), width, 100.0))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-6)
    each = Turns.of_each(truth)
    assert torch.equal(expanded(each.table, each.offsets, width), truth)
