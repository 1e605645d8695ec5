"""The processes that train one network together, as `accelerate launch` starts them; a single one otherwise.

Every process takes its share of a step's parts. What they must agree on (gradients, figures, when to stop or to save)
goes through here, so that the harness reads as if there were one. Here too is where a process computes, and how finely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs, broadcast_object_list, reduce
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from relic_distill.devices import on_device
from relic_distill.runtime import MixedPrecision
from relic_kernels.attention_backends import Backend, using, why_not

_Value = TypeVar("_Value")


class Workers:
    """This process among its peers.

    Args:
        mixed_precision: see `relic_distill.runtime.Runtime`.
        together: processes that compute each part of a step together; neighbours by number.
        attention: see `relic_distill.runtime.Runtime`.

    Raises:
        ValueError: when the processes do not make up such groups, or attention cannot be computed so here.
    """

    def __init__(self, mixed_precision: MixedPrecision = "no", together: int = 1, attention: Backend = "sdpa") -> None:
        self._state = PartialState(cpu=not torch.accelerator.is_available())
        # accelerate holds one precision a process; stages of one process may differ in theirs
        AcceleratorState._reset_state()
        # the cache of casts would keep a copy of every parameter that a sharded network lets go
        self._accelerator = Accelerator(
            mixed_precision=mixed_precision, kwargs_handlers=[AutocastKwargs(cache_enabled=False)]
        )
        if self.count % together:
            raise ValueError(
                f"sequence_parallel {together} does not divide the {self.count} processes: start it with "
                "`accelerate launch --num_processes N -m relic_app ...`, N a multiple of it"
            )
        self.together = together
        self._attention = attention
        dtype = torch.bfloat16 if mixed_precision == "bf16" else torch.float32
        why = why_not(attention, torch.empty(0, dtype=dtype, device=self.device))
        if why is not None:
            raise ValueError(f"attention {attention!r} cannot be computed here: {why}")

    @property
    def device(self) -> torch.device:
        """Where this process computes: its accelerator, or the processor."""
        device: torch.device = self._state.device
        return device

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Losses and gradients are computed on the device, in mixed precision where that is wanted."""
        with on_device(self.device), self._accelerator.autocast(), using(self._attention):
            yield

    @property
    def count(self) -> int:
        """Processes that train."""
        return int(self._state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs, samples and checkpoints."""
        return bool(self._state.is_main_process)

    def require_one(self, what: str) -> None:
        """Refuse to do by several processes what only one can do.

        Raises:
            ValueError: when there are several.
        """
        if self.count > 1:
            raise ValueError(
                f"{what} by one process, this is one of {self.count}: leave `accelerate launch` to the trainings"
            )

    def share(self, parts: int) -> range:
        """The parts of a step that this process computes, alone or together with its neighbours.

        Raises:
            ValueError: when the parts cannot be shared out evenly.
        """
        groups = self.count // self.together
        if parts % groups:
            shares = "processes" if self.together == 1 else f"groups of {self.together} processes"
            raise ValueError(
                f"accumulate {parts} is no multiple of the {groups} {shares}: each takes as many parts of a step"
            )
        return range(int(self._state.process_index) // self.together, parts, groups)

    def add_up(self, parameters: Sequence[nn.Parameter], scale: float) -> None:
        """Make the gradients of all processes their sum times `scale`, in place.

        Sharded gradients were averaged over the processes as they were made.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
        whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        if self.count > 1 and whole:
            flat = self.summed(torch.cat([gradient.flatten() for gradient in whole]))
            for gradient, total in zip(whole, flat.split([g.numel() for g in whole]), strict=True):
                gradient.copy_(total.view_as(gradient))
        if whole and scale != 1.0:
            torch._foreach_mul_(whole, scale)
        if sharded and scale * self.count != 1.0:
            torch._foreach_mul_([gradient.to_local() for gradient in sharded], scale * self.count)

    def neighbours(self) -> ProcessGroup:
        """The processes that compute the same parts as this one; every process must ask for them."""
        group, _ = dist.new_subgroups(self.together)
        assert group is not None
        return group

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        if self.count == 1:
            return values
        total: Tensor = reduce(values.to(self.device), reduction="sum")
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
