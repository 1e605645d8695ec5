"""Pictures: brought to the world's size, and between uint8 frames and the VAE's tensors.

Axes: B batch, T pixel frames, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def fit_picture(image: NDArray[np.uint8] | Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Crop the centre to the aspect `width : height` and resize.

    Args:
        image: PIL picture of any mode, or `(h, w, 3)` uint8 RGB.
        height: rows wanted.
        width: columns wanted.

    Returns:
        `(height, width, 3)` uint8 RGB; a picture of that very size comes back unchanged.

    Raises:
        ValueError: for an array of another shape or type, or an empty picture.
    """
    if not isinstance(image, Image.Image):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"picture of shape {image.shape} and type {image.dtype}: give (h, w, 3) uint8 RGB")
        image = Image.fromarray(image)
    picture = image.convert("RGB")
    if picture.size == (width, height):
        return np.array(picture)
    scale = min(picture.width / width, picture.height / height)
    crop_width, crop_height = width * scale, height * scale
    left, top = (picture.width - crop_width) / 2, (picture.height - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS, box=box))


def frames_to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """`(..., T, H, W, 3)` uint8 -> `(..., 3, T, H, W)` float32 in [-1, 1]."""
    return torch.as_tensor(np.array(frames)).movedim(-1, -4).float().div_(127.5).sub_(1.0)


def tensor_to_frames(pixels: Tensor) -> NDArray[np.uint8]:
    """`(..., 3, T, H, W)` in [-1, 1], clamped -> `(..., T, H, W, 3)` uint8."""
    scaled = pixels.detach().float().clamp(-1, 1).add_(1).mul_(127.5).round_()
    # by way of integers: torch takes three times as long from floats straight to bytes
    frames: NDArray[np.uint8] = scaled.to(torch.int32).to(torch.uint8).movedim(-4, -1).cpu().numpy()
    return frames
