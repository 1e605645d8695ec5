"""Layers compute their definitions in every precision, with gradients and without."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from relic.model.layers import GELUProjection, RMSNorm, WideLayerNorm, gated_residual, modulate
from relic.packing import pack_linears

_EPS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}
"""Relative error that each precision's rounding explains."""


def relative_error(got: Tensor, exact: Tensor) -> float:
    return float(((got.double() - exact).norm() / exact.norm()).detach())


@pytest.mark.parametrize("dtype", _EPS)
def test_rms_norm_is_its_formula_with_gradients_and_without(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(48, 1e-6).to(dtype)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
    x = (3 * torch.randn(2, 3, 5, 48)).to(dtype)
    before = x.clone()
    exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight.double()
    with torch.no_grad():
        got = norm(x)
    learnt = norm(x)
    assert torch.equal(x, before)
    for out in (got, learnt):
        assert out.dtype == dtype
        assert relative_error(out, exact) < _EPS[dtype]
    if dtype == torch.bfloat16:
        assert relative_error(got, exact) < 0.7 * relative_error(learnt, exact)


@pytest.mark.parametrize("dtype", _EPS)
@pytest.mark.parametrize("frames", [1, 3])
def test_modulate_is_its_formula_for_one_frame_and_for_several(dtype: torch.dtype, frames: int) -> None:
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    x = (2 + torch.randn(1, frames, 5, 32)).to(dtype)
    shift, scale = torch.randn(2, 1, frames, 1, 32, dtype=wide)
    centred = x.double() - x.double().mean(-1, keepdim=True)
    normed = centred * (centred.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    exact = normed * (1 + scale.double()) + shift.double()
    for learns in (False, True):
        with torch.set_grad_enabled(learns):
            got = modulate(x, shift, scale, 1e-6)
        assert got.dtype == dtype
        assert relative_error(got, exact) < _EPS[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wide_layer_norm_and_gates_round_once(dtype: torch.dtype) -> None:
    """They give what is computed in float32 and rounded at the end, to the bit."""
    torch.manual_seed(0)
    norm = WideLayerNorm(32, 1e-6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
        x, update = (torch.randn(2, 3, 5, 32).to(dtype) for _ in range(2))
        gate = torch.randn(2, 3, 1, 32)
        normed = F.layer_norm(x.float(), (32,), norm.weight, norm.bias, 1e-6).to(dtype)
        assert torch.equal(norm(x), normed)
        gated = torch.addcmul(x.float(), update.float(), gate).to(dtype)
        assert torch.equal(gated_residual(x, update, gate), gated)


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_a_packed_projection_activates_in_its_product(approximate: str) -> None:
    torch.manual_seed(0)
    plain = GELUProjection(48, 96, approximate).to(torch.bfloat16)
    packed = copy.deepcopy(plain)
    pack_linears(packed)
    x = torch.randn(2, 7, 48).bfloat16()
    exact = F.gelu(
        F.linear(x.double(), plain.proj.weight.double(), plain.proj.bias.double()), approximate=approximate
    ).detach()
    with torch.inference_mode():
        assert relative_error(packed(x), exact) < 6e-3
    got = packed(x)
    assert got.requires_grad
    assert torch.equal(got, plain(x))
