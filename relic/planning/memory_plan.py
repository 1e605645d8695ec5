"""Tokens and bytes that a world needs while it is played.

Sequence parallelism over N GPUs shards the block's tokens and, by head, the memory; weights are whole on every GPU.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from relic.config import MemoryConfig, RelicConfig
from relic.memory.compression import memory_tokens
from relic.planning.hardware import BYTES_OF, Dtype
from relic.planning.operations import count_activations
from relic.planning.parameters import count_parameters, text_encoder_size
from relic.planning.video import video_work

TORCH_DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precisions in which a network can run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCounts:
    """Tokens of a world at a length of history.

    Attributes:
        frame: of a latent frame.
        block: of a block.
        latent_frames: of the history, the start picture's included.
        full: of the history, nothing pooled.
        window: of the history's newest frames, which memory never pools.
        read: of the history as the configured memory holds it: what a block attends to beside itself.
    """

    frame: int
    block: int
    latent_frames: int
    full: int
    window: int
    read: int


def count_tokens(config: RelicConfig, seconds: float) -> TokenCounts:
    """Tokens after `seconds` of video.

    Raises:
        ValueError: for no history, or one longer than the memory keeps.
    """
    model, memory = config.model, config.memory
    longest = (memory.max_frames - 1) * model.frames_per_latent / config.fps
    if not 0 < seconds <= longest:
        raise ValueError(f"seconds {seconds:g} of history must be positive and at most {longest:g}, what memory keeps")
    frames = 1 + round(seconds * config.fps / model.frames_per_latent)
    return tokens_of(config, frames)


def tokens_of(config: RelicConfig, frames: int) -> TokenCounts:
    """Tokens once `frames` latent frames are committed."""
    model, memory = config.model, config.memory
    full, window = (count * model.tokens_per_frame for count in (frames, min(frames, memory.window)))
    read = {
        "compressed": memory_tokens(frames, model.grid, memory.schedule, memory.window),
        "full": full,
        "window": window,
    }
    return TokenCounts(
        frame=model.tokens_per_frame,
        block=config.sampler.block_frames * model.tokens_per_frame,
        latent_frames=frames,
        full=full,
        window=window,
        read=read[memory.policy],
    )


def kv_bytes(config: RelicConfig, tokens: int, dtype: Dtype) -> int:
    """Bytes of the keys and values of `tokens` tokens in all layers, in a network's precision."""
    return 2 * config.model.num_layers * tokens * config.model.dim * BYTES_OF[dtype]


def stored_bytes(config: RelicConfig, tokens: int, window: int, dtype: Dtype) -> int:
    """Bytes that memory stores of `tokens` tokens of history; the newest `window` of them are never quantised.

    A quantised token has one byte a channel, and for each head a float32 scale.
    """
    if config.memory.storage == "float":
        return kv_bytes(config, tokens, dtype)
    model = config.model
    quantised = 2 * model.num_layers * (tokens - window) * (model.dim + BYTES_OF["fp32"] * model.num_heads)
    return quantised + kv_bytes(config, window, dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """Bytes on each GPU.

    Attributes:
        transformer: weights.
        text_encoder: weights of the prompt's encoder.
        video: weights of the auto-encoder and of what guides, and what decoding a block holds.
        memory: stored keys and values of the history, this GPU's heads.
        read_buffer: the same, laid out for reading: as they are stored on a GPU, turned and with the block's own on a
            processor.
        activations: of a pass, and the prompt's keys and values.
    """

    transformer: int
    text_encoder: int
    video: int
    memory: int
    read_buffer: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.transformer + self.text_encoder + self.video + self.memory + self.read_buffer + self.activations


def memory_need(config: RelicConfig, tokens: TokenCounts, *, gpus: int, dtype: Dtype, on_gpu: bool) -> MemoryNeed:
    """Bytes on each of `gpus` GPUs, or in a processor's memory."""
    model, network, video = config.model, network_of(config), video_work(network_of(config))
    text = text_encoder_size(model.text_dim)
    stored = stored_bytes(config, tokens.read, tokens.window, dtype)
    activations = count_activations(network, config.sampler.block_frames, TORCH_DTYPES[dtype])
    return MemoryNeed(
        transformer=count_parameters(network).total * BYTES_OF[dtype],
        text_encoder=text.parameters * BYTES_OF["fp32" if text.always_fp32 else dtype],
        video=video.parameters * BYTES_OF["fp32"] + video.held_bytes,
        memory=stored // gpus,
        read_buffer=stored // gpus if on_gpu else kv_bytes(config, tokens.read + tokens.block, dtype),
        activations=activations // gpus + kv_bytes(config, model.text_tokens, dtype),
    )


def network_of(config: RelicConfig) -> RelicConfig:
    """A world's networks with the usual memory: what is counted of them once need not be counted again."""
    return dataclasses.replace(config, memory=MemoryConfig())
