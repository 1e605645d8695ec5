"""Weights that the C++ reads where they lie."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from torch import Tensor


class PlacedWeights:
    """Addresses of weights, for C structures of pointers alone; there is None in its place in a copy.

    Args:
        tensors: in the order of the structures' fields, one structure after another.

    Attributes:
        tensors: as given.
        table: the addresses. What lies there stays for as long as this object does.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self._held = [tensor.detach() for tensor in tensors]
        self._places = [tensor.data_ptr() for tensor in tensors]
        self.table = (ctypes.c_void_p * len(tensors))(*self._places)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of a network has its weights elsewhere."""
        return type(None), ()

    def holds(self, tensors: Sequence[Tensor] | None = None) -> bool:
        """Whether the weights lie where they lay: those of a network that was cast or moved do not.

        Args:
            tensors: if given, whether these are they.
        """
        if tensors is not None and not all(a is b for a, b in zip(tensors, self.tensors, strict=True)):
            return False
        return self._places == [tensor.data_ptr() for tensor in self.tensors]
