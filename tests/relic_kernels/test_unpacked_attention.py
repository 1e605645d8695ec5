import pytest
import torch
from torch import Tensor

from relic_kernels import Part, force, memory_attention
from relic_kernels.memory_attention import FEW_QUERIES, Way
from relic_kernels.memory_attention.reference import joined
from tests.relic_kernels.closeness import TOLERANCE, assert_close, gradients
from tests.relic_kernels.parts import exact, part, turns

pytestmark = pytest.mark.usefixtures("poisoned_memory")
LENGTHS = [(1, 0, 0), (7, 63, 0), (65, 0, 5), (20, 130, 65), (33, 1, 64)]
"""Tokens of the block, of the pooled part (quantised if more than one) and of the window."""


def unpacked(q: Tensor, parts: list[Part]) -> tuple[Tensor, Tensor]:
    with force("triton"):
        keys, values = torch.ops.relic.memory_unpack(q, [tensor for one in parts for tensor in one.tensors])
    return keys, values


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("width", "heads", "dtype"), [(32, 5, torch.float32), (64, 1, torch.float16)], ids=str)
def test_unpacked_parts_are_the_references(
    lengths: tuple[int, int, int], width: int, heads: int, dtype: torch.dtype
) -> None:
    parts = [
        part(lengths[1], heads, width, dtype, quantised=lengths[1] > 1),
        part(lengths[2], heads, width, dtype),
        part(lengths[0], heads, width, dtype),
    ]
    found = unpacked(torch.zeros(2, 1, heads, width, dtype=dtype), parts)
    truth = joined([one.tensors for one in parts], torch.float64)
    for name, one, other in zip(("keys", "values"), found, truth, strict=True):
        assert one.dtype == dtype
        assert one.is_contiguous()
        assert_close(name, one, other, TOLERANCE[dtype])


def test_parts_that_are_strided_views_are_unpacked_as_they_are() -> None:
    whole = part(20, 3, 64, torch.float16)
    view = Part(k=whole.k[:, ::2], v=whole.v[:, 1::2], turns=turns(10, 64))
    found = unpacked(torch.zeros(2, 1, 3, 64, dtype=torch.float16), [view])
    for one, other in zip(found, joined([view.tensors], torch.float64), strict=True):
        assert_close("unpacked", one, other, 2e-3)


def test_memory_unpacked_from_bytes_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = part(37, 2, 64, torch.float16, quantised=True)
    read = []
    for typed in (True, False):
        monkeypatch.setattr("relic_kernels.dispatch.has_e4m3", lambda device, typed=typed: typed)
        read.append(unpacked(torch.zeros(2, 1, 2, 64, dtype=torch.float16), [pooled]))
    for one, other in zip(*read, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_both_ways_give_the_same_attention(dtype: torch.dtype) -> None:
    own, pooled, window = part(40, 2, 64, dtype), part(90, 2, 64, dtype, quantised=True), part(9, 2, 64, dtype)
    q = torch.randn(2, 40, 2, 64).to(dtype)
    truth, _ = exact(q, own, [pooled, window])
    with force("triton"):
        for way in ("in place", "unpacked"):
            out = memory_attention(q, own, pooled, window, way=way)
            assert_close(way, out, truth, TOLERANCE[dtype])
            assert out.is_contiguous()
    plain = memory_attention(q, own, pooled, window, way="unpacked", softmax_scale=0.3)
    assert_close("by the reference", plain, memory_attention(q, own, pooled, window, softmax_scale=0.3), 2e-3)


@pytest.mark.parametrize("width", [64, 128])
def test_gradients_after_unpacking_are_the_references(width: int) -> None:
    own, pooled = part(40, 2, width, torch.float16), part(90, 2, width, torch.float16, quantised=True)
    q = torch.randn(2, 40, 2, width).half()
    inputs = [tensor.requires_grad_() for tensor in (q, own.k, own.v)]
    with force("triton"):
        out = memory_attention(q, own, pooled, way="unpacked")
        found = gradients((out,), inputs)
    truth, exact_inputs = exact(q, own, [pooled])
    assert_close("out", out, truth, TOLERANCE[torch.float16])
    for name, one, other in zip(("dq", "dk", "dv"), found, gradients((truth,), exact_inputs), strict=True):
        assert_close(name, one, other, 4 * TOLERANCE[torch.float16])


def of(way: Way | None, q: Tensor, own: Part, splits: int = 1) -> Tensor:
    with force("triton"):
        return memory_attention(q, own, splits=splits, way=way)


def test_many_queries_are_unpacked_and_all_else_is_read_in_place() -> None:
    own = part(40, 1, 64, torch.float16)
    q = torch.randn(2, FEW_QUERIES + 1, 1, 64).half()
    in_place, copied = of("in place", q, own), of("unpacked", q, own)
    assert not torch.equal(in_place, copied)
    assert torch.equal(of(None, q, own), copied)
    few = of(None, q[:, :-1], own)
    assert torch.equal(few, in_place[:, :-1])
    asked = q.clone().requires_grad_()
    learnt = of(None, asked, own)
    assert learnt.requires_grad
    assert torch.equal(learnt, of("unpacked", asked, own))
    assert not torch.equal(learnt, in_place)
    with torch.no_grad():
        assert torch.equal(of(None, asked, own), copied)
    assert torch.equal(of(None, q, own, splits=2), of("in place", q, own, splits=2))
    wide = Part(k=own.k.float(), v=own.v.float(), turns=own.turns)
    assert torch.equal(of(None, q.float(), wide), of("in place", q.float(), wide))
    narrow = part(40, 1, 32, torch.float16)
    assert torch.equal(of(None, q[..., :32], narrow), of("in place", q[..., :32], narrow))


def test_the_reference_never_unpacks_by_itself() -> None:
    own = part(40, 1, 64, torch.float16)
    q = torch.randn(2, FEW_QUERIES + 1, 1, 64).half()
    assert torch.equal(memory_attention(q, own), memory_attention(q, own, way="in place"))


def test_the_operator_is_registered_soundly_and_refuses_what_it_cannot_do() -> None:
    own, pooled = part(3, 1, 64, torch.float32), part(5, 1, 64, torch.float32)
    q = torch.randn(2, 3, 1, 64)
    for implementation in ("reference", "triton"):
        with force(implementation):
            torch.library.opcheck(torch.ops.relic.memory_unpack.default, (q, [*pooled.tensors, *own.tensors]))
    with pytest.raises(ValueError, match="way 'copied' is not one of"):
        memory_attention(q, own, way="copied")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no splits, not 2"):
        memory_attention(q, own, way="unpacked", splits=2)
    with pytest.raises(ValueError, match=r"has no gradient in torch\.float32"):
        memory_attention(q.requires_grad_(), own, way="unpacked")
