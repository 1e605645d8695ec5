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

_COUNTS = ("cases", "views", "wanted", "height", "width", "coarse", "cell", "group", "threads")
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
    known = (pictures, depth, rotations_w2c, positions, wanted_w2c, wanted_positions, order)
    count, _, _, height, width = pictures.shape
    source = torch.empty(count, wanted_positions.shape[1], height, width, dtype=torch.int64)
    return _painted(camera, known, source=source), source


def warp_with_shares(
    camera: Pinhole,
    pictures: Tensor,
    depth: Tensor,
    rotations_w2c: Tensor,
    positions: Tensor,
    wanted_w2c: Tensor,
    wanted_positions: Tensor,
    order: Tensor,
    *,
    cell: int,
    group: int,
) -> tuple[Tensor, Tensor]:
    """Paint them, and say how much of each cell is from the first view, and from the others.

    Args:
        camera: of all.
        pictures: this and the other tensors as `warp` takes them.
        depth: of the views.
        rotations_w2c: of the views.
        positions: of the views.
        wanted_w2c: of the wanted pictures.
        wanted_positions: of the wanted pictures.
        order: which view paints first.
        cell: pixels a side of a cell; H and W are multiples of it.
        group: P wanted pictures that are one latent frame, of F in all; T = F P.

    Returns:
        The pictures, see `warp`, and `(N, 2 P, F, H / cell, W / cell)` shares of each cell's pixels: those from view 0
        for each picture of a group, then those from other views.

    Raises:
        ValueError: for tensors that do not fit, or where the C++ cannot run; it says why.
    """
    known = (pictures, depth, rotations_w2c, positions, wanted_w2c, wanted_positions, order)
    count, _, _, height, width = pictures.shape
    wanted = wanted_positions.shape[1]
    require(height % cell == 0 == width % cell, f"pictures of {height}x{width} do not divide into cells of {cell}")
    require(wanted % group == 0, f"{wanted} wanted pictures do not divide into groups of {group}")
    shares = torch.empty(count, 2 * group, wanted // group, height // cell, width // cell)
    return _painted(camera, known, shares=shares, cell=cell, group=group), shares


def _painted(
    camera: Pinhole,
    known: tuple[Tensor, ...],
    *,
    source: Tensor | None = None,
    shares: Tensor | None = None,
    cell: int = 1,
    group: int = 1,
) -> Tensor:
    why = why_not(torch.float32)
    require(why is None, f"the C++ warp cannot run here: {why}")
    given = [tensor.contiguous() for tensor in known]
    count, views, _, height, width = given[0].shape
    wanted = given[5].shape[1]
    shapes = ((count, views, 3, height, width), (count, views, height, width), (count, views, 3, 3),
              (count, views, 3), (count, wanted, 3, 3), (count, wanted, 3), (count, views))  # fmt: skip
    for name, tensor, shape in zip(_GIVEN, given, shapes, strict=True):
        check(name, tensor, shape, torch.int64 if name == "order" else torch.float32)
    require(height % camera.coarse == 0 == width % camera.coarse,
            f"pictures of {height}x{width} do not divide into cells of {camera.coarse}")  # fmt: skip
    named = {view for case in given[6].tolist() for view in case}
    require(named <= set(range(views)), f"the order of {views} views names others")
    out = torch.empty(count, wanted, 3, height, width)
    counts = (count, views, wanted, height, width, camera.coarse, cell, group, torch.get_num_threads())
    lengths = (getattr(camera, name) for name in _LENGTHS)
    tensors = (*given, out, source, shares)
    places = (ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors)
    if library().relic_warp(ctypes.byref(_Scene(*counts, *lengths)), *places):
        raise MemoryError("no room for the views")
    return out
