"""Small layers with Wan 2.1's parameter names.

Axes: B batch, F latent frames, L tokens of a frame, M model width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relic_kernels
from relic.packing import PackedLinear
from relic_kernels.dispatch import chosen


class RMSNorm(nn.Module):
    """Root-mean-square norm over the whole width ("across heads" in Wan)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        weight = self.weight.to(x.dtype)
        if torch.is_grad_enabled():
            out: Tensor = _RMSNormFunction.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
            return out
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = inverse.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        return (wide * inverse).mul_(weight).to(x.dtype)


class WideLayerNorm(nn.LayerNorm):
    """LayerNorm in the precision of its parameters, which may be wider than the input's; the input's is kept."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        if _mixes(x, self.weight):
            return super().forward(x)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def _mixes(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's LayerNorm takes `x` beside parameters that are wider: the processor's does, without a copy."""
    if x.dtype == weight.dtype:
        return True
    return x.device.type == "cpu" and weight.dtype == torch.float32 and x.dtype in (torch.bfloat16, torch.float16)


class _RMSNormFunction(torch.autograd.Function):
    """`x w / rms(x)` with a backward of its own: torch has no fused one on the CPU, and autograd's is 3x slower."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = (inverse.square_().div_(x.shape[-1]).add_(eps)).rsqrt_().to(x.dtype)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        normed = x * inverse
        weighted = grads[0] * weight
        along = (weighted * normed).mean(dim=-1, keepdim=True)
        grad_weight = (grads[0] * normed).flatten(0, -2).sum(0)
        return weighted.sub_(normed.mul_(along)).mul_(inverse), grad_weight, None


class PatchEmbedding(nn.Conv3d):
    """A convolution whose stride is its kernel, as a linear layer over patches; Wan's parameter names and shapes."""

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        patch = (1, patch_size, patch_size)
        super().__init__(in_channels, dim, patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        """`(..., C p p)` of any precision -> `(..., M)` in the weights'."""
        return F.linear(patches.to(self.weight.dtype), self.weight.flatten(1), self.bias)


class GELUProjection(nn.Module):
    """Linear layer and GELU (diffusers' `ffn.net.0`)."""

    def __init__(self, dim: int, hidden_dim: int, approximate: str) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden_dim)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Project and activate."""
        if isinstance(self.proj, PackedLinear):
            return self.proj.with_gelu(x, self.approximate)
        return F.gelu(self.proj(x), approximate=self.approximate)


class FeedForward(nn.Module):
    """Two-layer perceptron; the parameter names follow diffusers (`net.0.proj`, `net.2`)."""

    def __init__(self, dim: int, hidden_dim: int, approximate: str) -> None:
        super().__init__()
        activated = GELUProjection(dim, hidden_dim, approximate)
        self.net = nn.ModuleList([activated, nn.Identity(), nn.Linear(hidden_dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers."""
        for layer in self.net:
            x = layer(x)
        return x


class TwoLayerEmbedder(nn.Module):
    """`linear_1`, activation, `linear_2`: Wan's time and text embedders."""

    def __init__(self, in_dim: int, dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.activation = activation
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the last axis."""
        out: Tensor = self.linear_2(self.activation(self.linear_1(x)))
        return out


def sinusoidal_embedding(values: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of `values` at geometric frequencies: `values.shape + (dim,)`."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=values.device) / half)
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def fourier_features(x: Tensor, octaves: int) -> Tensor:
    """`x` with sin and cos of `x 2^k`, k = 0..octaves: the last axis grows `3 + 2 octaves` times."""
    scaled = x[..., None] * (2.0 ** torch.arange(octaves + 1, device=x.device, dtype=x.dtype))
    return torch.cat([x, scaled.sin().flatten(-2), scaled.cos().flatten(-2)], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without parameters, then `x (1 + scale) + shift` (adaLN), in the precision of the modulation.

    Args:
        x: `(B, F, L, M)`.
        shift: `(B, F, 1, M)`.
        scale: `(B, F, 1, M)`.
        eps: added to the variance.
    """
    if chosen(x) == "triton":
        shift, scale = (y.squeeze(2).flatten(0, 1) for y in (shift, scale))
        return relic_kernels.modulated_norm(x.flatten(0, 1), shift, scale, eps).view_as(x)
    if shift.numel() == x.shape[-1] and _mixes(x, shift) and not torch.is_grad_enabled():
        return F.layer_norm(x, x.shape[-1:], 1 + scale.flatten(), shift.flatten(), eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = F.layer_norm(wide, x.shape[-1:], eps=eps).to(shift.dtype)
    return torch.addcmul(shift, normed, 1 + scale).to(x.dtype)


def gated_residual(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """`x + update * gate` in the precision of the gate `(B, F, 1, M)`; the dtype of `x` `(B, F, L, M)` is kept."""
    if chosen(x) == "triton":
        frames, change = x.flatten(0, 1), update.to(x.dtype).flatten(0, 1)
        return relic_kernels.gated_residual(frames, change, gate.squeeze(2).flatten(0, 1)).view_as(x)
    return torch.addcmul(x, update, gate).to(x.dtype)
