"""Co-visible PSNR: how right a rollout is where it can know, that is on surfaces that earlier true frames had shown.

A generated frame may invent what nobody has seen; only pixels whose surface was in view before are compared with the
true render. Which ones is decided exactly, by reprojecting the true depth. The measure is the project's own; the paper
(section 5.3) reports no pixel-wise figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relic.camera import CameraPath, Intrinsics, pixel_rays

BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]


def earlier_frames(frame: int, stride: int = 4) -> range:
    """Return every `stride`-th frame before `frame`, from 0 on: the usual `earlier` of `covisible_mask`.

    Raises:
        ValueError: `stride` is below 1.
    """
    if stride < 1:
        raise ValueError(f"stride is {stride}: give a whole number of frames from 1")
    return range(0, frame, stride)


def covisible_mask(
    depth: NDArray[np.floating],
    path: CameraPath,
    intrinsics: Intrinsics,
    frame: int,
    earlier: Sequence[int] = (0,),
    depth_tolerance: float = 0.05,
) -> BoolArray:
    """Return which pixels of `frame` show a surface that at least one earlier frame showed.

    The 3-D point of each pixel is projected into each earlier frame. It was seen there if it lies in front of the
    camera, inside the picture, and at that frame's depth to within the tolerance. Depth between pixel centres is read
    both from the nearest pixel (right at the edges of things) and bilinearly in inverse depth (exact on planes, however
    grazing); agreeing with either is enough.

    Args:
        depth: (T, H, W) true z-depth in metres, any float type; pixels not finite or not positive show nothing.
        path: T camera poses.
        intrinsics: of all frames; H, W >= 2.
        frame: the frame in question, 0 <= frame < T.
        earlier: frames that count as seen, each 0 <= e < `frame`: (0,) for the one input picture, or
            `earlier_frames(frame)` for the whole walk so far.
        depth_tolerance: relative, > 0.

    Returns:
        (H, W) bool; all False when `earlier` is empty.

    Raises:
        ValueError: shapes that disagree, a frame out of range, or a tolerance that is not positive.
    """
    size = (intrinsics.height, intrinsics.width)
    if depth.ndim != 3 or depth.shape[1:] != size or len(depth) != len(path) or min(size) < 2:
        raise ValueError(
            f"depth has shape {depth.shape} for {len(path)} poses and pictures of {size}: give (T, H, W), H, W >= 2"
        )
    if not 0 <= frame < len(path):
        raise ValueError(f"frame is {frame}: there are {len(path)} frames")
    for index in earlier:
        if not 0 <= index < frame:
            raise ValueError(f"earlier holds frame {index}, which is not before frame {frame}")
    if not depth_tolerance > 0:
        raise ValueError(f"depth_tolerance is {depth_tolerance!r}: give a positive share of the depth, such as 0.05")

    z = depth[frame].astype(np.float32).ravel()
    unseen = np.flatnonzero(np.isfinite(z) & (z > 0))
    points = pixel_rays(intrinsics).reshape(-1, 3)[unseen].astype(np.float32) * z[unseen, None]
    seen = np.zeros(z.size, dtype=bool)
    # The latest frames first: they share most with this one, so that few points are left for the others.
    for index in sorted(set(earlier), reverse=True):
        if not unseen.size:
            break
        found = _seen_in(points, path, intrinsics, frame, index, depth[index], depth_tolerance)
        seen[unseen[found]] = True
        unseen, points = unseen[~found], points[~found]
    return seen.reshape(size)


def _seen_in(
    points: Float32Array,
    path: CameraPath,
    intrinsics: Intrinsics,
    frame: int,
    index: int,
    depth: NDArray[np.floating],
    tolerance: float,
) -> BoolArray:
    """Return which points (N, 3), in the axes of camera `frame`, camera `index` sees; (N,)."""
    step = path.rotations_w2c[index] @ path.rotations_w2c[frame].T
    offset = path.rotations_w2c[index] @ (path.positions[frame] - path.positions[index])
    x, y, z = step.astype(np.float32) @ points.T + offset.astype(np.float32)[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        column = x / z * np.float32(intrinsics.fx) + np.float32(intrinsics.cx)
        row = y / z * np.float32(intrinsics.fy) + np.float32(intrinsics.cy)
    inside = (z > 0) & (column >= 0) & (column < intrinsics.width) & (row >= 0) & (row < intrinsics.height)
    candidates = np.flatnonzero(inside)
    column, row, z = column[candidates], row[candidates], z[candidates]

    inverse = _inverse_depth(depth)
    nearest = inverse[row.astype(np.intp), column.astype(np.intp)]
    agrees = np.abs(z * nearest - 1) <= tolerance
    agrees |= np.abs(z * _bilinear(inverse, column, row) - 1) <= tolerance
    found = np.zeros(len(points), dtype=bool)
    found[candidates[agrees]] = True
    return found


def _inverse_depth(depth: NDArray[np.floating]) -> Float32Array:
    """Return 1 / depth, and 0 (which agrees with nothing) where depth shows nothing."""
    z = depth.astype(np.float32)
    inverse: Float32Array = np.zeros_like(z)
    np.divide(1, z, out=inverse, where=np.isfinite(z) & (z > 0))
    return inverse


def _bilinear(picture: Float32Array, column: Float32Array, row: Float32Array) -> Float32Array:
    """Read a picture at continuous pixel coordinates; in the outer half pixel the last slope goes on."""
    height, width = picture.shape
    left = np.clip((column - 0.5).astype(np.intp), 0, width - 2)
    top = np.clip((row - 0.5).astype(np.intp), 0, height - 2)
    right_share = column - 0.5 - left.astype(np.float32)
    below_share = row - 0.5 - top.astype(np.float32)
    flat = picture.ravel()
    corner = top * width + left
    above = flat[corner] + (flat[corner + 1] - flat[corner]) * right_share
    below = flat[corner + width] + (flat[corner + width + 1] - flat[corner + width]) * right_share
    read: Float32Array = above + (below - above) * below_share
    return read


def psnr(a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None, peak: float | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB over the pixels of a mask.

    Args:
        a: pictures (..., H, W, C), uint8 or float.
        b: the same shape, uint8 if `a` is, else float.
        mask: (..., H, W) bool, the pixels that count; all when left out.
        peak: the width of the value range; 255 for uint8, where it may be left out, 1 for [0, 1], 2 for [-1, 1].

    Returns:
        dB; infinity for equal pictures, NaN when the mask is empty (so that it drops out of `np.nanmean`), or where the
        pixels that count hold NaN.

    Raises:
        ValueError: shapes or types that disagree, no `peak` for float pictures, or a `peak` that is not positive.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim < 3:
        raise ValueError(f"pictures have shapes {first.shape} and {second.shape}: give two (..., H, W, C) alike")
    both_uint8 = first.dtype == np.uint8 and second.dtype == np.uint8
    both_float = np.issubdtype(first.dtype, np.floating) and np.issubdtype(second.dtype, np.floating)
    if not both_uint8 and not both_float:
        raise ValueError(f"pictures are {first.dtype} and {second.dtype}: give both uint8 or both float")
    if peak is None and both_float:
        raise ValueError("float pictures need peak, the width of their range: 1 for [0, 1], 2 for [-1, 1]")
    top = 255.0 if peak is None else peak
    if not top > 0:
        raise ValueError(f"peak is {peak!r}: give a positive number")
    # uint8 differences wrap round: float before the subtraction.
    errors = np.square(first.astype(np.float64) - second.astype(np.float64))
    if mask is not None:
        chosen = np.asarray(mask)
        if chosen.dtype != np.bool_ or chosen.shape != first.shape[:-1]:
            raise ValueError(f"mask is {chosen.dtype} {chosen.shape}: give bool {first.shape[:-1]}")
        errors = errors[chosen]
    if not errors.size:
        return float("nan")
    mean = float(errors.mean())
    return float("inf") if mean == 0 else float(10 * np.log10(top**2 / mean))
