"""What a block attends to: stretches of keys and values that lie in different places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.memory_attention.turns import AXES, Turns


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A stretch of keys and values, as memory keeps them.

    Attributes:
        k: `(B, T, H, D)` keys before RoPE; floating point or float8_e4m3fn.
        v: `(B, T, H, D)` in the dtype of `k`.
        turns: of each token's place, fractional for pooled cells.
        k_scale: `(B, T, H)` float32, key = stored x scale; None for 1.
        v_scale: `(B, T, H)` float32; None together with `k_scale`.
    """

    k: Tensor
    v: Tensor
    turns: Turns
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    def check(self, q: Tensor, name: str) -> None:
        """Raise a `ValueError` unless the part fits queries `(B, L, H, D)`."""
        batch, _, heads, width = q.shape
        tokens = self.k.shape[1] if self.k.ndim == 4 else -1
        wanted = (batch, tokens, heads, width)
        require(tuple(self.k.shape) == wanted, f"{name}.k {tuple(self.k.shape)} must be ({batch}, T, {heads}, {width})")
        require(self.v.shape == self.k.shape, f"{name}.v {tuple(self.v.shape)} must be {wanted} as k is")
        require(
            tuple(self.turns.offsets.shape) == (tokens, AXES) and self.turns.offsets.dtype == torch.int32,
            f"{name}.turns.offsets {tuple(self.turns.offsets.shape)} must be ({tokens}, {AXES}) of int32",
        )
        least = width // 2 if tokens else 0
        table = tuple(self.turns.table.shape)
        require(
            len(table) == 2 and table[0] >= least and table[1] == 2,
            f"{name}.turns.table {table} must be (P, 2), P at least {least}",
        )
        require(
            (self.k_scale is None) == (self.v_scale is None),
            f"{name} has a scale for {'k' if self.v_scale is None else 'v'} alone: give both or none",
        )
        if self.k_scale is not None and self.v_scale is not None:
            require(
                tuple(self.k_scale.shape) == tuple(self.v_scale.shape) == wanted[:3],
                f"scales of {name} {tuple(self.k_scale.shape)}, {tuple(self.v_scale.shape)} must be {wanted[:3]}",
            )

    @property
    def tensors(self) -> list[Tensor]:
        """Keys, values, table and offsets of turns, and scales; empty scales for none."""
        none = self.turns.table.new_empty(0)
        return [
            self.k,
            self.v,
            self.turns.table,
            self.turns.offsets,
            none if self.k_scale is None else self.k_scale,
            none if self.v_scale is None else self.v_scale,
        ]


def empty_part(q: Tensor) -> Part:
    """A part without tokens."""
    batch, _, heads, width = q.shape
    nothing = q.new_empty((batch, 0, heads, width))
    return Part(k=nothing, v=nothing, turns=Turns.of_each(torch.empty((0, width // 2, 2), device=q.device)))
