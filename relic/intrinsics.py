"""The pinhole camera: intrinsics, pixel rays, projection.

Pixel coordinates are continuous: the picture spans [0, width] x [0, height] and the centre of pixel (column
j, row i) is (j + 0.5, i + 0.5). Camera axes are OpenCV's: x right, y down, z forward; depth is z, in metres,
not distance along the ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera without distortion.

    Attributes:
        fx: focal length in pixel widths, > 0.
        fy: focal length in pixel heights, > 0.
        cx: x of the principal point in pixels (width / 2 when centred).
        cy: y of the principal point in pixels (height / 2 when centred).
        width: picture width in pixels, >= 1.
        height: picture height in pixels, >= 1.

    Raises:
        ValueError: a value is out of its range.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        for name in ("fx", "fy"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise ValueError(f"{name} is {value!r}: give a positive number of pixels")
        for name in ("cx", "cy"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}: give a finite number of pixels")
        for name in ("width", "height"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise ValueError(f"{name} is {value!r}: give a whole number of pixels from 1")

    @classmethod
    def from_fov(cls, vertical_fov_deg: float, width: int, height: int) -> Intrinsics:
        """Return a centred camera with square pixels.

        Raises:
            ValueError: `vertical_fov_deg` is not between 0 and 180 (exclusive), or a size is not positive.
        """
        if not 0 < vertical_fov_deg < 180:
            raise ValueError(f"vertical_fov_deg is {vertical_fov_deg!r}: give degrees between 0 and 180")
        focal = height / 2 / math.tan(math.radians(vertical_fov_deg) / 2)
        return cls(focal, focal, width / 2, height / 2, width, height)

    def scaled(self, width: int, height: int) -> Intrinsics:
        """Return the same view sampled at another size, e.g. one entry a token: `scaled(10, 6)`."""
        x, y = width / self.width, height / self.height
        return Intrinsics(self.fx * x, self.fy * y, self.cx * x, self.cy * y, width, height)


def pixel_rays(intrinsics: Intrinsics) -> Float64Array:
    """Return the ray through each pixel centre in camera axes, (height, width, 3), scaled to z = 1."""
    x = (np.arange(intrinsics.width) + 0.5 - intrinsics.cx) / intrinsics.fx
    y = (np.arange(intrinsics.height) + 0.5 - intrinsics.cy) / intrinsics.fy
    rays = np.ones((intrinsics.height, intrinsics.width, 3))
    rays[..., 0] = x
    rays[..., 1] = y[:, None]
    return rays


def project(points_camera: Float64Array, intrinsics: Intrinsics) -> Float64Array:
    """Project points in camera axes to continuous pixel coordinates.

    Args:
        points_camera: (..., 3) metres.
        intrinsics: the camera.

    Returns:
        (..., 2) x and y in pixels, also outside the picture; NaN for points at or behind the camera (z <= 0).
    """
    z = points_camera[..., 2:]
    z = np.where(z > 0, z, np.nan)
    focal = np.array([intrinsics.fx, intrinsics.fy])
    centre = np.array([intrinsics.cx, intrinsics.cy])
    pixels: Float64Array = points_camera[..., :2] / z * focal + centre
    return pixels
