"""Flow matching: noise schedule and the algebra between noise, clean latents and velocity.

`x_sigma = (1 - sigma) x0 + sigma noise` with sigma in [0, 1]; the network predicts `velocity = noise - x0`.
All functions broadcast `sigma` over the trailing axes of the latents.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Level = TypeVar("Level", float, Tensor)


def _expand(sigma: Tensor, like: Tensor) -> Tensor:
    trailing = (1,) * (like.ndim - sigma.ndim)
    return (sigma.reshape(sigma.shape + trailing) if sigma.ndim else sigma).to(like)


def shift_sigma(sigma: Level, shift: float) -> Level:
    """Move noise levels towards 1: `s sigma / (1 + (s - 1) sigma)` (SD3, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sampling_sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels of a sampler, from 1 down to 0: `(steps + 1,)` float32."""
    levels = [shift_sigma(1 - step / steps, shift) for step in range(steps + 1)]
    # named, because torch forgets that new tensors follow the default device once transformers has loaded a model
    return torch.tensor(levels, device=torch.get_default_device())


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Latents at noise level `sigma`."""
    return torch.lerp(x0, noise, _expand(sigma, x0))


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """What the network is trained to predict."""
    return noise - x0


def x0_from_velocity(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Clean latents implied by a velocity at noise level `sigma`."""
    return torch.addcmul(x, _expand(sigma, x), velocity, value=-1)


def velocity_from_x0(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """Velocity implied by clean latents at noise level `sigma` > 0."""
    return (x - x0) / _expand(sigma, x)


def euler_step(x: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One step of the flow from `sigma` to `next_sigma`."""
    return torch.addcmul(x, _expand(next_sigma - sigma, x), velocity)
