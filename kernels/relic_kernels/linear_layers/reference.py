"""Several linear layers of one input in plain PyTorch, in the precision of their tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.native import quantised


def linear_layers(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """`(..., I)` -> `(N, ..., O)`; see `relic_kernels.linear_layers.LinearLayers`.

    Args:
        x: the input.
        layers: weight `(O, I)` and bias `(O,)` of each.
    """
    return torch.stack([F.linear(x, weight, bias) for weight, bias in layers])


def linear_of_bytes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer that multiplies 8-bit integers, as other operators' layers of bytes do.

    Args:
        x: `(..., I)`, rounded by a scale of each row's own.
        weight: `(O, I)`, rounded by a scale of each output's own.
        bias: `(O,)`.
    """
    (rows, row_scale), (columns, column_scale) = quantised(x), quantised(weight.float())
    return F.linear(rows, columns.to(x)) * row_scale * column_scale.to(x).T + bias
