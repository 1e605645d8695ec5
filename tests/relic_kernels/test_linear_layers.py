"""Several linear layers in one call compute what each computes alone."""

import copy

import pytest
import torch
from torch import Tensor

from relic_kernels.linear_layers import LinearLayers
from relic_kernels.linear_layers.reference import linear_layers
from tests.relic_kernels.closeness import assert_close

pytestmark = pytest.mark.native

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
Layers = list[tuple[Tensor, Tensor]]


def layers_of(count: int, inputs: int, outputs: int, dtype: torch.dtype) -> Layers:
    torch.manual_seed(count)
    weights = torch.randn(count, outputs, inputs) * inputs**-0.5
    return list(zip(weights.to(dtype).unbind(0), torch.randn(count, outputs).to(dtype).unbind(0), strict=True))


def exact(x: Tensor, layers: Layers) -> Tensor:
    return linear_layers(x.double(), [(weight.double(), bias.double()) for weight, bias in layers])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 1, 60, 320), (8, 320)),
        ((1, 320), (8, 320)),
        ((16, 64), (2, 50)),
        ((17, 64), (2, 50)),
        ((72, 64), (2, 50)),
        ((3, 43, 64), (2, 22)),
        ((130, 10), (3, 6)),
        ((0, 32), (2, 16)),
        ((64, 96), (1, 40)),
    ],
    ids=str,
)
def test_layers_are_the_reference_s_in_float64(
    dtype: torch.dtype, shape: tuple[int, ...], sizes: tuple[int, int], threads: int
) -> None:
    layers = layers_of(sizes[0], shape[-1], sizes[1], dtype)
    x = torch.randn(shape).to(dtype)
    got = LinearLayers(layers)(x, threads)
    assert got.dtype == dtype
    assert got.shape == (sizes[0], *shape[:-1], sizes[1])
    if x.numel():
        assert_close("outputs", got, exact(x, layers), TOLERANCE[dtype])


def test_results_do_not_depend_on_the_threads(dtype: torch.dtype) -> None:
    layers, x = layers_of(8, 320, 320, dtype), torch.randn(60, 320).to(dtype)
    one, two, seven = (LinearLayers(layers)(x, threads) for threads in (1, 2, 7))
    assert torch.equal(one, two)
    assert torch.equal(one, seven)


def test_weights_are_read_where_they_lie_and_missed_when_they_move() -> None:
    layers, x = layers_of(2, 8, 4, torch.float32), torch.randn(3, 8)
    together = LinearLayers(layers)
    layers[1][0].zero_()
    assert torch.equal(together(x, 1)[1], layers[1][1].expand(3, 4))
    assert together.holds(layers)
    assert not together.holds([(weight.clone(), bias) for weight, bias in layers])
    layers[0][0].data = torch.zeros(4, 8)
    assert not together.holds(layers)
    assert copy.deepcopy(together) is None


def test_what_does_not_fit_is_named() -> None:
    layers = layers_of(2, 8, 4, torch.float32)
    with pytest.raises(ValueError, match=r"weight is \(4, 8\) .* it must be \(4, 6\)"):
        LinearLayers([(torch.zeros(4, 6), torch.zeros(4)), *layers])
    with pytest.raises(ValueError, match="layers of 8 by 3: both must be even"):
        LinearLayers([(torch.zeros(3, 8), torch.zeros(3))])
    with pytest.raises(ValueError, match=r"not in torch\.float16"):
        LinearLayers([(weight.half(), bias.half()) for weight, bias in layers])
    with pytest.raises(ValueError, match=r"x is \(3, 6\)"):
        LinearLayers(layers)(torch.zeros(3, 6), 1)
    with pytest.raises(ValueError, match="not contiguous"):
        LinearLayers(layers)(torch.zeros(8, 3).T, 1)
