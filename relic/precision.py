"""Which precision networks compute in, and what mixed precision must leave alone: geometry.

In bfloat16 a pixel's column 800 is rounded by up to 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import nn

from relic_kernels.native import why_not_bytes

Precision = Literal["auto", "float32", "bfloat16", "int8"]
"""What the networks of a world on a processor compute in.

`auto` chooses the number format by `suits_bfloat16`, and has the layers of the transformer's blocks, and of most of the
picture networks', multiply 8-bit integers where they can; `int8` is the same, and refused where they cannot. The other
two multiply no integers.
"""

_FAST = ("avx512_bf16", "amx_bf16", "bf16")


def suits_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 matrices; without, they are far slower."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in _FAST)


def find_dtype(precision: Precision) -> torch.dtype:
    """The number format that a precision stands for on this processor."""
    narrow = precision == "bfloat16" or (precision in ("auto", "int8") and suits_bfloat16())
    return torch.bfloat16 if narrow else torch.float32


def multiplies_bytes(precision: Precision) -> bool:
    """Whether the blocks of networks multiply 8-bit integers under a precision on this processor.

    Raises:
        ValueError: when the precision says so and they cannot.
    """
    if precision not in ("auto", "int8"):
        return False
    why = why_not_bytes()
    if why is not None and precision == "int8":
        raise ValueError(f"precision int8 is computed by C++ operators, and here: {why}")
    return why is None


@contextmanager
def full_precision() -> Iterator[None]:
    """Within the `with`, or the function it decorates, autocast is off on the processor and the accelerator."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    with ExitStack() as stack:
        for kind in {"cpu", "cpu" if accelerator is None else accelerator.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def cast_parameters(network: nn.Module, dtype: torch.dtype) -> None:
    """Bring a network's parameters to a number format, in place; buffers, such as statistics of latents, stay."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
