"""Inverse warping of known views to wanted cameras through a splatted depth map, on a processor.

`relic.reprojection.warp` is the same in PyTorch, and says what is computed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.native import check, library, may_run, why_not

_COUNTS = ("cases", "views", "wanted", "height", "width", "coarse", "threads")
_GIVEN = ("pictures", "depth", "rotations_w2c", "positions", "wanted_w2c", "wanted_positions", "order")
_LENGTHS = ("fx", "fy", "cx", "cy", "tolerance", "nearest")


class _Scene(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in _COUNTS),
        *((name, ctypes.c_float) for name in _LENGTHS),
    ]


@dataclass(frozen=True, kw_only=True)
class Pinhole:
    """The camera of every picture, and how it is warped.

    Attributes:
        fx, fy, cx, cy: pixels.
        coarse: pixels a side of a cell of the splatted depth map.
        tolerance: relative difference of depth up to which a view shows the same surface.
        nearest: metres in front of a camera where it begins to see.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    coarse: int
    tolerance: float
    nearest: float


def warps_natively(pictures: Tensor) -> bool:
    """Whether the C++ may take such pictures, see `relic_kernels.native.may_run`: float32 ones."""
    return pictures.dtype == torch.float32 and may_run(torch.float32, pictures)


def warp(
    camera: Pinhole,
    pictures: Tensor,
    depth: Tensor,
    rotations_w2c: Tensor,
    positions: Tensor,
    wanted_w2c: Tensor,
    wanted_positions: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor]:
    """Paint wanted pictures with what the views show; N cases, S views, T wanted pictures.

    Args:
        camera: of all.
        pictures: `(N, S, 3, H, W)`, H and W multiples of `camera.coarse`; all tensors but the last float32.
        depth: `(N, S, H, W)` metres.
        rotations_w2c: `(N, S, 3, 3)`.
        positions: `(N, S, 3)`, metres.
        wanted_w2c: `(N, T, 3, 3)`.
        wanted_positions: `(N, T, 3)`.
        order: `(N, S)` int64, which view paints first.

    Returns:
        `(N, T, 3, H, W)` pictures, 0 where nothing is known, and `(N, T, H, W)` int64, the view each pixel is from; -1
        where nothing is known.

    Raises:
        ValueError: for tensors that do not fit, or where the C++ cannot run; it says why.
    """
    why = why_not(torch.float32)
    require(why is None, f"the C++ warp cannot run here: {why}")
    count, views, _, height, width = pictures.shape
    wanted = wanted_positions.shape[1]
    known = (pictures, depth, rotations_w2c, positions, wanted_w2c, wanted_positions)
    given = [tensor.contiguous() for tensor in (*known, order)]
    shapes = ((count, views, 3, height, width), (count, views, height, width), (count, views, 3, 3),
              (count, views, 3), (count, wanted, 3, 3), (count, wanted, 3), (count, views))  # fmt: skip
    for name, tensor, shape in zip(_GIVEN, given, shapes, strict=True):
        check(name, tensor, shape, torch.int64 if name == "order" else torch.float32)
    require(height % camera.coarse == 0 == width % camera.coarse,
            f"pictures of {height}x{width} do not divide into cells of {camera.coarse}")  # fmt: skip
    require(bool(((order >= 0) & (order < views)).all()), f"the order of {views} views names others")
    out = torch.empty(count, wanted, 3, height, width)
    source = torch.empty(count, wanted, height, width, dtype=torch.int64)
    counts = (count, views, wanted, height, width, camera.coarse, torch.get_num_threads())
    lengths = (getattr(camera, name) for name in _LENGTHS)
    places = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (*given, out, source))
    if library().relic_warp(ctypes.byref(_Scene(*counts, *lengths)), *places):
        raise MemoryError("no room for the views")
    return out, source
