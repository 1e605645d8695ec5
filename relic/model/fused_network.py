"""The network in one call of C++, for passes over one latent frame on a processor.

Axes: B batch, C latent channels, h w latent cells, L tokens of a frame, H heads, D head width, M model width,
S text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from relic.config import ModelConfig
from relic.model.attention import AttentionContext, SlottedContext
from relic_kernels.frame_network import (
    MAX_TOKENS,
    BlockInputs,
    BlockWeights,
    EndWeights,
    FrameInputs,
    FrameNetwork,
    PreparedInputs,
)
from relic_kernels.native import may_run


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """What all passes under one context share, and what it was made of."""

    actions: Sequence[Tensor]
    poses: Sequence[Tensor]
    text: Sequence[tuple[Tensor, Tensor]]
    inputs: PreparedInputs
    rotation: Tensor
    own: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

    def holds(self, actions: Sequence[Tensor], poses: Sequence[Tensor], text: Sequence[tuple[Tensor, Tensor]]) -> bool:
        return self.actions is actions and self.poses is poses and self.text is text


class FusedNetwork:
    """Does what the network's own layers do, in fewer roundings: between products activations are float32.

    Args:
        ends: parameters of the patch embedding and of the last layer; read where they lie.
        layers: the blocks' parameters, likewise.
        config: network sizes.
        in_bytes: whether the blocks' layers multiply 8-bit integers.

    Raises:
        ValueError: where the C++ cannot run, or has no room for a frame of so many tokens.
    """

    def __init__(
        self, ends: EndWeights, layers: Sequence[BlockWeights], config: ModelConfig, *, in_bytes: bool = False
    ) -> None:
        rows, columns = config.grid
        if rows * columns > MAX_TOKENS:
            raise ValueError(f"frames of {rows * columns} tokens do not fit the C++ network, which takes {MAX_TOKENS}")
        self._network = FrameNetwork(
            ends,
            layers,
            config.num_heads,
            config.patch_size,
            config.eps,
            config.gelu_approximate,
            in_bytes=in_bytes,
        )
        self._heads, self._tokens = config.num_heads, rows * columns
        self._prepared: WeakKeyDictionary[SlottedContext, _Prepared] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of a network has its weights elsewhere: there is None in this one's place until it is fused anew."""
        return type(None), ()

    def takes(self, latents: Tensor, context: AttentionContext) -> bool:
        """Whether a pass over `(B, C, F, h, w)` is its to compute; the network's own layers do the others.

        Weights that are moved are noticed at the first pass under another context.
        """
        return (
            latents.shape[2] == 1
            and latents.dtype == torch.float32
            and may_run(self._network.dtype, latents)
            and (context in self._prepared or (isinstance(context, SlottedContext) and self._network.holds()))
        )

    def __call__(
        self,
        latents: Tensor,
        sigma: Tensor,
        modulation: Tensor,
        ends_modulation: Tensor,
        actions: Sequence[Tensor],
        poses: Sequence[Tensor],
        guide: tuple[Tensor, Tensor] | None,
        text: Sequence[tuple[Tensor, Tensor]],
        context: SlottedContext,
    ) -> Tensor:
        """Predict the velocity.

        Args:
            latents: `(B, C, 1, h, w)`.
            sigma: `(B, 1)`.
            modulation: `(B, 1, 6, M)` of the noise level.
            ends_modulation: `(B, 1, 2, M)` before the last layer.
            actions: `(B, 1, 1, M)` of each layer.
            poses: `(B, 1, 1 or L, M)` of each layer.
            guide: `(B, 1, L, M)` added to the embedded patches and `(B, 1, L, C p p)` subtracted from the velocity in
                proportion to sigma; None without.
            text: keys and values of the prompt, `(B, S, H, D)` of each layer.
            context: gives what is attended to, and keeps the frame's own keys and values.

        Returns:
            `(B, C, 1, h, w)`.
        """
        prepared = self._prepared.get(context)
        if prepared is None or not prepared.holds(actions, poses, text):
            prepared = self._prepare(actions, poses, text, context)
            self._prepared[context] = prepared
        tokens, skip = (None, None) if guide is None else (one[:, 0].contiguous() for one in guide)
        frame = FrameInputs(
            latents=latents[:, :, 0].contiguous(),
            sigma=sigma[:, 0].tolist(),
            modulation=modulation[:, 0].float(),
            ends_modulation=ends_modulation[:, 0].float(),
            rotation=prepared.rotation,
            guide=tokens,
            skip=skip,
        )
        velocity = self._network(frame, prepared.inputs, torch.get_num_threads())
        context.keep(*prepared.own)
        return velocity.unsqueeze(2)

    def _prepare(
        self,
        actions: Sequence[Tensor],
        poses: Sequence[Tensor],
        text: Sequence[tuple[Tensor, Tensor]],
        context: SlottedContext,
    ) -> _Prepared:
        layers, batch, width = len(text), len(actions[0]), actions[0].shape[-1] // self._heads
        own = torch.empty(2, layers, batch, 1, self._tokens, self._heads, width, dtype=self._network.dtype)
        own_k, own_v = (one.unbind(0) for one in own.unbind(0))
        keys, values = context.slots(layers, own_k[0])
        inputs = [
            BlockInputs(
                action=actions[layer],
                pose=poses[layer],
                text_k=text[layer][0],
                text_v=text[layer][1],
                keys=keys[layer],
                values=values[layer],
                own_k=own_k[layer],
                own_v=own_v[layer],
            )
            for layer in range(layers)
        ]
        return _Prepared(
            actions=actions,
            poses=poses,
            text=text,
            inputs=self._network.prepare(inputs),
            rotation=context.query_rotation(own.device),
            own=(own_k, own_v),
        )
