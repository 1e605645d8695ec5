"""What operators share, in plain PyTorch, in the precision of its tensors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from relic_kernels.native import quantised


def linear_of_bytes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer that multiplies 8-bit integers, as the layers of bytes of operators do.

    Args:
        x: `(..., I)`, rounded by a scale of each row's own.
        weight: `(O, I)`, rounded by a scale of each output's own.
        bias: `(O,)`.
    """
    (rows, row_scale), (columns, column_scale) = quantised(x), quantised(weight.float())
    return F.linear(rows, columns.to(x)) * row_scale * column_scale.to(x).T + bias
