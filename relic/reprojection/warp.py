"""What known views show from another place: inverse warping through a splatted depth map.

The depth of the wanted picture is gathered from all views by a z-buffer of their points at half resolution; each
pixel is then traced back into the views, and takes its colour where the view's own depth agrees that it is the
same surface. Pixels no view shows stay empty.

Axes: N cases, S views, T wanted pictures, H rows, W columns, P pixels or points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from relic.intrinsics import Intrinsics, pixel_rays
from relic_kernels.warp import Pinhole, warp, warp_with_shares, warps_natively

_COARSE = 2
NEAREST_M = 0.05
"""Metres in front of a camera where it begins to see."""
_EMPTY = float("inf")


@dataclass(frozen=True, kw_only=True)
class Views:
    """Pictures whose camera and depth are known.

    Attributes:
        pictures: `(N, S, 3, H, W)`.
        depth: `(N, S, H, W)` z-depth, metres.
        rotations_w2c: `(N, S, 3, 3)`.
        positions: `(N, S, 3)`, metres.
    """

    pictures: Tensor
    depth: Tensor
    rotations_w2c: Tensor
    positions: Tensor


@dataclass(frozen=True, kw_only=True)
class Warped:
    """What the views show of wanted pictures.

    Attributes:
        pictures: `(N, T, 3, H, W)`; 0 where nothing is known.
        view: `(N, T, H, W)` int64, number of the view a pixel was taken from; -1 where nothing is known.
    """

    pictures: Tensor
    view: Tensor


class Camera:
    """Rays of a pinhole camera as tensors, at the picture's resolution; points lie as rows x, y, z.

    Args:
        intrinsics: of every picture; both sides even.

    Raises:
        ValueError: for an odd picture size.
    """

    def __init__(self, intrinsics: Intrinsics) -> None:
        if intrinsics.width % _COARSE or intrinsics.height % _COARSE:
            raise ValueError(f"a picture of {intrinsics.height}x{intrinsics.width} needs even sides")
        self.intrinsics = intrinsics
        self.rays = torch.from_numpy(pixel_rays(intrinsics).astype(np.float32)).flatten(0, 1).T.contiguous()

    def points(self, depth: Tensor, rotations_w2c: Tensor, positions: Tensor) -> Tensor:
        """World points `(..., 3, P)` under pixels of depth `(..., P)`, seen by cameras `(..., 3, 3)`, `(..., 3)`."""
        seen = depth.unsqueeze(-2) * self.rays.to(depth.device)
        return rotations_w2c.transpose(-1, -2) @ seen + positions.unsqueeze(-1)

    def project(self, points: Tensor, rotations_w2c: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel x, y and depth `(..., P)` of world points `(..., 3, P)` seen by cameras `(..., 3, 3)`, `(..., 3)`."""
        x, y, z = (rotations_w2c @ (points - positions.unsqueeze(-1))).unbind(-2)
        near = z.clamp(min=NEAREST_M)
        camera = self.intrinsics
        return x / near * camera.fx + camera.cx, y / near * camera.fy + camera.cy, z


def splat_depth(camera: Camera, views: Views, rotations_w2c: Tensor, positions: Tensor) -> Tensor:
    """Depth of wanted pictures from the points of all views, the nearest in front.

    Args:
        camera: of every picture.
        views: what is known.
        rotations_w2c: `(N, T, 3, 3)` wanted.
        positions: `(N, T, 3)` wanted.

    Returns:
        `(N, T, H, W)` metres, infinite where no point falls.
    """
    count, wanted = positions.shape[:2]
    height, width = camera.intrinsics.height // _COARSE, camera.intrinsics.width // _COARSE
    seen = camera.points(views.depth.flatten(2), views.rotations_w2c, views.positions)
    points = seen.transpose(1, 2).flatten(2).unsqueeze(1)
    x, y, z = camera.project(points, rotations_w2c, positions)
    column, row = (x / _COARSE).floor().long(), (y / _COARSE).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > NEAREST_M)
    cell = torch.where(inside, row * width + column, height * width)
    buffer = z.new_full((count, wanted, height * width + 1), _EMPTY)
    buffer.scatter_reduce_(2, cell, z, "amin")
    coarse = buffer[..., :-1].unflatten(2, (height, width))
    return coarse.repeat_interleave(_COARSE, 2).repeat_interleave(_COARSE, 3)


def warp_views(
    camera: Camera,
    views: Views,
    rotations_w2c: Tensor,
    positions: Tensor,
    *,
    order: Tensor | None = None,
    tolerance: float = 0.1,
) -> Warped:
    """Paint wanted pictures with what the views show.

    Args:
        camera: of every picture.
        views: what is known.
        rotations_w2c: `(N, T, 3, 3)` wanted.
        positions: `(N, T, 3)` wanted, metres.
        order: `(N, S)` which view paints first, for each case; by default as given.
        tolerance: relative difference of depth up to which a view shows the same surface.
    """
    if warps_natively(views.pictures):
        pictures, view = warp(*_for_cpp(camera, views, rotations_w2c, positions, order, tolerance))
        return Warped(pictures=pictures, view=view)
    count, wanted = positions.shape[:2]
    height, width = camera.intrinsics.height, camera.intrinsics.width
    depth = splat_depth(camera, views, rotations_w2c, positions).flatten(2)
    known = depth.isfinite()
    points = camera.points(torch.where(known, depth, 1.0), rotations_w2c, positions).transpose(1, 2).flatten(2)
    picture = views.pictures.new_zeros((count, 3, wanted * height * width))
    source = torch.full((count, wanted * height * width), -1, dtype=torch.long)
    open_pixels = known.flatten(1)
    every = torch.arange(count)
    for turn in range(views.positions.shape[1]):
        view = torch.full((count,), turn) if order is None else order[:, turn]
        x, y, z = camera.project(points, views.rotations_w2c[every, view], views.positions[every, view])
        grid = torch.stack([x / width * 2 - 1, y / height * 2 - 1], dim=-1).unsqueeze(1)
        layers = torch.cat([views.pictures[every, view], views.depth[every, view].unsqueeze(1)], dim=1)
        found = F.grid_sample(layers, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, :, 0]
        inside = (grid.abs() <= 1).all(-1)[:, 0] & (z > NEAREST_M)
        taken = open_pixels & inside & ((found[:, 3] - z).abs() <= tolerance * z)
        picture = torch.where(taken.unsqueeze(1), found[:, :3], picture)
        source = torch.where(taken, view.unsqueeze(1), source)
        open_pixels = open_pixels & ~taken
    return Warped(
        pictures=picture.unflatten(2, (wanted, height, width)).transpose(1, 2),
        view=source.unflatten(1, (wanted, height, width)),
    )


def warp_with_shares_of_views(
    camera: Camera,
    views: Views,
    rotations_w2c: Tensor,
    positions: Tensor,
    *,
    cell: int,
    order: Tensor | None = None,
    tolerance: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Paint the wanted pictures of F latent frames of P pixel frames, and say how much of them is from which view.

    Args:
        camera: of every picture.
        views: what is known.
        rotations_w2c: `(N, F, P, 3, 3)` wanted.
        positions: `(N, F, P, 3)` wanted, metres.
        cell: pixels a side of a latent cell; both sides of the pictures are multiples of it.
        order: see `warp_views`.
        tolerance: see `warp_views`.

    Returns:
        Pictures `(N, F P, 3, H, W)`, 0 where nothing is known; and `(N, 2 P, F, h, w)`, the share of each cell's pixels
        taken from the first view for each pixel frame, then the share taken from other views.
    """
    many = positions.shape[2]
    wanted = rotations_w2c.flatten(1, 2), positions.flatten(1, 2)
    if warps_natively(views.pictures):
        return warp_with_shares(*_for_cpp(camera, views, *wanted, order, tolerance), cell=cell, group=many)
    warped = warp_views(camera, views, *wanted, order=order, tolerance=tolerance)
    masks = torch.stack([warped.view == 0, warped.view > 0], dim=1).float().flatten(0, 1)
    shares = F.avg_pool2d(masks, cell).unflatten(1, (-1, many)).transpose(1, 2)
    return warped.pictures, shares.unflatten(0, (-1, 2)).flatten(1, 2)


def _for_cpp(
    camera: Camera, views: Views, rotations_w2c: Tensor, positions: Tensor, order: Tensor | None, tolerance: float
) -> tuple[Pinhole, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    of = camera.intrinsics
    pinhole = Pinhole(fx=of.fx, fy=of.fy, cx=of.cx, cy=of.cy, coarse=_COARSE, tolerance=tolerance, nearest=NEAREST_M)
    count, many = views.positions.shape[:2]
    order = torch.arange(many).expand(count, many) if order is None else order
    known = (views.pictures, views.depth, views.rotations_w2c, views.positions)
    return pinhole, *known, rotations_w2c, positions, order
