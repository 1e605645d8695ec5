"""Configuration of reprojection and of the depth network it stands on."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Literal

Preference = Literal["latest", "remembered"]
"""Which view paints a pixel that both the latest and a remembered view show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthConfig:
    """Sizes of the depth network: a U-Net of three stages, a quarter to a sixteenth of the picture's resolution.

    Attributes:
        channels: width of each stage.
        blocks: residual blocks of each stage; all but the deepest have as many on the way up.
        expansion: hidden width of a block, in multiples of the stage's width.
    """

    channels: tuple[int, int, int] = (64, 128, 256)
    blocks: tuple[int, int, int] = (2, 2, 6)
    expansion: int = 2

    def __post_init__(self) -> None:
        for name in ("channels", "blocks"):
            values = getattr(self, name)
            if len(values) != 3 or min(values) < 1:
                raise ValueError(f"depth {name} {values} must be three positive numbers")
        if self.expansion < 1:
            raise ValueError(f"depth expansion {self.expansion} must be at least 1")

    @classmethod
    def tiny(cls) -> DepthConfig:
        """The sizes that tests use."""
        return cls(channels=(8, 8, 8), blocks=(1, 1, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReprojectionConfig:
    """How earlier views guide a new block.

    Attributes:
        remembered_views: views looked up in memory for a block, beside the latest one; 0 for the latest alone.
        prefer: which of them paints a pixel that several show.
        tolerance: relative difference in depth up to which two views are taken to show one surface.
        apart_m: a view is remembered once the camera is this far from every remembered one,
        apart_deg: or has turned this far from it.
        max_views: views remembered at most; beyond, the oldest but the first is forgotten.
        depth: the depth network.
    """

    remembered_views: int = 1
    prefer: Preference = "remembered"
    tolerance: float = 0.1
    apart_m: float = 0.2
    apart_deg: float = 10.0
    max_views: int = 256
    depth: DepthConfig = field(default_factory=DepthConfig)

    def __post_init__(self) -> None:
        if self.remembered_views < 0 or self.max_views < 1:
            raise ValueError(
                f"remembered_views {self.remembered_views} must be >= 0 and max_views {self.max_views} >= 1"
            )
        if self.prefer not in typing.get_args(Preference):
            raise ValueError(f"prefer {self.prefer!r} is not one of {typing.get_args(Preference)}")
        for name in ("tolerance", "apart_m", "apart_deg"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} must be positive")
