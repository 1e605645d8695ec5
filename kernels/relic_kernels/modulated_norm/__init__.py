"""LayerNorm with a shift and a scale (adaLN), and the gated residual that follows each half of a block.

Registered as `torch.ops.relic.modulated_norm` and `torch.ops.relic.gated_residual`, with gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relic_kernels.dispatch import chosen, launched_on, require
from relic_kernels.modulated_norm import reference


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """`LN(x) (1 + scale) + shift` over the last axis.

    Args:
        x: `(G, L, M)` G groups (latent frames) of L rows (tokens).
        shift: `(G, M)`.
        scale: `(G, M)`.
        eps: added to the variance.

    Returns:
        `(G, L, M)` in the dtype of `x`.

    Raises:
        ValueError: for shapes that do not fit.
    """
    _check(x, shift=shift, scale=scale)
    out: Tensor = torch.ops.relic.modulated_norm(x, shift, scale, eps)
    return out


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """`x + y gate`.

    Args:
        x: `(G, L, M)`.
        y: `(G, L, M)`.
        gate: `(G, M)`.

    Returns:
        `(G, L, M)` in the dtype of `x`.

    Raises:
        ValueError: for shapes that do not fit.
    """
    _check(x, gate=gate)
    require(x.shape == y.shape, f"y {tuple(y.shape)} must have the shape of x {tuple(x.shape)}")
    out: Tensor = torch.ops.relic.gated_residual(x, y, gate)
    return out


def _check(x: Tensor, **vectors: Tensor) -> None:
    require(x.ndim == 3, f"x {tuple(x.shape)} must be (groups, rows, width)")
    for name, vector in vectors.items():
        wanted = (x.shape[0], x.shape[2])
        require(vector.shape == wanted, f"{name} {tuple(vector.shape)} must be {wanted} for x {tuple(x.shape)}")


@torch.library.custom_op("relic::modulated_norm", mutates_args=())
def _modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    if chosen(x) == "reference":
        return reference.modulated_norm(x, shift, scale, eps)
    from relic_kernels.modulated_norm import triton_impl

    with launched_on(x):
        return triton_impl.modulated_norm_forward(x.contiguous(), shift.contiguous(), scale.contiguous(), eps)


_modulated_norm.register_fake(lambda x, *_: torch.empty_like(x))


@torch.library.custom_op("relic::modulated_norm_backward", mutates_args=())
def _modulated_norm_backward(grad: Tensor, x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    if chosen(x) == "reference":
        return reference.modulated_norm_backward(grad, x, scale, eps)
    from relic_kernels.modulated_norm import triton_impl

    return triton_impl.modulated_norm_backward(grad.contiguous(), x.contiguous(), scale.contiguous(), eps)


_modulated_norm_backward.register_fake(
    lambda _, x, scale, *_rest: (torch.empty_like(x), torch.empty_like(scale), torch.empty_like(scale))
)


@torch.library.custom_op("relic::gated_residual", mutates_args=())
def _gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    if chosen(x) == "reference":
        return reference.gated_residual(x, y, gate)
    from relic_kernels.modulated_norm import triton_impl

    with launched_on(x):
        return triton_impl.gated_residual_forward(x.contiguous(), y.contiguous(), gate.contiguous())


_gated_residual.register_fake(lambda x, *_: torch.empty_like(x))


@torch.library.custom_op("relic::gated_residual_backward", mutates_args=())
def _gated_residual_backward(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    if chosen(y) == "reference":
        return reference.gated_residual_backward(grad, y, gate)
    from relic_kernels.modulated_norm import triton_impl

    return triton_impl.gated_residual_backward(grad.contiguous(), y.contiguous(), gate.contiguous())


_gated_residual_backward.register_fake(lambda _, y, gate: (torch.empty_like(y), torch.empty_like(gate)))


def _save_norm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, scale, ctx.eps = inputs
    ctx.save_for_backward(x, scale)


def _norm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    x, scale = ctx.saved_tensors
    dx, dshift, dscale = torch.ops.relic.modulated_norm_backward(grad, x, scale, ctx.eps)
    return dx, dshift, dscale, None


def _save_residual(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, y, gate = inputs
    ctx.save_for_backward(y, gate)


def _residual_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, gate = ctx.saved_tensors
    dy, dgate = torch.ops.relic.gated_residual_backward(grad, y, gate)
    return grad, dy, dgate


_modulated_norm.register_autograd(_norm_backward, setup_context=_save_norm)
_gated_residual.register_autograd(_residual_backward, setup_context=_save_residual)
