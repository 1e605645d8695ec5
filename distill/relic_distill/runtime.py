"""How a run is carried out on a machine, as opposed to what it trains: this may change from one session to the next."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

from relic_kernels.attention_backends import Backend

MixedPrecision = Literal["no", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Precision, processes and trackers of a session.

    Attributes:
        mixed_precision: `bf16` computes matrix products in bfloat16 (accelerate's autocast); parameters, optimisers and
            averages stay float32.
        shard: each process keeps a share of the networks' parameters, gradients and optimiser state (FSDP2) instead of
            all of them; needs several processes.
        sequence_parallel: so many processes compute each video together (Ulysses, see `relic.parallel.sequence`); 1
            for one each.
        tensorboard: also log for TensorBoard.
        attention: what computes attention wherever no kernel of memory's does (`relic_kernels.attention_backends`).
    """

    mixed_precision: MixedPrecision = "no"
    shard: bool = False
    sequence_parallel: int = 1
    tensorboard: bool = False
    attention: Backend = "sdpa"

    def __post_init__(self) -> None:
        if self.mixed_precision not in typing.get_args(MixedPrecision):
            raise ValueError(
                f"mixed_precision {self.mixed_precision!r} is not one of {typing.get_args(MixedPrecision)}"
            )
        if self.attention not in typing.get_args(Backend):
            raise ValueError(f"attention {self.attention!r} is not one of {typing.get_args(Backend)}")
        if self.sequence_parallel < 1:
            raise ValueError(f"sequence_parallel {self.sequence_parallel} must be at least 1")

    @property
    def collective(self) -> bool:
        """Whether no process can compute with a network alone."""
        return self.shard or self.sequence_parallel > 1
