"""How much of a wanted picture each of many views shows, by a coarse grid of their points, on a processor.

`relic.reprojection.view_memory` is the same in PyTorch, and says what is computed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.native import check, library, why_not

_COUNTS = ("views", "points", "rows", "columns")
_LENGTHS = ("fx", "fy", "cx", "cy", "nearest", "closest")


class _Sizes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in _COUNTS),
        *((name, ctypes.c_float) for name in _LENGTHS),
    ]


@dataclass(frozen=True, kw_only=True)
class CoarsePinhole:
    """The wanted picture's camera, in cells.

    Attributes:
        rows, columns: of cells.
        fx, fy, cx, cy: cells.
        nearest: metres in front of the camera where it begins to see.
        closest: metres; a view taken closer to a point than this is no better for it.
    """

    rows: int
    columns: int
    fx: float
    fy: float
    cx: float
    cy: float
    nearest: float
    closest: float


def view_coverage(
    camera: CoarsePinhole,
    points: Sequence[Tensor],
    view_positions: Sequence[Tensor],
    rotation_w2c: Tensor,
    position: Tensor,
) -> list[float]:
    """Shares of a wanted picture's cells that views' points fall into, less where they were seen from afar.

    Args:
        camera: of the wanted picture.
        points: `(3, P)` of each view; all tensors float32.
        view_positions: `(3,)` of each, metres.
        rotation_w2c: `(3, 3)` wanted.
        position: `(3,)` wanted, metres.

    Returns:
        A share in [0, 1] for each view.

    Raises:
        ValueError: for tensors that do not fit, or where the C++ cannot run; it says why.
    """
    why = why_not(torch.float32)
    require(why is None, f"the C++ view coverage cannot run here: {why}")
    require(len(points) == len(view_positions), f"points of {len(points)} views, places of {len(view_positions)}")
    if not points:
        return []
    shape = (3, points[0].shape[-1])
    for each, place in zip(points, view_positions, strict=True):
        check("points", each, shape, torch.float32)
        check("view_positions", place, (3,), torch.float32)
    for name, tensor, size in (("rotation_w2c", rotation_w2c, (3, 3)), ("position", position, (3,))):
        require(tensor.shape == size, f"{name} is {tuple(tensor.shape)}: it must be {size}")
    many = len(points)
    wanted = (ctypes.c_float * 12)(*rotation_w2c.flatten().tolist(), *position.tolist())
    counts = (many, shape[1], camera.rows, camera.columns)
    sizes = _Sizes(*counts, *(getattr(camera, name) for name in _LENGTHS))
    tables = [(ctypes.c_void_p * many)(*map(Tensor.data_ptr, tensors)) for tensors in (points, view_positions)]
    shares = (ctypes.c_float * many)()
    if library().relic_view_coverage(ctypes.byref(sizes), wanted, *tables, shares):
        raise MemoryError("no room for the cells of a picture")
    return list(shares)
