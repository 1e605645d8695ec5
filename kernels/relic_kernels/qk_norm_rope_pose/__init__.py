"""Pose, RMSNorm across heads and rotary embedding of queries; pose and norm of keys, which a memory keeps unrotated.

Registered as `torch.ops.relic.qk_norm_rope_pose`, with gradients for all but the rotation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relic_kernels.dispatch import chosen, launched_on, require
from relic_kernels.qk_norm_rope_pose import reference


def qk_norm_rope_pose(
    q: Tensor, k: Tensor, pose: Tensor, weight_q: Tensor, weight_k: Tensor, rotation: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Queries and keys ready for attention.

    Args:
        q: `(G, L, M)` projected queries of G groups (latent frames of a batch) of L tokens; M = heads x D.
        k: `(G, L, M)`.
        pose: `(G, 1 or L, M)` pose embedding, added to both.
        weight_q: `(M,)` of the queries' RMSNorm.
        weight_k: `(M,)`.
        rotation: `(T, D / 2, 2)` float32 cosine and sine of each token's turn; row r of all `G L` rows takes number
            `r mod T`, so that a batch shares one table.
        eps: added to the mean square.

    Returns:
        Rotated queries and unrotated keys, `(G, L, M)` each.

    Raises:
        ValueError: for shapes that do not fit.
    """
    require(q.ndim == 3 and q.shape == k.shape, f"q {tuple(q.shape)} and k {tuple(k.shape)} must be one (G, L, M)")
    groups, rows, width = q.shape
    fitting = ((groups, 1, width), (groups, rows, width))
    require(tuple(pose.shape) in fitting, f"pose {tuple(pose.shape)} must be one of {fitting}")
    for name, weight in (("weight_q", weight_q), ("weight_k", weight_k)):
        require(weight.shape == (width,), f"{name} {tuple(weight.shape)} must be ({width},)")
    require(
        rotation.ndim == 3 and rotation.shape[2] == 2 and width % (2 * rotation.shape[1]) == 0,
        f"rotation {tuple(rotation.shape)} must be (T, D / 2, 2) with heads of D channels filling {width}",
    )
    require(
        groups * rows % rotation.shape[0] == 0,
        f"rotation of {rotation.shape[0]} tokens does not fill {groups} groups of {rows} tokens",
    )
    q_out, k_out = torch.ops.relic.qk_norm_rope_pose(q, k, pose, weight_q, weight_k, rotation, eps)
    return q_out, k_out


@torch.library.custom_op("relic::qk_norm_rope_pose", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, pose: Tensor, weight_q: Tensor, weight_k: Tensor, rotation: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    if chosen(q) == "reference":
        return reference.qk_norm_rope_pose(q, k, pose, weight_q, weight_k, rotation, eps)
    from relic_kernels.qk_norm_rope_pose import triton_impl

    q, k, pose = q.contiguous(), k.contiguous(), pose.contiguous()
    weight_q, weight_k, rotation = weight_q.contiguous(), weight_k.contiguous(), rotation.contiguous()
    with launched_on(q):
        return triton_impl.forward(q, k, pose, weight_q, weight_k, rotation, eps)


_forward.register_fake(lambda q, k, *_: (torch.empty_like(q), torch.empty_like(k)))


@torch.library.custom_op("relic::qk_norm_rope_pose_backward", mutates_args=())
def _backward(
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
    if chosen(q) == "reference":
        return reference.qk_norm_rope_pose_backward(grad_q, grad_k, q, k, pose, weight_q, weight_k, rotation, eps)
    from relic_kernels.qk_norm_rope_pose import triton_impl

    q, k, pose = q.contiguous(), k.contiguous(), pose.contiguous()
    weight_q, weight_k, rotation = weight_q.contiguous(), weight_k.contiguous(), rotation.contiguous()
    return triton_impl.backward(grad_q.contiguous(), grad_k.contiguous(), q, k, pose, weight_q, weight_k, rotation, eps)


# q, k, pose and both weights
_backward.register_fake(lambda _q, _k, *given: tuple(torch.empty_like(tensor) for tensor in given[:5]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _propagate(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.relic.qk_norm_rope_pose_backward(grad_q, grad_k, *ctx.saved_tensors, ctx.eps)
    return (*gradients, None, None)


_forward.register_autograd(_propagate, setup_context=_save)
