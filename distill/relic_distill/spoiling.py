"""Pictures made as imperfect as a world paints them, or painted in other colours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def spoil_pictures(pictures: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Pictures `(B, 3, H, W)` in [-1, 1], each blurred, faded and speckled by its own random amounts."""
    count = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, 1, 1, 1), generator=generator)

    height, width = pictures.shape[-2:]
    coarse = F.interpolate(F.avg_pool2d(pictures, 2), (height, width), mode="bilinear", align_corners=False)
    blurred = torch.lerp(pictures, coarse, uniform(0.0, 1.0) * strength)
    faded = blurred * (1 + uniform(-0.15, 0.15) * strength) + uniform(-0.1, 0.1) * strength
    noise = torch.randn(pictures.shape, generator=generator)
    return (faded + uniform(0.0, 0.08) * strength * noise).clamp(-1, 1)


def recolour_pictures(pictures: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Pictures `(B, 3, H, W)`, some of them with their colour channels shuffled: other paint on the same walls."""
    count = len(pictures)
    order = torch.rand((count, 3), generator=generator).argsort(dim=1)
    kept = torch.rand(count, generator=generator) >= chance
    order[kept] = torch.arange(3)
    return pictures.gather(1, order[:, :, None, None].expand_as(pictures))
