"""LayerNorm with a shift and a scale for each group of rows, and the gated residual, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.dispatch import working_dtype


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """`LN(x) (1 + scale) + shift`, computed in float32 at least.

    Args:
        x: `(G, L, M)` G groups (latent frames) of L rows (tokens).
        shift: `(G, M)`.
        scale: `(G, M)`.
        eps: added to the variance.

    Returns:
        `(G, L, M)` in the dtype of `x`.
    """
    wide = working_dtype(x)
    normed = F.layer_norm(x.to(wide), x.shape[-1:], eps=eps)
    return torch.addcmul(shift.to(wide).unsqueeze(1), normed, 1 + scale.to(wide).unsqueeze(1)).to(x.dtype)


def modulated_norm_backward(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, shift and scale for the gradient `(G, L, M)` of the output."""
    wide = working_dtype(x)
    g, s = grad.to(wide), 1 + scale.to(wide).unsqueeze(1)
    centred = x.to(wide) - x.to(wide).mean(-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normed, inner = centred * inverse, g * s
    along = (inner * normed).mean(-1, keepdim=True)
    dx = (inner - inner.mean(-1, keepdim=True) - normed * along) * inverse
    return dx.to(x.dtype), g.sum(1).to(scale.dtype), (g * normed).sum(1).to(scale.dtype)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """`x + y gate`, computed in float32 at least.

    Args:
        x: `(G, L, M)`.
        y: `(G, L, M)`.
        gate: `(G, M)`.

    Returns:
        `(G, L, M)` in the dtype of `x`.
    """
    wide = working_dtype(x)
    return torch.addcmul(x.to(wide), y.to(wide), gate.to(wide).unsqueeze(1)).to(x.dtype)


def gated_residual_backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of y and gate for the gradient `(G, L, M)` of the output, which is also that of x."""
    wide = working_dtype(y)
    g = grad.to(wide)
    return (g * gate.to(wide).unsqueeze(1)).to(y.dtype), (g * y.to(wide)).sum(1).to(gate.dtype)
