"""Attention of a block to memory and to itself.

Axes: B batch, F latent frames, L tokens of a frame, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relic.config import ModelConfig
from relic.memory.kv_cache import KVMemory
from relic.memory.placing import axis_turns, places
from relic.model.rope import grid_positions, rotate
from relic_kernels.attention_backends import attend_as_chosen
from relic_kernels.dispatch import chosen
from relic_kernels.memory_attention import Part, Turns, memory_attention


class MemoryContext:
    """What a block of `num_frames` latent frames attends to; remembers the block's own keys and values.

    Valid for all passes over one block, until the memory is written. On a GPU kernels read memory as it is stored
    (`relic_kernels.memory_attention`). Elsewhere a rotated copy is read: without gradients the block's keys are
    written into its reserved slots, with gradients they are joined to it, so that each pass keeps its own.
    """

    def __init__(self, memory: KVMemory, model: ModelConfig, num_frames: int) -> None:
        self._memory, self._model = memory, model
        self._times = range(memory.num_frames, memory.num_frames + num_frames)
        frames = [memory.rotations.of(time, 1) for time in self._times]
        self._rotation = frames[0] if len(frames) == 1 else torch.cat(frames)
        self._turns: Turns | None = None
        self._own: list[tuple[Tensor, Tensor]] = []

    def query_rotation(self, device: torch.device) -> Tensor:
        """See `relic.model.attention.AttentionContext.query_rotation`."""
        self._rotation = self._rotation.to(device)
        return self._rotation

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`(B, F, L, H, D)` each, `q` rotated, `k` and `v` not; the block sees all memory and all of itself."""
        if layer == 0:
            self._own = []
        self._own.append((k, v))
        turn = self.query_rotation(q.device)
        q_all = q.flatten(1, 2)
        if chosen(q) == "triton":
            self._turns = (self._own_turns() if self._turns is None else self._turns).to(q.device)
            own = Part(k=k.flatten(1, 2), v=v.flatten(1, 2), turns=self._turns)
            out = memory_attention(q_all, own, *self._memory.parts().parts(layer))
        else:
            k_all, v_all = self._with_memory(layer, rotate(k.flatten(1, 2), turn), v.flatten(1, 2))
            out = attend_as_chosen(q_all, k_all, v_all)
        return out.unflatten(1, q.shape[1:3])

    def _own_turns(self) -> Turns:
        space = grid_positions(self._model.grid)
        return axis_turns(*places(self._times, [space] * len(self._times)), self._model)

    def _with_memory(self, layer: int, k_own: Tensor, v_own: Tensor) -> tuple[Tensor, Tensor]:
        view = self._memory.view(k_own.shape[1])
        own = view.own_tokens
        if view.k is None or view.v is None:
            return k_own, v_own
        k, v = view.k[layer], view.v[layer]
        if torch.is_grad_enabled():
            return torch.cat([k_own, k[:, own:]], dim=1), torch.cat([v_own, v[:, own:]], dim=1)
        k[:, :own], v[:, :own] = k_own, v_own
        return k, v

    def slots(self, layers: int, like: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """See `relic.model.attention.SlottedContext.slots`."""
        view = self._memory.view(like.shape[1] * like.shape[2])
        if view.k is None or view.v is None:
            alone = like.flatten(1, 2)
            return [torch.empty_like(alone) for _ in range(layers)], [torch.empty_like(alone) for _ in range(layers)]
        return [view.k[layer] for layer in range(layers)], [view.v[layer] for layer in range(layers)]

    def keep(self, k: Sequence[Tensor], v: Sequence[Tensor]) -> None:
        """See `relic.model.attention.SlottedContext.keep`."""
        self._own = list(zip(k, v, strict=True))

    @property
    def own_kv(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Keys (before RoPE) and values of the last pass: `(B, F, L, H, D)` of each layer, where it computed them."""
        keys, values = zip(*self._own, strict=True)
        return keys, values
