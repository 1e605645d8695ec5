"""The encoders of a latent frame's control in plain PyTorch, in the precision of their tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.control_encoders import ControlInputs, ControlWeights, EncodedControl, Layers


def control_encoders(
    weights: ControlWeights, octaves: int, pose_scale: float, side: int, inputs: ControlInputs
) -> EncodedControl:
    """See `relic_kernels.control_encoders.ControlEncoders`.

    Args:
        weights: of all.
        octaves: highest power of two of the Fourier features of the rays.
        pose_scale: metres that make one unit of position.
        side: of a patch.
        inputs: actions, poses and guide.
    """
    actions = (inputs.actions / weights.action_scale).flatten(2).unsqueeze(2)
    last = inputs.actions.shape[2] - 1
    rotations, positions = (x[:, 0, [last // 2, last]] for x in (inputs.rotations_w2c, inputs.positions))
    direction = torch.einsum("bpji,lj->blpi", rotations, weights.rays)
    origin = (positions / pose_scale).unsqueeze(1).expand_as(direction)
    lines = torch.cat([direction, torch.linalg.cross(origin, direction), origin], dim=-1)
    angles = (lines.unsqueeze(-1) * 2.0 ** torch.arange(octaves + 1, device=lines.device)).flatten(-2)
    rays = torch.cat([lines, angles.sin(), angles.cos()], dim=-1).flatten(2).unsqueeze(1)
    tokens, skip = None, None
    if inputs.guide is not None and weights.guide is not None and weights.skip is not None:
        tokens, skip = _guided(inputs.guide[:, :, 0], weights.guide, weights.skip, side)
    return EncodedControl(
        actions=_encoded(actions, weights.action), poses=_encoded(rays, weights.pose), guide=tokens, skip=skip
    )


def _encoded(x: Tensor, layers: Layers) -> Tensor:
    for weight, bias in layers[:2]:
        x = F.silu(F.linear(x, weight, bias))
    return torch.stack([F.linear(x, weight, bias) for weight, bias in layers[2:]])


def _guided(guide: Tensor, weight: Tensor, skip: Tensor, side: int) -> tuple[Tensor, Tensor]:
    channels = len(skip) // side**2
    patches = F.pixel_unshuffle(guide, side).unflatten(1, (-1, side**2)).flatten(3)
    latents, shares = patches[:, :channels], patches[:, channels:]
    seen = latents * (2 * shares.mean(dim=1, keepdim=True))
    tokens = F.linear(patches.flatten(1, 2).transpose(1, 2), weight)
    return tokens.unsqueeze(1), F.linear(seen.transpose(1, 2).flatten(1, 2).transpose(1, 2), skip).unsqueeze(1)
