"""The processes that train one network together, as `accelerate launch` starts them; a single one otherwise.

Every process holds the whole network and takes its share of a step's parts. What they must agree on (gradients,
figures, when to stop or to save) goes through here, so that the harness reads as if there were one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from torch import Tensor, nn

_Value = TypeVar("_Value")


class Workers:
    """This process among its peers."""

    def __init__(self) -> None:
        self._state = PartialState(cpu=True)

    @property
    def count(self) -> int:
        """Processes that train."""
        return int(self._state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs, samples and checkpoints."""
        return bool(self._state.is_main_process)

    def share(self, parts: int) -> range:
        """This process's parts of a step.

        Raises:
            ValueError: when the parts cannot be shared out evenly.
        """
        if parts % self.count:
            raise ValueError(
                f"accumulate {parts} is no multiple of the {self.count} processes: each takes as many parts of a step"
            )
        return range(int(self._state.process_index), parts, self.count)

    def add_up(self, parameters: Sequence[nn.Parameter], scale: float) -> None:
        """Make the gradients of all processes their sum times `scale`, in place."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        if self.count > 1:
            flat = self.summed(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(total.view_as(gradient))
        if scale != 1.0:
            torch._foreach_mul_(gradients, scale)

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        if self.count == 1:
            return values
        total: Tensor = reduce(values, reduction="sum")
        return total

    def agreed(self, value: _Value) -> _Value:
        """The main process's value, in each of them."""
        if self.count == 1:
            return value
        told = [value]
        broadcast_object_list(told)
        return told[0]

    def any(self, flag: bool) -> bool:
        """Whether any process raises the flag."""
        return bool(self.summed(torch.tensor(float(flag))) > 0)

    def wait(self) -> None:
        """Until every process is here."""
        self._state.wait_for_everyone()
