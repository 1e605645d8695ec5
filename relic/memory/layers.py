"""A tensor of every layer of the network, kept where its layer computed it.

Axes: N layers, n those of a stack, B batch, L tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layers:
    """One `(B, L, ...)` for each of N layers.

    Layers that follow each other on one device are one stack: where a network lies on one device, whatever is done to
    its memory is one operation for all layers.

    Attributes:
        stacks: `(n, B, L, ...)` each, in the order of the layers.
    """

    stacks: tuple[Tensor, ...]

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Layers:
        """Copies of one `(B, L, ...)` a layer, stacked by device."""
        runs = itertools.groupby(tensors, key=lambda tensor: tensor.device)
        return cls(tuple(torch.stack(list(run)) for _, run in runs))

    def __getitem__(self, layer: int) -> Tensor:
        """A layer's `(B, L, ...)`, counted from 0; not a copy.

        Raises:
            IndexError: when there is no such layer.
        """
        for stack in self.stacks:
            if layer < len(stack):
                return stack[layer]
            layer -= len(stack)
        raise IndexError(f"{layer + 1} more layers than there are")

    @property
    def tokens(self) -> int:
        """L."""
        return self.stacks[0].shape[2]

    @property
    def batch(self) -> int:
        """B."""
        return self.stacks[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes on all devices."""
        return sum(stack.nbytes for stack in self.stacks)

    def map(self, function: Callable[..., Tensor], *others: Layers) -> Layers:
        """Of each stack, and the stack of the others that lies beside it."""
        beside = zip(self.stacks, *(other.stacks for other in others), strict=True)
        return Layers(tuple(function(*stacks) for stacks in beside))

    def room(self, tokens: int) -> Layers:
        """The same with so many tokens, and nothing written."""
        return self.map(lambda stack: stack.new_empty((*stack.shape[:2], tokens, *stack.shape[3:])))

    def first(self, tokens: int) -> Layers:
        """The first tokens; not a copy."""
        return self.map(lambda stack: stack[:, :, :tokens])

    def tokens_from(self, begin: int, count: int) -> Layers:
        """So many tokens from `begin` on; not a copy."""
        return self.map(lambda stack: stack[:, :, begin : begin + count])

    def write(self, begin: int, source: Layers) -> None:
        """Put the source's tokens at `begin`."""
        for target, stack in zip(self.stacks, source.stacks, strict=True):
            target[:, :, begin : begin + stack.shape[2]] = stack
