"""What steers a block: relative actions and absolute camera poses, and the encoders that embed them.

Axes: B batch, F latent frames, P pixel frames of a latent frame, A action channels, L tokens of a frame, M width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from relic.camera import CameraPath, Intrinsics
from relic.config import ModelConfig
from relic.model.layers import fourier_features
from relic.precision import full_precision


@dataclass(frozen=True, kw_only=True)
class CameraConditioning:
    """Camera control of a run of latent frames.

    Attributes:
        actions: `(B, F, P, A)`, metres and radians a pixel frame (see `relic.actions`).
        rotations_w2c: `(B, F, P, 3, 3)`.
        positions: `(B, F, P, 3)`, metres, in the world of the first frame.
    """

    actions: Tensor
    rotations_w2c: Tensor
    positions: Tensor

    def __getitem__(self, frames: slice) -> CameraConditioning:
        """A run of latent frames."""
        return CameraConditioning(
            actions=self.actions[:, frames],
            rotations_w2c=self.rotations_w2c[:, frames],
            positions=self.positions[:, frames],
        )

    def to(self, device: torch.device) -> CameraConditioning:
        """The same on another device."""
        return CameraConditioning(
            actions=self.actions.to(device),
            rotations_w2c=self.rotations_w2c.to(device),
            positions=self.positions.to(device),
        )

    @property
    def num_frames(self) -> int:
        """Latent frames F."""
        return self.actions.shape[1]


def camera_conditioning(actions: np.ndarray, path: CameraPath, frames_per_latent: int = 4) -> CameraConditioning:
    """Group one clip's pixel frames by latent frame; a clip's first pixel frame fills its latent alone.

    Args:
        actions: `(T, A)`, or fewer latents' worth: T = 1 + P (F - 1) from a clip's start, T = P F later on.
        path: T camera poses.
        frames_per_latent: P.

    Returns:
        Conditioning with B = 1, float32.

    Raises:
        ValueError: when lengths differ or do not fill latent frames.
    """
    if len(actions) != len(path):
        raise ValueError(f"{len(actions)} actions for {len(path)} camera poses: they go in pairs")
    remainder = len(path) % frames_per_latent
    if remainder not in (0, 1):
        raise ValueError(f"{len(path)} pixel frames do not fill latent frames of {frames_per_latent}")

    def group(values: np.ndarray) -> Tensor:
        if remainder == 1:
            values = np.concatenate([np.repeat(values[:1], frames_per_latent - 1, axis=0), values])
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        return tensor.reshape(1, -1, frames_per_latent, *values.shape[1:])

    return CameraConditioning(
        actions=group(np.asarray(actions)),
        rotations_w2c=group(path.rotations_w2c),
        positions=group(path.positions),
    )


def stack_conditioning(clips: Sequence[CameraConditioning]) -> CameraConditioning:
    """Clips of equal length as one batch."""
    return CameraConditioning(
        actions=torch.cat([clip.actions for clip in clips]),
        rotations_w2c=torch.cat([clip.rotations_w2c for clip in clips]),
        positions=torch.cat([clip.positions for clip in clips]),
    )


class ActionEncoder(nn.Module):
    """Relative actions -> one feature vector a latent frame: temporal patchify and MLP (paper, section 4.1.2).

    Each layer of the transformer has its own output projection, which starts at zero.
    """

    scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        scale = torch.full((config.num_actions,), config.translation_scale_m, dtype=torch.float32)
        scale[6:12] = config.rotation_scale_rad
        scale[12:] = 1.0
        self.register_buffer("scale", scale, persistent=False)
        self.proj_in = nn.Linear(config.frames_per_latent * config.num_actions, config.dim)
        self.proj_hidden = nn.Linear(config.dim, config.dim)
        self.proj_out = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in range(config.num_layers))

    def forward(self, actions: Tensor) -> list[Tensor]:
        """`(B, F, P, A)` -> one `(B, F, 1, M)` for each layer."""
        scaled = (actions / self.scale.to(actions.device)).flatten(2).to(self.proj_in.weight.dtype)
        hidden = nn.functional.silu(self.proj_in(scaled))
        hidden = nn.functional.silu(self.proj_hidden(hidden))
        return [layer(hidden).unsqueeze(2) for layer in self.proj_out]


class PoseEncoder(nn.Module):
    """Absolute poses -> the vectors added to Q and K (paper, section 4.1.2), one projection a layer, zero at first.

    `frame`: rotation and position of the latent's pixel frames, one vector for all its tokens.
    `ray`: direction, moment and origin of the token's own viewing ray at two of its pixel frames.
    """

    rays: Tensor

    def __init__(self, config: ModelConfig, intrinsics: Intrinsics) -> None:
        super().__init__()
        self.encoding = config.pose_encoding
        self.octaves = config.pose_octaves
        self.scale_m = config.pose_scale_m
        self.register_buffer("rays", token_rays(intrinsics, config.grid), persistent=False)
        growth = 3 + 2 * config.pose_octaves
        in_dim = config.frames_per_latent * (9 + 3 * growth) if self.encoding == "frame" else 2 * 9 * growth
        self.proj_in = nn.Linear(in_dim, config.dim)
        self.proj_hidden = nn.Linear(config.dim, config.dim)
        self.proj_out = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in range(config.num_layers))

    def forward(self, rotations_w2c: Tensor, positions: Tensor, tokens: slice | None = None) -> list[Tensor]:
        """`(B, F, P, 3, 3)`, `(B, F, P, 3)` -> one `(B, F, 1 or L, M)` for each layer; of `tokens` only, if given."""
        with full_precision():
            if self.encoding == "frame":
                features = self._frame_features(rotations_w2c, positions / self.scale_m)
            else:
                rays = self.rays if tokens is None else self.rays[tokens]
                features = self._ray_features(rotations_w2c, positions / self.scale_m, rays)
            inputs = features.to(self.proj_in.weight.dtype)
        hidden = nn.functional.silu(self.proj_in(inputs))
        hidden = nn.functional.silu(self.proj_hidden(hidden))
        return [layer(hidden) for layer in self.proj_out]

    def _frame_features(self, rotations_w2c: Tensor, positions: Tensor) -> Tensor:
        position_features = fourier_features(positions, self.octaves)
        return torch.cat([rotations_w2c.flatten(3), position_features], dim=-1).flatten(2).unsqueeze(2)

    def _ray_features(self, rotations_w2c: Tensor, positions: Tensor, rays: Tensor) -> Tensor:
        last = rotations_w2c.shape[2] - 1
        pick = [last // 2, last]
        direction = torch.einsum("bfpji,lj->bflpi", rotations_w2c[:, :, pick], rays.to(rotations_w2c))
        origin = positions[:, :, None, pick].expand_as(direction)
        plucker = torch.cat([direction, torch.linalg.cross(origin, direction), origin], dim=-1)
        return fourier_features(plucker, self.octaves).flatten(3)


def token_rays(intrinsics: Intrinsics, grid: tuple[int, int]) -> Tensor:
    """Unit viewing rays through the token centres, camera axes: `(L, 3)` float32, row-major."""
    rows, columns = grid
    y = (torch.arange(rows, dtype=torch.float32) + 0.5) * (intrinsics.height / rows)
    x = (torch.arange(columns, dtype=torch.float32) + 0.5) * (intrinsics.width / columns)
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    rays = torch.stack(
        [
            (grid_x - intrinsics.cx) / intrinsics.fx,
            (grid_y - intrinsics.cy) / intrinsics.fy,
            torch.ones_like(grid_x),
        ],
        dim=-1,
    )
    return nn.functional.normalize(rays.flatten(0, 1), dim=-1).float()
