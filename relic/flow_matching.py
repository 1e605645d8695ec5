"""Flow matching: noise schedule and the algebra between noise, clean latents and velocity.

`x_sigma = (1 - sigma) x0 + sigma noise` with sigma in [0, 1]; the network predicts `velocity = noise - x0`.
All functions broadcast `sigma` over the trailing axes of the latents.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _expand(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - sigma.ndim)).to(like.dtype)


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1: `s sigma / (1 + (s - 1) sigma)` (SD3, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sampling_sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels of a sampler, from 1 down to 0: `(steps + 1,)` float32."""
    # named, because torch forgets that linspace follows the default device once transformers has loaded a model
    device = torch.get_default_device()
    return shift_sigma(torch.linspace(1.0, 0.0, steps + 1, device=device), shift)


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Latents at noise level `sigma`."""
    weight = _expand(sigma, x0)
    return (1 - weight) * x0 + weight * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """What the network is trained to predict."""
    return noise - x0


def x0_from_velocity(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Clean latents implied by a velocity at noise level `sigma`."""
    return x - _expand(sigma, x) * velocity


def velocity_from_x0(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """Velocity implied by clean latents at noise level `sigma` > 0."""
    return (x - x0) / _expand(sigma, x)


def euler_step(x: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One step of the flow from `sigma` to `next_sigma`."""
    return x + _expand(next_sigma - sigma, x) * velocity
