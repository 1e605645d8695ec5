"""Attention of a block to memory and to itself.

Axes: N layers, B batch, F latent frames, L tokens of a frame, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relic.config import ModelConfig
from relic.memory.entries import MemoryView
from relic.memory.kv_cache import KVMemory
from relic.model.attention import scaled_dot_product
from relic.model.rope import grid_positions, rotate, rotation


class MemoryContext:
    """What a block of `num_frames` latent frames attends to; remembers the block's own keys and values.

    Valid for all passes over one block, until the memory is written. Memory itself is constant: without gradients the
    block's keys are written into the view's reserved slots, with gradients they are joined to it, so that each pass
    keeps its own.
    """

    def __init__(self, memory: KVMemory, model: ModelConfig, num_frames: int) -> None:
        space = grid_positions(model.grid)
        self._view: MemoryView = memory.view(num_frames * len(space))
        first = self._view.next_frame
        time = torch.arange(first, first + num_frames).repeat_interleave(len(space))
        self._rotation = rotation(time, space.repeat(num_frames, 1), model.head_dim, model.rope_theta)
        self._own: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`q`, `k`, `v` `(B, F, L, H, D)` before RoPE; the block sees all memory and all of itself."""
        if layer == 0:
            self._own = []
        self._own.append((k, v))
        turn = self._rotation.to(q.device)
        q_all, k_own, v_own = rotate(q.flatten(1, 2), turn), rotate(k.flatten(1, 2), turn), v.flatten(1, 2)
        k_all, v_all = self._with_memory(layer, k_own, v_own)
        return scaled_dot_product(q_all, k_all, v_all).unflatten(1, q.shape[1:3])

    def _with_memory(self, layer: int, k_own: Tensor, v_own: Tensor) -> tuple[Tensor, Tensor]:
        view, own = self._view, self._view.own_tokens
        if view.k is None or view.v is None:
            return k_own, v_own
        k, v = view.k[layer], view.v[layer]
        if torch.is_grad_enabled():
            return torch.cat([k_own, k[:, own:]], dim=1), torch.cat([v_own, v[:, own:]], dim=1)
        k[:, :own], v[:, :own] = k_own, v_own
        return k, v

    @property
    def own_kv(self) -> tuple[Tensor, Tensor]:
        """Keys (before RoPE) and values of the last pass: `(N, B, F, L, H, D)` each."""
        keys, values = zip(*self._own, strict=True)
        return torch.stack(keys), torch.stack(values)
