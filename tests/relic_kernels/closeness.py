"""How near a kernel's numbers are to its reference's in float64."""

import torch
from torch import Tensor

from relic_kernels.checks import BOUNDS, relative_rms

TOLERANCE = {torch.float32: BOUNDS[torch.float32], torch.float16: BOUNDS[torch.float16]}
"""Relative root mean square error allowed for inputs of a dtype."""

__all__ = ["TOLERANCE", "assert_close", "gradients", "relative_rms"]


def assert_close(name: str, found: Tensor, truth: Tensor, tolerance: float) -> None:
    """Fail with the operator's name when numbers are not finite or too far apart; inputs are of the order of one.

    What is zero in truth (the gradient of a softmax over one key) is compared with a tenth instead.
    """
    assert found.shape == truth.shape, f"{name}: {tuple(found.shape)} for {tuple(truth.shape)}"
    assert torch.isfinite(found).all(), f"{name} is not finite"
    size = max(0.1, float(truth.detach().double().square().mean().sqrt()))
    error = float((found.detach().double() - truth.detach().double()).square().mean().sqrt()) / size
    assert error <= tolerance, f"{name}: relative RMS error {error:.2e} over {tolerance:.0e}"


def gradients(outputs: tuple[Tensor, ...], inputs: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Gradients of a fixed random weighting of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype) for out in outputs]
    return list(torch.autograd.grad(outputs, inputs, weights))
