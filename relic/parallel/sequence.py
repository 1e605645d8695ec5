"""Ulysses' sequence parallelism (Jacobs et al. 2023, arXiv 2309.14509): each rank has a share of every frame's tokens.

Linear layers, norms, cross-attention and feed-forward work on a rank's own tokens. Self-attention works on all tokens
of a rank's own heads: four all-to-all exchanges a layer bring queries, keys and values there and the output back. So
whatever a context keeps of keys and values, memory above all, is that of the rank's heads, and no context knows of it.

Axes: B batch, F latent frames, L tokens of a frame, l those of one rank, H heads, N ranks, D head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from relic.config import ModelConfig

if TYPE_CHECKING:
    from relic.model.attention import AttentionContext


def check_ranks(ranks: int, heads: int) -> None:
    """Refuse a number of ranks that cannot share out the heads.

    Raises:
        ValueError: it names both, and the numbers that can.
    """
    if heads % ranks:
        possible = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        raise ValueError(
            f"{ranks} ranks do not divide the network's {heads} heads: start it with one of {possible} ranks"
        )


class SequenceParallel:
    """This rank among those that share a network's sequence; give it to a network as `RelicTransformer.parallel`.

    All ranks make the same calls with the same latents, noise and control, and each gets the whole velocity. Of
    parameters, control and text each rank's gradient is a part: the sum over the ranks is the gradient of one process.
    Gradients of latents are whole on each.

    Args:
        group: the ranks.
        model: sizes of the network that is shared.

    Raises:
        ValueError: when the ranks do not divide the heads, or are more than a frame has tokens.

    Attributes:
        rank: this rank's number in the group.
        ranks: N.
        tokens_per_frame: L.
        exchanged_bytes: sent to other ranks so far by the all-to-all exchanges of self-attention, in forward and
            backward passes.
        gathered_bytes: sent so far to make velocities, and gradients of latents, whole.
    """

    def __init__(self, group: ProcessGroup, model: ModelConfig) -> None:
        self.group = group
        self.rank, self.ranks = group.rank(), group.size()
        check_ranks(self.ranks, model.num_heads)
        self.tokens_per_frame = model.tokens_per_frame
        if self.ranks > self.tokens_per_frame:
            raise ValueError(f"{self.ranks} ranks for {self.tokens_per_frame} tokens a frame: each needs at least one")
        share, surplus = divmod(self.tokens_per_frame, self.ranks)
        self._counts = [share + (rank < surplus) for rank in range(self.ranks)]
        self.exchanged_bytes = 0
        self.gathered_bytes = 0

    @property
    def own_tokens(self) -> slice:
        """The tokens of every frame that are this rank's; the first ranks have one more where L is no multiple of N."""
        begin = sum(self._counts[: self.rank])
        return slice(begin, begin + self._counts[self.rank])

    def shard(self, x: Tensor) -> Tensor:
        """This rank's part of `(B, F, L, ...)`, the same on every rank: `(B, F, l, ...)`."""
        out: Tensor = _Shard.apply(self, x)  # type: ignore[no-untyped-call]
        return out

    def gather(self, x: Tensor) -> Tensor:
        """`(B, F, l, ...)` of every rank, put together: `(B, F, L, ...)`."""
        out: Tensor = _Gather.apply(self, x)  # type: ignore[no-untyped-call]
        return out

    def to_heads(self, x: Tensor) -> Tensor:
        """Own tokens of all heads to all tokens of own heads: `(B, F, l, H, D)` -> `(B, F, L, H / N, D)`."""
        out: Tensor = _ToHeads.apply(self, x)  # type: ignore[no-untyped-call]
        return out

    def to_tokens(self, x: Tensor) -> Tensor:
        """The way back of `to_heads`: `(B, F, L, H / N, D)` -> `(B, F, l, H, D)`."""
        out: Tensor = _ToTokens.apply(self, x)  # type: ignore[no-untyped-call]
        return out

    def exchange(self, parts: list[Tensor], shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """Send the r-th part to rank r; what comes from rank r has the r-th shape. No gradients.

        Returns:
            One tensor from each rank.
        """
        sent = torch.cat([part.flatten() for part in parts])
        sizes = [torch.Size(shape).numel() for shape in shapes]
        received = sent.new_empty(sum(sizes))
        dist.all_to_all_single(received, sent, sizes, [part.numel() for part in parts], group=self.group)
        return [piece.view(shape) for piece, shape in zip(received.split(sizes), shapes, strict=True)]

    def _whole(self, x: Tensor) -> Tensor:
        self.gathered_bytes += x.nbytes * (self.ranks - 1)
        shapes = [(*x.shape[:2], count, *x.shape[3:]) for count in self._counts]
        return torch.cat(self.exchange([x] * self.ranks, shapes), dim=2)

    def _heads_of_all_tokens(self, x: Tensor) -> Tensor:
        parts = list(x.chunk(self.ranks, dim=3))
        shapes = [(*x.shape[:2], count, *parts[0].shape[3:]) for count in self._counts]
        self.exchanged_bytes += x.nbytes - parts[self.rank].nbytes
        return torch.cat(self.exchange(parts, shapes), dim=2)

    def _tokens_of_all_heads(self, x: Tensor) -> Tensor:
        parts = list(x.split(self._counts, dim=2))
        own = parts[self.rank]
        self.exchanged_bytes += x.nbytes - own.nbytes
        return torch.cat(self.exchange(parts, [tuple(own.shape)] * self.ranks), dim=3)


class ShardedAttention:
    """An `AttentionContext` of a rank's own tokens around one of all tokens and the rank's heads; valid for a pass."""

    def __init__(self, context: AttentionContext, parallel: SequenceParallel) -> None:
        self._context, self._parallel = context, parallel
        self._rotation: Tensor | None = None

    def query_rotation(self, device: torch.device) -> Tensor:
        """Rotation of the rank's own queries, `(F l, D / 2)`: that of their places among all tokens."""
        if self._rotation is None:
            tokens = self._parallel.tokens_per_frame
            frames = self._context.query_rotation(device).unflatten(0, (-1, tokens))
            self._rotation = frames[:, self._parallel.own_tokens].flatten(0, 1)
        self._rotation = self._rotation.to(device)
        return self._rotation

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Exchange, attend with the rank's heads, exchange back; `(B, F, l, H, D)` each."""
        q, k, v = (self._parallel.to_heads(x) for x in (q, k, v))
        return self._parallel.to_tokens(self._context.attend(layer, q, k, v))


class _Exchange(torch.autograd.Function):
    """Base of moves between ranks, whose gradients make the move that undoes them."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.parallel = inputs[0]


class _ToHeads(_Exchange):
    @staticmethod
    def forward(parallel: SequenceParallel, x: Tensor) -> Tensor:
        return parallel._heads_of_all_tokens(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, ctx.parallel._tokens_of_all_heads(grads[0])


class _ToTokens(_Exchange):
    @staticmethod
    def forward(parallel: SequenceParallel, x: Tensor) -> Tensor:
        return parallel._tokens_of_all_heads(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, ctx.parallel._heads_of_all_tokens(grads[0])


class _Shard(_Exchange):
    """Gradients of what every rank has are made whole again, so that each rank goes on with all of them."""

    @staticmethod
    def forward(parallel: SequenceParallel, x: Tensor) -> Tensor:
        return x[:, :, parallel.own_tokens].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, ctx.parallel._whole(grads[0])


class _Gather(_Exchange):
    """Every rank computes the same loss of the whole, so each takes its own part of the same gradient."""

    @staticmethod
    def forward(parallel: SequenceParallel, x: Tensor) -> Tensor:
        return parallel._whole(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0][:, :, ctx.parallel.own_tokens].contiguous()
