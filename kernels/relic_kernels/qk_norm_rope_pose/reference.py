"""Queries and keys made ready for attention, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from relic_kernels.dispatch import working_dtype


def qk_norm_rope_pose(
    q: Tensor, k: Tensor, pose: Tensor, weight_q: Tensor, weight_k: Tensor, rotation: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add the pose to both, normalise both over the whole width, rotate the queries.

    Args:
        q: `(G, L, M)` projected queries of G groups (latent frames of a batch) of L tokens; M = heads x D.
        k: `(G, L, M)`.
        pose: `(G, 1 or L, M)` pose embedding.
        weight_q: `(M,)` of the queries' RMSNorm.
        weight_k: `(M,)`.
        rotation: `(T, D / 2, 2)` cosine and sine of each token's turn, for T tokens; row r of all `G L` rows takes
            number `r mod T`, so that a batch shares one table.
        eps: added to the mean square.

    Returns:
        Rotated queries and unrotated keys, `(G, L, M)` each: a memory keeps keys free of any place.
    """
    wide = working_dtype(q)
    added = [x.to(wide) + pose.to(wide) for x in (q, k)]
    normed = [
        x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(wide)
        for x, weight in zip(added, (weight_q, weight_k), strict=True)
    ]
    return _rotate(normed[0], rotation.to(wide)).to(q.dtype), normed[1].to(k.dtype)


def qk_norm_rope_pose_backward(
    grad_q: Tensor,
    grad_k: Tensor,
    q: Tensor,
    k: Tensor,
    pose: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    rotation: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, pose and both weights for those of the two outputs, `(G, L, M)` each."""
    wide = working_dtype(q)
    back = rotation.to(wide) * rotation.new_tensor([1.0, -1.0]).to(wide)
    given = (_rotate(grad_q.to(wide), back), grad_k.to(wide))
    inputs, weights = [], []
    for x, g, weight in zip((q, k), given, (weight_q, weight_k), strict=True):
        added = x.to(wide) + pose.to(wide)
        inverse = torch.rsqrt(added.square().mean(-1, keepdim=True) + eps)
        normed, inner = added * inverse, g * weight.to(wide)
        inputs.append((inner - normed * (inner * normed).mean(-1, keepdim=True)) * inverse)
        weights.append((g * normed).sum((0, 1)).to(weight.dtype))
    dpose = inputs[0] + inputs[1]
    if pose.shape[1] == 1:
        dpose = dpose.sum(1, keepdim=True)
    return inputs[0].to(q.dtype), inputs[1].to(k.dtype), dpose.to(pose.dtype), weights[0], weights[1]


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn neighbouring channels of every head: `(G, L, M)`."""
    rows = x.shape[0] * x.shape[1]
    places = torch.arange(rows, device=x.device) % rotation.shape[0]
    cos, sin = rotation[places].unsqueeze(1).unbind(-1)
    even, odd = x.reshape(rows, -1, rotation.shape[1], 2).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.reshape(x.shape)
