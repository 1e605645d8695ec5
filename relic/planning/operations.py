"""Operations and activations of a transformer's passes, counted on the real modules on torch's meta device.

All layers of a transformer cost the same, so one and two of them are counted and the rest is known.

Axes: B batch, F latent frames, L tokens of a frame, H heads, D head width.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from relic.config import ModelConfig, RelicConfig
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import RelicTransformer
from relic.planning.counting import count_flops, count_held_bytes, count_operators, count_saved_bytes
from relic.planning.parameters import meta_transformer
from relic_kernels.attention_backends import attend_as_chosen


class _Context(ABC):
    """An attention context over `frames` latent frames of a network on the meta device."""

    def __init__(self, sizes: ModelConfig, frames: int) -> None:
        shape = frames * sizes.tokens_per_frame, sizes.head_dim // 2
        self._turn = torch.empty(shape, dtype=torch.complex64, device="meta")

    def query_rotation(self, device: torch.device) -> Tensor:
        """See `relic.model.attention.AttentionContext`."""
        return self._turn.to(device)

    @abstractmethod
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `relic.model.attention.AttentionContext`."""


class _CountedMemory(_Context):
    """Adds `tokens` of memory to what a pass sees, without holding any."""

    def __init__(self, sizes: ModelConfig, frames: int, tokens: int) -> None:
        super().__init__(sizes, frames)
        self._tokens = tokens

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own_k, own_v = k.flatten(1, 2), v.flatten(1, 2)
        memory = own_k.new_empty(len(k), self._tokens, *k.shape[3:])
        joined = (torch.cat([own, memory], dim=1) for own in (own_k, own_v))
        return attend_as_chosen(q.flatten(1, 2), *joined).unflatten(1, q.shape[1:3])


class _FusedAttention(_Context):
    """Holds what a fused kernel does: its output."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.empty_like(q)


@lru_cache
def count_pass(config: RelicConfig, frames: int, memory_tokens: int = 0) -> float:
    """Operations of a pass over `frames` latent frames which see each other and `memory_tokens` tokens of memory."""

    def count(model: RelicTransformer) -> float:
        context = _CountedMemory(model.config, frames, memory_tokens)
        return count_flops(_pass_of(model, frames, torch.float32, context))

    return _by_layers(config, count)


@lru_cache
def count_operators_of_pass(config: RelicConfig, frames: int) -> float:
    """Operators that a pass starts one after the other."""

    def count(model: RelicTransformer) -> float:
        return count_operators(_pass_of(model, frames, torch.float32, _FusedAttention(model.config, frames)))

    return _by_layers(config, count)


@lru_cache
def count_control(config: RelicConfig, frames: int) -> float:
    """Operations of embedding the control of a block, its guide included."""

    def count(model: RelicTransformer) -> float:
        sizes = model.config
        guide = _zeros(sizes.guide_channels, frames, sizes.latent_height, sizes.latent_width)
        camera = _camera(sizes, frames)
        return count_flops(lambda: model.encode_control(camera, guide if sizes.guide_channels else None))

    return _by_layers(config, count)


@lru_cache
def count_activations(config: RelicConfig, frames: int, dtype: torch.dtype) -> int:
    """The most bytes that a pass over `frames` latent frames holds at once in a precision, without gradients.

    Memory, which every pass reads, and the keys and values of the prompt are not among them, and neither are weights of
    attention: fused kernels do not hold them. All else is what the
    reference operators hold; Triton's hold less.
    """
    model = copy.deepcopy(_short(config, 1)).to(dtype)
    one_pass = _pass_of(model, frames, dtype, _FusedAttention(model.config, frames))
    return count_held_bytes(one_pass, [*model.parameters(), *model.buffers()], _attention_matrix_of(config.model))


@lru_cache
def count_saved_of_layer(config: RelicConfig, frames: int, memory_tokens: int, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of one layer of a pass, weights of attention not counted."""
    ignored = _attention_matrix_of(config.model)

    def saved(layers: int) -> int:
        model = copy.deepcopy(_short(config, layers)).to(dtype)
        one_pass = _pass_of(model, frames, dtype, _CountedMemory(model.config, frames, memory_tokens))
        return count_saved_bytes(one_pass, model.parameters(), ignored)

    return saved(2) - saved(1)


def _attention_matrix_of(sizes: ModelConfig) -> Callable[[Tensor], bool]:
    """Tells weights of attention by their shape: one matrix a head, and neither side as wide as a head."""
    heads, width = sizes.num_heads, sizes.head_dim

    def is_one(tensor: Tensor) -> bool:
        shape = tuple(tensor.shape)
        leading = shape[1:2] if len(shape) == 4 else shape[:1]
        return len(shape) in (3, 4) and leading == (heads,) and width not in shape[-2:]

    return is_one


@torch.no_grad()
def _pass_of(model: RelicTransformer, frames: int, dtype: torch.dtype, context: _Context) -> Callable[[], object]:
    sizes = model.config
    control = model.encode_control(_camera(sizes, frames))
    text = model.encode_text(_zeros(sizes.text_tokens, sizes.text_dim, dtype=dtype))
    latents = _zeros(sizes.in_channels, frames, sizes.latent_height, sizes.latent_width, dtype=dtype)
    sigma = _zeros(frames, dtype=dtype)
    return lambda: model(latents, sigma, control, text, context)


def _by_layers(config: RelicConfig, count: Callable[[RelicTransformer], float]) -> float:
    one, two = (count(_short(config, layers)) for layers in (1, 2))
    return one + (config.model.num_layers - 1) * (two - one)


@lru_cache(maxsize=4)
def _short(config: RelicConfig, layers: int) -> RelicTransformer:
    """A world's network with few layers, to be read only."""
    return meta_transformer(dataclasses.replace(config, model=dataclasses.replace(config.model, num_layers=layers)))


def _camera(sizes: ModelConfig, frames: int) -> CameraConditioning:
    pixel = sizes.frames_per_latent
    return CameraConditioning(
        actions=_zeros(frames, pixel, sizes.num_actions),
        rotations_w2c=_zeros(frames, pixel, 3, 3),
        positions=_zeros(frames, pixel, 3),
    )


def _zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(1, *shape, device="meta", dtype=dtype)
