"""PyTorch's fused attention over unpacked keys and values, and the logarithms that the backward kernels read."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(q: Tensor, keys: Tensor, values: Tensor, softmax_scale: float) -> Tensor:
    """Attention by the kernel that PyTorch thinks fastest.

    Args:
        q: `(B, L, H, D)`.
        keys: `(B, T, H, D)`.
        values: `(B, T, H, D)`.
        softmax_scale: factor of the logits.

    Returns:
        `(B, L, H, D)`, contiguous.
    """
    out = F.scaled_dot_product_attention(*_heads_first(q, keys, values), scale=softmax_scale)
    return out.transpose(1, 2).contiguous()


def attend_with_logs(q: Tensor, keys: Tensor, values: Tensor, softmax_scale: float) -> tuple[Tensor, Tensor]:
    """As `attend`, by FlashAttention, in half precision; also the base-2 logarithm of each query's sum, `(B, H, L)`.

    It is called by its name, since the public function does not give the logarithm.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    if q.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse, *_ = flash(*_heads_first(q, keys, values), scale=softmax_scale)
    return out.transpose(1, 2).contiguous(), (lse / math.log(2)).contiguous()


def _heads_first(q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
