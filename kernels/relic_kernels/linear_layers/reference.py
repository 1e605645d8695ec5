"""Several linear layers of one input in plain PyTorch, in the precision of their tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_layers(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """`(..., I)` -> `(N, ..., O)`; see `relic_kernels.linear_layers.LinearLayers`.

    Args:
        x: the input.
        layers: weight `(O, I)` and bias `(O,)` of each.
    """
    return torch.stack([F.linear(x, weight, bias) for weight, bias in layers])
