"""Several linear layers of the same input, on a processor, in one call; `reference.py` says what is computed.

Axes: N layers, L tokens, I inputs, O outputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.native import PlacedWeights, check, function


class LinearLayers:
    """Layers of one size, ready to run; the weights are read where they lie.

    Args:
        layers: weight `(O, I)` and bias `(O,)` of each, at least one; I and O are even.

    Raises:
        ValueError: for weights that do not fit, or where the C++ cannot run; it says why.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        first, _ = layers[0]
        self.dtype, (self._outputs, self._inputs) = first.dtype, first.shape
        require(
            self._inputs % 2 == 0 and self._outputs % 2 == 0,
            f"layers of {self._inputs} by {self._outputs}: both must be even",
        )
        for weight, bias in layers:
            check("weight", weight, (self._outputs, self._inputs), self.dtype)
            check("bias", bias, (self._outputs,), self.dtype)
        self._run = function("linear_layers", self.dtype)
        self._weights = PlacedWeights([tensor for layer in layers for tensor in layer])
        self._count = len(layers)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """See `relic_kernels.native.PlacedWeights`."""
        return type(None), ()

    def holds(self, layers: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Whether these are its weights, and lie where they lay: those of a network that was cast do not."""
        return self._weights.holds([tensor for layer in layers for tensor in layer])

    def __call__(self, x: Tensor, threads: int) -> Tensor:
        """`(..., I)` of the weights' dtype -> `(N, ..., O)`.

        Args:
            x: contiguous.
            threads: at most.

        Raises:
            ValueError: for an input that does not fit.
        """
        check("x", x, (*x.shape[:-1], self._inputs), self.dtype)
        tokens = x.numel() // self._inputs
        out = torch.empty(self._count, *x.shape[:-1], self._outputs, dtype=self.dtype)
        places = (self._weights.table, self._count, ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()))
        if self._run(*places, tokens, self._inputs, self._outputs, max(1, threads)):
            raise MemoryError("no room for the activations of a layer")
        return out
