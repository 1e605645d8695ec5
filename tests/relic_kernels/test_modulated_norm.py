from typing import Any, cast

import pytest
import torch
from torch import Tensor

from relic_kernels import force, gated_residual, modulated_norm
from relic_kernels.modulated_norm import reference
from tests.relic_kernels.closeness import TOLERANCE, assert_close, gradients

SHAPES = [(1, 1, 32), (2, 7, 63), (3, 17, 64), (2, 33, 65), (1, 5, 1000)]
DTYPES = [torch.float32, torch.float16]
pytestmark = pytest.mark.usefixtures("poisoned_memory")


def inputs(shape: tuple[int, int, int], dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    groups, _, width = shape
    drawn = [torch.randn(shape) * scale + 0.3, torch.randn(groups, width), torch.randn(groups, width)]
    return [tensor.to(dtype).requires_grad_() for tensor in drawn]


def in_double(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_and_gradients_are_the_references(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    given = inputs(shape, dtype)
    exact = in_double(given)
    truth = reference.modulated_norm(*exact, 1e-6)  # type: ignore[misc]
    with force("triton"):
        out = modulated_norm(*given, 1e-6)  # type: ignore[misc]
        found = gradients((out,), given)
    assert out.dtype == dtype
    assert_close("out", out, truth, TOLERANCE[dtype])
    for name, one, other in zip(("dx", "dshift", "dscale"), found, gradients((truth,), exact), strict=True):
        assert_close(name, one, other, 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_residual_and_gradients_are_the_references(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, gate, _ = inputs(shape, dtype)
    given = [x, torch.randn(shape).to(dtype).requires_grad_(), gate]
    exact = in_double(given)
    truth = reference.gated_residual(*exact)
    with force("triton"):
        out = gated_residual(*given)
        found = gradients((out,), given)
    assert_close("out", out, truth, TOLERANCE[dtype])
    for name, one, other in zip(("dx", "dy", "dgate"), found, gradients((truth,), exact), strict=True):
        assert_close(name, one, other, 3 * TOLERANCE[dtype])


def test_the_cpu_takes_the_reference_and_its_gradients() -> None:
    given = inputs((2, 7, 63), torch.float32)
    exact = in_double(given)
    out, truth = modulated_norm(*given, 1e-6), reference.modulated_norm(*exact, 1e-6)  # type: ignore[misc]
    assert_close("out", out, truth, 2e-6)
    for one, other in zip(gradients((out,), given), gradients((truth,), exact), strict=True):
        assert_close("gradient", one, other, 6e-6)


def test_extreme_rows_stay_finite() -> None:
    given = inputs((1, 4, 64), torch.float32, scale=1e4)
    with torch.no_grad():
        given[0][0, 0] = 7.0
    with force("triton"):
        out = modulated_norm(*given, 1e-6)  # type: ignore[misc]
    torch.testing.assert_close(out[0, 0], given[1][0])
    assert torch.isfinite(out).all()


def test_the_operators_are_registered_soundly() -> None:
    x, shift, scale = (tensor.detach().requires_grad_() for tensor in inputs((2, 3, 8), torch.float32))
    torch.library.opcheck(torch.ops.relic.modulated_norm.default, (x, shift, scale, 1e-6))
    torch.library.opcheck(torch.ops.relic.gated_residual.default, (x, x.detach().clone().requires_grad_(), shift))


def test_shapes_that_do_not_fit_are_named() -> None:
    x, shift, scale = inputs((2, 7, 63), torch.float32)
    with pytest.raises(ValueError, match=r"shift \(2, 60\) must be \(2, 63\)"):
        modulated_norm(x, shift[:, :60], scale, 1e-6)
    with pytest.raises(ValueError, match=r"y \(2, 6, 63\) must have the shape of x"):
        gated_residual(x, x[:, :6], shift)
    with pytest.raises(ValueError, match="implementation 'cuda' is not one of"), force(cast("Any", "cuda")):
        pass
