"""Where tokens are: cosines and sines of the places on each axis, and each token's rows of them.

Axes: T tokens, P rows of a table, D head width, whose D / 2 pairs of channels go to time, rows and columns in this
order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

AXES = 3
"""Time, rows and columns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Turns:
    """Turns of tokens.

    Attributes:
        table: `(P, 2)` floating-point cosines and sines; P at least D / 2 where there is a token.
        offsets: `(T, 3)` int32, one for each axis: pair i of a token's channels turns by row `offset + i` of the table,
            with the offset of the axis that pair i belongs to. Kernels read without checking that the row is there.
    """

    table: Tensor
    offsets: Tensor

    @staticmethod
    def at(places: Tensor, frequencies: Tensor) -> Turns:
        """Tables of the places that occur on each axis, each once.

        Args:
            places: `(T, 3)` time, row and column of each token; may be fractional.
            frequencies: `(D / 2,)` radians per unit of place of each pair, in float32 or float64.

        Returns:
            Turns on the device of `places`, the table in the dtype of `frequencies`.
        """
        frequencies = frequencies.to(places.device)
        tables, offsets, rows, first = [], [], 0, 0
        for axis, pairs in enumerate(axis_pairs(2 * len(frequencies))):
            occurring, index = places[:, axis].to(frequencies.dtype).unique(return_inverse=True)
            angle = (occurring[:, None] * frequencies[first : first + pairs]).flatten()
            tables.append(torch.stack([angle.cos(), angle.sin()], dim=-1))
            offsets.append(rows - first + index * pairs)
            rows, first = rows + len(angle), first + pairs
        return Turns(table=torch.cat(tables), offsets=torch.stack(offsets, dim=1).int())

    @staticmethod
    def of_each(turns: Tensor) -> Turns:
        """Turns whose table has every token's own, `(T, D / 2, 2)`."""
        tokens, pairs, _ = turns.shape
        first = torch.arange(tokens, dtype=torch.int32, device=turns.device) * pairs
        return Turns(table=turns.reshape(-1, 2), offsets=first[:, None].repeat(1, AXES))

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.offsets)

    def to(self, device: torch.device) -> Turns:
        """The same turns on a device."""
        return Turns(table=self.table.to(device), offsets=self.offsets.to(device))


def axis_pairs(head_width: int) -> tuple[int, int, int]:
    """Pairs of channels of a head that turn by time, by row and by column: Wan 2.1's split of the head width."""
    spatial = head_width // 6
    return head_width // 2 - 2 * spatial, spatial, spatial


def expanded(table: Tensor, offsets: Tensor, head_width: int) -> Tensor:
    """The turn of every token, `(T, D / 2, 2)` in the dtype of the table."""
    of_time, of_rows, _ = axis_pairs(head_width)
    pairs = torch.arange(head_width // 2, device=offsets.device)
    axis = (pairs >= of_time).long() + (pairs >= of_time + of_rows).long()
    return table[offsets[:, axis] + pairs]
