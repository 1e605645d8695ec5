"""How a run is carried out on a machine, as opposed to what it trains: this may change from one session to the next."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

MixedPrecision = Literal["no", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Precision, sharding and trackers of a session.

    Attributes:
        mixed_precision: `bf16` computes matrix products in bfloat16 (accelerate's autocast); parameters, optimisers and
            averages stay float32.
        shard: each process keeps a share of the networks' parameters, gradients and optimiser state (FSDP2) instead of
            all of them; needs several processes.
        tensorboard: also log for TensorBoard.
    """

    mixed_precision: MixedPrecision = "no"
    shard: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.mixed_precision not in typing.get_args(MixedPrecision):
            raise ValueError(
                f"mixed_precision {self.mixed_precision!r} is not one of {typing.get_args(MixedPrecision)}"
            )
