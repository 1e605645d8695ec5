import pytest
import torch
from torch import nn

from relic_distill.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 17), (2, 17, 6)])
def test_singular_values_are_pushed_towards_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_each_matrix_of_a_stack_is_treated_alone() -> None:
    matrices = torch.randn(3, 5, 7, dtype=torch.float64)
    for alone, together in zip(matrices, orthogonalise(matrices), strict=True):
        torch.testing.assert_close(orthogonalise(alone[None])[0], together)


def test_a_least_squares_problem_is_solved() -> None:
    torch.manual_seed(0)
    truth = torch.randn(6, 4)
    layer = nn.Parameter(torch.zeros(6, 4))
    optimiser = Muon([layer], lr=0.1)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        inputs = torch.randn(32, 4)
        optimiser.zero_grad()
        (inputs @ (layer - truth).T).square().mean().backward()
        optimiser.step()
    assert (layer - truth).abs().max() < 0.02


def test_the_update_has_adamws_size_whatever_the_shape() -> None:
    for shape in [(64, 64), (256, 64), (64, 256)]:
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([parameter], lr=1.0).step()
        assert parameter.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.3)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes matrices, got a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_directions_may_be_made_orthogonal_in_less_precision() -> None:
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(7)) for shape in ((48, 16), (16, 48))]
    steps = []
    for products in (None, torch.bfloat16):
        parameters = [nn.Parameter(torch.zeros(gradient.shape)) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        Muon(parameters, lr=1.0, products=products).step()
        steps.append([parameter.detach() for parameter in parameters])
    for exact, coarse in zip(*steps, strict=True):
        assert coarse.dtype == torch.float32
        assert not torch.equal(coarse, exact)
        assert (coarse - exact).norm() < 0.05 * exact.norm()
