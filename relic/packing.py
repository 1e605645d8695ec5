"""Weights laid out once for the processor's matrix unit.

oneDNN multiplies bfloat16 matrices in a layout of its own. Given a weight as torch holds it, it lays it out anew at
every product, which for the few rows of a block takes about as long as the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

_ROWS = 64
"""About as many rows as a block has; the layout depends on it, the result does not."""


Written = tuple[int, int]
"""Where a tensor lies and how often it was written: equal as long as what was made of it still holds."""


def written_as(tensor: Tensor) -> Written:
    """See `Written`."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class PackedLinear(nn.Linear):
    """A linear layer with its weight packed beside it, for passes without gradients; parameters and names stay.

    Where gradients are wanted, in another precision or on another device it is the layer it was. A weight that is
    written afterwards is packed again.

    Args:
        linear: what it replaces; its parameters are shared.

    Attributes:
        plain: whether to be the layer it was, see `unpacked`.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.plain = False
        self._packed: Tensor | None = None
        self._of: Written = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in_features)` -> `(..., out_features)`."""
        weight = self.weight
        return self._product(x, weight, "none", "") if self._packs(x, weight) else super().forward(x)

    def with_gelu(self, x: Tensor, approximate: str) -> Tensor:
        """`F.gelu` of the layer's output, in the product's own pass where it is packed."""
        weight = self.weight
        if self._packs(x, weight):
            return self._product(x, weight, "gelu", approximate)
        return nn.functional.gelu(super().forward(x), approximate=approximate)

    def _packs(self, x: Tensor, weight: Tensor) -> bool:
        narrow = x.dtype == weight.dtype == torch.bfloat16
        return narrow and weight.is_cpu and not self.plain and not torch.is_grad_enabled()

    def _product(self, x: Tensor, weight: Tensor, activation: str, algorithm: str) -> Tensor:
        written = written_as(weight)
        if self._packed is None or self._of != written:
            self._packed, self._of = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS), written
        out = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, activation, [], algorithm)
        return cast(Tensor, out)

    def __getstate__(self) -> dict[str, Any]:
        """Without the packed weight, which cannot be copied."""
        return {**self.__dict__, "_packed": None}


def packs() -> bool:
    """Whether torch packs bfloat16 weights on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_linears(network: nn.Module) -> None:
    """Replace every linear layer of a network in bfloat16, where that is of use; its state stays the same."""
    if not packs():
        return
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.dtype == torch.bfloat16:
                setattr(parent, name, PackedLinear(child))


@contextmanager
def unpacked(network: nn.Module) -> Iterator[None]:
    """Within the `with`, packed layers lay their weights out at every product."""
    layers = [module for module in network.modules() if isinstance(module, PackedLinear)]
    for layer in layers:
        layer.plain = True
    try:
        yield
    finally:
        for layer in layers:
            layer.plain = False
