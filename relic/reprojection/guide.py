"""The guide of a block: what known views show along its camera path, as latents for the network to read.

Out of scope: which views to use (`relic.reprojection.view_memory`), painting what no view shows (the network's).

Axes: N cases, S views, F latent frames of a block, P pixel frames of a latent, H rows, W columns, h w latent cells,
C latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relic.intrinsics import Intrinsics
from relic.reprojection.config import ReprojectionConfig
from relic.reprojection.depth import DepthNet
from relic.reprojection.warp import Camera, Views, warp_with_shares_of_views
from relic.vae.config import SPATIAL_FACTOR
from relic.vae.protocol import VideoEncoder

LATEST = 0
"""Number of the latest view among a case's views: the first, whose shares come first."""


class Reprojector:
    """Networks and camera that turn views into guides; it holds no session.

    Args:
        vae: encodes warped frames.
        depth: sees the depth of a picture.
        intrinsics: of the world.
        config: order of views and tolerance.
    """

    def __init__(self, vae: VideoEncoder, depth: DepthNet, intrinsics: Intrinsics, config: ReprojectionConfig) -> None:
        self.config = config
        self._vae, self._depth = vae, depth
        self._camera = Camera(intrinsics)

    @torch.no_grad()
    def see_depth(self, pictures: Tensor) -> Tensor:
        """z-depth `(N, H, W)` in metres of pictures `(N, 3, H, W)` in [-1, 1]."""
        return self._depth.depth(pictures)

    @torch.no_grad()
    def guide(self, views: Views, rotations_w2c: Tensor, positions: Tensor, order: Tensor | None = None) -> Tensor:
        """What the views show of a block.

        The warped frames follow the latest view into a stream of the VAE of its own, so that a guide depends on
        nothing but its views.

        Args:
            views: the latest first, then remembered ones, in the world of the poses.
            rotations_w2c: `(N, F, P, 3, 3)` of the block's pixel frames.
            positions: `(N, F, P, 3)`, metres.
            order: `(N, S)` which view paints first; by default as the configuration prefers.

        Returns:
            `(N, C + 2 P, F, h, w)`: latents, then the share of pixels taken from the latest view for each pixel
            frame, then the share taken from remembered ones.
        """
        count, many = views.positions.shape[:2]
        if order is None and self.config.prefer == "remembered":
            order = torch.tensor([[*range(1, many), LATEST]] * count)
        pictures, shares = warp_with_shares_of_views(
            self._camera,
            views,
            rotations_w2c,
            positions,
            cell=SPATIAL_FACTOR,
            order=order,
            tolerance=self.config.tolerance,
        )
        latents = self._vae.encode_after(views.pictures[:, LATEST], pictures.transpose(1, 2))
        return torch.cat([latents, shares], dim=1)
