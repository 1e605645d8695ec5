"""Self- and cross-attention with Wan 2.1's parameter names, and the contexts that say what is attended to.

Axes: B batch, F latent frames, L tokens of a frame, H heads, D head width, M model width, S text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from relic.config import ModelConfig
from relic.model.layers import RMSNorm
from relic.model.rope import grid_positions, rotate, rotation, yarn_attention_scale, yarn_frequencies
from relic_kernels.attention_backends import attend_as_chosen
from relic_kernels.dispatch import chosen
from relic_kernels.qk_norm_rope_pose import qk_norm_rope_pose


class AttentionContext(Protocol):
    """Decides which keys each query of a pass sees, and where they stand.

    Keys come after QK-norm and before RoPE, so that a memory can store them free of any position.
    """

    def query_rotation(self, device: torch.device) -> Tensor:
        """Rotation of the queries: `(F L, D / 2)` complex64, see `relic.model.rope.rotation`."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention output `(B, F, L, H, D)` for rotated `q`, and `k`, `v` of the same shape."""
        ...


@runtime_checkable
class SlottedContext(AttentionContext, Protocol):
    """A context whose keys and values lie ready in buffers, with slots for the block's own."""

    def slots(self, layers: int, like: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Rotated keys and values to attend to: `(B, F L + K, H, D)` of each layer, the first F L to be written.

        Args:
            layers: of the network.
            like: `(B, F, L, H, D)` of the precision and size of the block's own.
        """
        ...

    def keep(self, k: Sequence[Tensor], v: Sequence[Tensor]) -> None:
        """Take note of the block's own keys (before RoPE) and values: `(B, F, L, H, D)` of each layer."""
        ...


class BidirectionalContext:
    """Every token of the pass attends to every other (the teacher's attention).

    Args:
        config: network sizes.
        num_frames: latent frames of the pass.
        trained_frames: latent frames the network was trained on; a longer pass is read through YaRN.
    """

    def __init__(self, config: ModelConfig, num_frames: int, trained_frames: int | None = None) -> None:
        trained = num_frames if trained_frames is None else trained_frames
        space = grid_positions(config.grid)
        time = torch.arange(num_frames).repeat_interleave(len(space))
        frequencies = yarn_frequencies(config.head_dim, config.rope_theta, trained, num_frames)
        turn = rotation(time, space.repeat(num_frames, 1), config.head_dim, config.rope_theta, frequencies)
        self._k_rotation, self._q_rotation = turn, turn * yarn_attention_scale(trained, num_frames)

    def query_rotation(self, device: torch.device) -> Tensor:
        """See `AttentionContext.query_rotation`; YaRN's factor of the logits is in it."""
        self._q_rotation = self._q_rotation.to(device)
        return self._q_rotation

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Full attention over all frames of the pass."""
        self._k_rotation = self._k_rotation.to(k.device)
        k_all = rotate(k.flatten(1, 2), self._k_rotation)
        return attend_as_chosen(q.flatten(1, 2), k_all, v.flatten(1, 2)).unflatten(1, q.shape[1:3])


class Attention(nn.Module):
    """The layers of Wan's attention, to itself or to the prompt."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.to_q = nn.Linear(config.dim, config.dim)
        self.to_k = nn.Linear(config.dim, config.dim)
        self.to_v = nn.Linear(config.dim, config.dim)
        self.to_out = nn.ModuleList([nn.Linear(config.dim, config.dim)])
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)


class SelfAttention(Attention):
    """Self-attention whose queries and keys carry the camera pose (paper, section 4.1.2)."""

    def forward(self, x: Tensor, pose: Tensor, context: AttentionContext, layer: int) -> Tensor:
        """`x` `(B, F, L, M)`, `pose` `(B, F, 1 or L, M)` -> `(B, F, L, M)`."""
        q, k = self._queries_and_keys(self.to_q(x), self.to_k(x), pose, context.query_rotation(x.device))
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)) for y in (q, k, self.to_v(x)))
        out: Tensor = self.to_out[0](context.attend(layer, q, k, v).flatten(-2))
        return out

    def _queries_and_keys(self, q: Tensor, k: Tensor, pose: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Pose, QK-norm and, for queries only, RoPE; on a GPU in one pass."""
        if chosen(q) == "triton":
            turned, normed = qk_norm_rope_pose(
                q.flatten(0, 1),
                k.flatten(0, 1),
                pose.flatten(0, 1),
                self.norm_q.weight,
                self.norm_k.weight,
                torch.view_as_real(turn),
                self.norm_q.eps,
            )
            return turned.view_as(q), normed.view_as(k)
        heads = self.norm_q(q + pose).flatten(1, 2).unflatten(-1, (self.num_heads, -1))
        return rotate(heads, turn).reshape(q.shape), self.norm_k(k + pose)


class CrossAttention(Attention):
    """Attention to the prompt; its keys and values are made once a prompt."""

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, S, M)` -> keys and values `(B, S, H, D)`."""
        k, v = self.norm_k(self.to_k(text)), self.to_v(text)
        return k.unflatten(-1, (self.num_heads, -1)), v.unflatten(-1, (self.num_heads, -1))

    def forward(self, x: Tensor, text_kv: tuple[Tensor, Tensor]) -> Tensor:
        """`x` `(B, F, L, M)` -> `(B, F, L, M)`."""
        q = self.norm_q(self.to_q(x)).flatten(1, 2).unflatten(-1, (self.num_heads, -1))
        out: Tensor = self.to_out[0](attend_as_chosen(q, *text_kv).flatten(-2))
        return out.unflatten(1, x.shape[1:3])
