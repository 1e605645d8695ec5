"""Muon: momentum whose matrix updates are made orthogonal (Jordan et al. 2024).

torch's own Muon orthogonalises in bfloat16, one matrix after the other; on processors without fast bfloat16 that costs
more than it gains. Here matrices of one shape are orthogonalised together, in the precision asked for. Of sharded
matrices each process keeps its share of the momentum, gathers the whole direction, and takes its share of the update.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from relic_distill.shares import like, own_share, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push every singular value of `(count, rows, columns)` towards 1 by quintic Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """Muon for two-dimensional parameters; everything else belongs to another optimiser.

    Args:
        params: matrices only.
        lr: step size; the update of a matrix has root-mean-square `0.2 lr`, whatever its shape, so that AdamW's
            learning rates carry over (Liu et al. 2025).
        momentum: decay of the gradient average, in [0, 1).
        weight_decay: decoupled decay.
        products: precision in which directions are made orthogonal; None for the parameters' own.

    Raises:
        ValueError: for a parameter that is no matrix, or a setting out of range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        products: torch.dtype | None = None,
    ) -> None:
        params = list(params)
        for parameter in params:
            if parameter.ndim != 2:
                raise ValueError(f"Muon takes matrices, got a parameter of shape {tuple(parameter.shape)}")
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0:
            raise ValueError(f"lr {lr} and weight_decay {weight_decay} must be >= 0, momentum {momentum} in [0, 1)")
        self._products = products
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        directions = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(whole(parameter.grad.lerp(buffer, group["momentum"])))
        stacked = torch.stack(directions)
        updates = orthogonalise(stacked.to(self._products or stacked.dtype)).to(stacked.dtype)
        size = 0.2 * group["lr"] * math.sqrt(max(parameters[0].shape))
        for parameter, update in zip(parameters, updates, strict=True):
            share = own_share(like(parameter, update))
            own_share(parameter).mul_(1 - group["lr"] * group["weight_decay"]).sub_(share, alpha=size)
