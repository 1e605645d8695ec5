"""Flow matching: noise schedule and the algebra between noise, clean latents and velocity.

`x_sigma = (1 - sigma) x0 + sigma noise` with sigma in [0, 1]; the network predicts `velocity = noise - x0`.
All functions broadcast `sigma` over the trailing axes of the latents.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from relic.config import SamplerKind

Level = TypeVar("Level", float, Tensor)


def _expand(sigma: Tensor, like: Tensor) -> Tensor:
    trailing = (1,) * (like.ndim - sigma.ndim)
    return (sigma.reshape(sigma.shape + trailing) if sigma.ndim else sigma).to(like)


def shift_sigma(sigma: Level, shift: float) -> Level:
    """Move noise levels towards 1: `s sigma / (1 + (s - 1) sigma)` (SD3, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sampling_sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels of a sampler, from 1 down to 0: `(steps + 1,)` float32."""
    # named, because torch forgets that new tensors follow the default device once transformers has loaded a model
    return torch.tensor(_levels(steps, shift), device=torch.get_default_device())


def _levels(steps: int, shift: float) -> list[float]:
    return [shift_sigma(1 - step / steps, shift) for step in range(steps + 1)]


@dataclass(frozen=True, kw_only=True)
class SamplerStep:
    """A denoising pass at noise level `sigma`, after which `x` becomes `keep x + move velocity + fresh noise`."""

    sigma: float
    keep: float
    move: float
    fresh: float

    def x0(self, x: Tensor, velocity: Tensor) -> Tensor:
        """Clean latents that the pass predicts."""
        return torch.add(x, velocity, alpha=-self.sigma)

    def update(self, x: Tensor, velocity: Tensor, noise: Tensor | None) -> Tensor:
        """Latents after the pass; `noise` is None where `fresh` is 0."""
        moved = torch.add(x if self.keep == 1 else self.keep * x, velocity, alpha=self.move)
        return moved if noise is None else torch.add(moved, noise, alpha=self.fresh)


def sampler_steps(kind: SamplerKind, steps: int, shift: float) -> list[SamplerStep]:
    """The passes of a sampler: `euler` follows the flow, `renoise` adds fresh noise to each prediction of x0."""
    levels = _levels(steps, shift)
    if kind == "euler":
        pairs = itertools.pairwise(levels)
        return [SamplerStep(sigma=sigma, keep=1.0, move=after - sigma, fresh=0.0) for sigma, after in pairs]
    return [
        SamplerStep(sigma=sigma, keep=1 - after, move=(after - 1) * sigma, fresh=after)
        for sigma, after in itertools.pairwise(levels)
    ]


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
