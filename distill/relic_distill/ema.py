"""Exponential moving average of a module's parameters: the weights that are judged and shipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from relic_distill.shares import like, own_share, whole


class Ema:
    """Running average of the parameters of one module; its buffers are taken as they are.

    Args:
        module: the trained module; its parameters of now are the average's start.
        decay: weight of the old average in [0, 1). Early updates use `(1 + n) / (10 + n)` where that is less,
            so that the start is forgotten quickly.

    Raises:
        ValueError: for a decay outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay {decay} must lie in [0, 1)")
        self.module = module
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, updates_before: int) -> None:
        """Take the module's parameters in, after `updates_before` earlier updates."""
        decay = min(self.decay, (1 + updates_before) / (10 + updates_before))
        parameters = dict(self.module.named_parameters())
        torch._foreach_lerp_(
            [own_share(value) for value in self.average.values()],
            [own_share(parameters[name].detach()) for name in self.average],
            1 - decay,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The average and the module's buffers: a state dict that the module's class loads."""
        return {name: self.average.get(name, value) for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the average; names that are no parameters (buffers) are passed over.

        Raises:
            ValueError: when a parameter is missing.
        """
        missing = sorted(set(self.average) - set(state))
        if missing:
            raise ValueError(f"the EMA state lacks {missing[:3]}{' ...' if len(missing) > 3 else ''}")
        for name, value in self.average.items():
            value.copy_(like(value, state[name]))

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The module with the average as its parameters and in evaluation mode, inside a `with`."""
        parameters = dict(self.module.named_parameters())
        kept = {name: parameters[name].detach().clone() for name in self.average}
        was_training = self.module.training
        try:
            self._assign(parameters, self.average)
            yield self.module.eval()
        finally:
            self._assign(parameters, kept)
            self.module.train(was_training)

    @staticmethod
    @torch.no_grad()
    def _assign(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            parameters[name].copy_(value)


@contextmanager
def whole_averages(averages: Mapping[str, Ema], *, keep: bool) -> Iterator[None]:
    """Within the `with`, sharded averages hold whole tensors where they are kept: one process can export them alone."""
    shares = {name: ema.average for name, ema in averages.items()}
    try:
        for ema in averages.values():
            gathered = {}
            for name, value in ema.average.items():
                one = whole(value)
                if keep:
                    gathered[name] = one.cpu()
            ema.average = gathered
        yield
    finally:
        for name, ema in averages.items():
            ema.average = shares[name]
