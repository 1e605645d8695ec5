"""The network in one call of C++, for passes over one latent frame on a processor.

Axes: B batch, C latent channels, h w latent cells, L tokens of a frame, H heads, D head width, M model width,
S text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from relic.config import ModelConfig
from relic.flow_matching import SamplerStep
from relic.model.attention import AttentionContext, SlottedContext
from relic.model.control import Control, EmbeddedGuide
from relic.packing import Written, written_as
from relic_kernels.frame_network import (
    MAX_TOKENS,
    BlockInputs,
    BlockWeights,
    EndWeights,
    FrameInputs,
    FrameNetwork,
    Level,
    PreparedInputs,
    Step,
)
from relic_kernels.native import may_run

_KEPT_TIMES = 64


class KeptTimes:
    """Embeddings of noise levels, kept for the next pass at the same ones: a played world's are few.

    Args:
        embed: `(B, 1)` -> modulation of the blocks `(B, 1, 6, M)` and of the last layer `(B, 1, 2, M)`.
        weights: what `embed` reads.
    """

    def __init__(self, embed: Callable[[Tensor], tuple[Tensor, Tensor]], weights: Sequence[Tensor]) -> None:
        self._embed, self._weights = embed, weights
        self._kept: dict[tuple[float, ...], Level] = {}
        self._kept_of: list[Written] = []

    def drop_old(self) -> None:
        """Forget what was made of weights that were written since."""
        written = [written_as(weight) for weight in self._weights]
        if self._kept_of != written:
            self._kept, self._kept_of = {}, written

    def at(self, sigma: Sequence[float]) -> Level:
        """Of a noise level for each case."""
        key = tuple(sigma)
        if key not in self._kept:
            if len(self._kept) >= _KEPT_TIMES:
                self._kept = {}
            modulation, ends = self._embed(torch.tensor(key)[:, None])
            self._kept[key] = Level(sigma=key, modulation=modulation[:, 0].float(), ends_modulation=ends[:, 0].float())
        return self._kept[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """What all passes under one context share, and what it was made of."""

    actions: Sequence[Tensor]
    poses: Sequence[Tensor]
    text: Sequence[tuple[Tensor, Tensor]]
    inputs: PreparedInputs
    rotation: Tensor
    own: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

    def holds(self, control: Control, text: Sequence[tuple[Tensor, Tensor]]) -> bool:
        return self.actions is control.actions and self.poses is control.poses and self.text is text


class FusedNetwork:
    """Does what the network's own layers do, in fewer roundings: between products activations are float32.

    Args:
        ends: parameters of the patch embedding and of the last layer; read where they lie.
        layers: the blocks' parameters, likewise.
        times: embeddings of noise levels.
        config: network sizes.
        in_bytes: whether the blocks' layers multiply 8-bit integers.

    Raises:
        ValueError: where the C++ cannot run, or has no room for a frame of so many tokens.
    """

    def __init__(
        self,
        ends: EndWeights,
        layers: Sequence[BlockWeights],
        times: KeptTimes,
        config: ModelConfig,
        *,
        in_bytes: bool = False,
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
        self._times, self._heads, self._tokens = times, config.num_heads, rows * columns
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
        control: Control,
        text: Sequence[tuple[Tensor, Tensor]],
        context: SlottedContext,
    ) -> Tensor:
        """Predict the velocity.

        Args:
            latents: `(B, C, 1, h, w)`.
            sigma: `(B, 1)`.
            control: embedded control of the frame.
            text: keys and values of the prompt, `(B, S, H, D)` of each layer.
            context: gives what is attended to, and keeps the frame's own keys and values.

        Returns:
            `(B, C, 1, h, w)`.
        """
        prepared = self._prepared_for(control, text, context)
        frame, level = _frame(latents, control.guide, prepared), self._times.at(sigma.flatten().tolist())
        velocity = self._network(frame, level, prepared.inputs, torch.get_num_threads())
        context.keep(*prepared.own)
        return velocity.unsqueeze(2)

    def denoise(
        self,
        latents: Tensor,
        steps: Sequence[SamplerStep],
        noise: Sequence[Tensor | None],
        control: Control,
        text: Sequence[tuple[Tensor, Tensor]],
        context: SlottedContext,
    ) -> Tensor:
        """Run all passes of a sampler, each with its noise `(B, C, 1, h, w)`; see `__call__`."""
        prepared = self._prepared_for(control, text, context)
        passes = [
            Step(
                level=self._times.at([step.sigma] * len(latents)),
                keep=step.keep,
                move=step.move,
                fresh=step.fresh,
                noise=None if fresh is None else fresh.squeeze(2).contiguous(),
            )
            for step, fresh in zip(steps, noise, strict=True)
        ]
        frame = _frame(latents, control.guide, prepared)
        made = self._network.denoise(frame, passes, prepared.inputs, torch.get_num_threads())
        context.keep(*prepared.own)
        return made.unsqueeze(2)

    def remember(
        self,
        latents: Tensor,
        sigma: Tensor,
        control: Control,
        text: Sequence[tuple[Tensor, Tensor]],
        context: SlottedContext,
    ) -> None:
        """Give the context the frame's own keys and values, as a pass without guide does; see `__call__`."""
        prepared = self._prepared_for(control, text, context)
        frame, level = _frame(latents, None, prepared), self._times.at(sigma.flatten().tolist())
        self._network.write_own(frame, level, prepared.inputs, torch.get_num_threads())
        context.keep(*prepared.own)

    def _prepared_for(
        self,
        control: Control,
        text: Sequence[tuple[Tensor, Tensor]],
        context: SlottedContext,
    ) -> _Prepared:
        prepared = self._prepared.get(context)
        if prepared is None or not prepared.holds(control, text):
            prepared = self._prepared[context] = self._prepare(control, text, context)
        return prepared

    def _prepare(
        self,
        control: Control,
        text: Sequence[tuple[Tensor, Tensor]],
        context: SlottedContext,
    ) -> _Prepared:
        layers, batch, width = len(text), len(control.actions[0]), control.actions[0].shape[-1] // self._heads
        self._times.drop_old()
        own = torch.empty(2, layers, batch, 1, self._tokens, self._heads, width, dtype=self._network.dtype)
        own_k, own_v = (one.unbind(0) for one in own.unbind(0))
        keys, values = context.slots(layers, own_k[0])
        inputs = [
            BlockInputs(
                action=control.actions[layer],
                pose=control.poses[layer],
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
            actions=control.actions,
            poses=control.poses,
            text=text,
            inputs=self._network.prepare(inputs),
            rotation=context.query_rotation(own.device),
            own=(own_k, own_v),
        )


def _frame(latents: Tensor, guide: EmbeddedGuide | None, prepared: _Prepared) -> FrameInputs:
    tokens, skip = (
        (None, None) if guide is None else (one.squeeze(1).contiguous() for one in (guide.tokens, guide.skip))
    )
    return FrameInputs(latents=latents.squeeze(2).contiguous(), rotation=prepared.rotation, guide=tokens, skip=skip)
