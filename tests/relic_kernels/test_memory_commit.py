import pytest
import torch
from torch import Tensor

from relic.memory.compression import pool_tokens
from relic_kernels import force, memory_commit
from relic_kernels.memory_commit.reference import E4M3_MAX, pool
from tests.relic_kernels.closeness import relative_rms

pytestmark = pytest.mark.usefixtures("poisoned_memory")
GRIDS = [(1, 1), (6, 10), (5, 7), (9, 3)]


def drawn(grid: tuple[int, int], dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    k, v = (torch.randn(2, grid[0] * grid[1], 3, 24) * scale for _ in range(2))
    return k.to(dtype), v.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_kernel_writes_the_references_bits(grid: tuple[int, int], factor: int, dtype: torch.dtype) -> None:
    k, v = drawn(grid, dtype)
    expected = memory_commit(k, v, grid, factor)
    with force("triton"):
        found = memory_commit(k, v, grid, factor)
    for one, other in zip(found[2:], expected[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert one.dtype == torch.float8_e4m3fn
        apart = (one.float() != other.float()).float().mean()
        assert apart < 0.002, f"{apart:.1%} of the stored numbers differ: more than ties in rounding"
        torch.testing.assert_close(one.float(), other.float(), rtol=0.13, atol=1.0)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_pooling_is_the_memorys(grid: tuple[int, int], factor: int) -> None:
    k, _ = drawn(grid)
    torch.testing.assert_close(pool(k, grid, factor), pool_tokens(k, grid, factor))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_what_is_stored_is_what_was_given_to_three_percent(scale: float) -> None:
    k, v = drawn((3, 5), scale=scale)
    with force("triton"):
        stored = memory_commit(k, v, (3, 5), 1)
    for given, quantised, factor in ((k, stored[0], stored[2]), (v, stored[1], stored[3])):
        back = quantised.float() * factor.unsqueeze(-1)
        assert relative_rms(back, given) < 0.03
        assert float(quantised.float().abs().max()) == E4M3_MAX


def test_zeros_stay_zeros() -> None:
    zeros = torch.zeros(1, 4, 1, 8)
    with force("triton"):
        k, v, k_scale, v_scale = memory_commit(zeros, zeros, (2, 2), 2)
    assert not k.float().any()
    assert not v.float().any()
    assert torch.isfinite(k_scale).all()
    assert torch.isfinite(v_scale).all()


def test_the_operator_is_registered_soundly_and_refuses_what_does_not_fit() -> None:
    k, v = drawn((6, 10))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.relic.memory_commit.default, (k, v, 6, 10, 2), test_utils=tests)
    with pytest.raises(ValueError, match="60 tokens are no 6 x 9 grid"):
        memory_commit(k, v, (6, 9), 2)
    with pytest.raises(ValueError, match="factor 3 is not one of"):
        memory_commit(k, v, (6, 10), 3)


def test_bytes_coded_by_hand_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs without the type store E4M3 as bytes; every code must come out as PyTorch's."""
    k, v = drawn((6, 10), scale=3.0)
    with torch.no_grad():
        k[0, 0, 0, :6] = torch.tensor([0.0, 1e-4, -1e-4, 3e-3, -2e-3, 5.0])
    with force("triton"):
        expected = memory_commit(k, v, (6, 10), 2)
        monkeypatch.setattr("relic_kernels.dispatch.has_e4m3", lambda device: False)
        found = memory_commit(k, v, (6, 10), 2)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.float(), other.float())
