"""A memory filled to a length of history, and the time and bytes of a block that reads it.

Keys and values are random: what they hold does not change how long reading takes. Only the network is timed, denoising
and committing; guides and pixels do not depend on the history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from relic.actions import static_actions
from relic.benchmarks.timing import medians_s
from relic.camera import CameraPath
from relic.config import MemoryConfig, RelicConfig
from relic.memory.backends import make_memory
from relic.memory.kv_cache import KVMemory
from relic.model.conditioning import CameraConditioning, camera_conditioning
from relic.model.transformer import RelicTransformer
from relic.rollout import BlockDraw, draw_block
from relic.world import World


@dataclass(frozen=True, kw_only=True)
class HistoryCost:
    """What a block costs after some history.

    Attributes:
        memory: policy and storage.
        seconds: history.
        milliseconds: median time of a block, denoising and commit; None where the device had too little memory.
        tokens: remembered.
        megabytes: of stored keys and values, in millions of bytes.
    """

    memory: MemoryConfig
    seconds: float
    milliseconds: float | None
    tokens: int
    megabytes: float


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to be timed, and the prompt that it reads.

    Attributes:
        config: of its world.
        model: the network, on the device and in the precision that are timed.
        prompt: `(1, S, text_dim)` tokens.
    """

    config: RelicConfig
    model: RelicTransformer
    prompt: Tensor

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.model.proj_out.weight.device

    @classmethod
    def of_world(cls, world: World) -> Subject:
        """A loaded world's network."""
        return cls(config=world.config, model=world.model, prompt=world.text_encoder.encode(["a room"]))

    @classmethod
    def of_preset(cls, config: RelicConfig, device: torch.device, dtype: torch.dtype) -> Subject:
        """A network of random weights, which do not change how long a block takes; float32 where Wan's is."""
        from relic.model.relic_transformer_3d import RelicTransformer3DModel

        with device:
            model = RelicTransformer3DModel.from_config_of(config)
            prompt = torch.randn(1, config.model.text_tokens, config.model.text_dim)
        model.cast(dtype)
        return cls(config=config, model=model.eval().requires_grad_(False), prompt=prompt)


def filled_memory(subject: Subject, memory: MemoryConfig, seconds: float, seed: int = 0) -> KVMemory:
    """A memory of random keys and values; it holds all frames, whatever the configured bound.

    Raises:
        ValueError: for less history than one latent frame.
    """
    model, weight = subject.config.model, subject.model.proj_out.weight
    frames = _latent_frames(subject.config, seconds)
    bound = max(memory.max_frames, frames + memory.window + 1)
    filled = make_memory(dataclasses.replace(memory, max_frames=bound), model)
    generator = torch.Generator(weight.device).manual_seed(seed)
    shape = (model.num_layers, 1, 1, model.tokens_per_frame, model.num_heads, model.head_dim)
    for _ in range(frames):
        k, v = (torch.randn(shape, generator=generator, device=weight.device, dtype=weight.dtype) for _ in range(2))
        filled.append(k.unbind(), v.unbind())
    return filled


def _latent_frames(config: RelicConfig, seconds: float) -> int:
    frames = round(seconds * config.fps / config.model.frames_per_latent)
    if frames < 1:
        raise ValueError(f"history of {seconds:g} s is less than a latent frame: give {1 / config.fps:g} s or more")
    return frames


def still_block(config: RelicConfig, seed: int = 0) -> tuple[CameraConditioning, Tensor]:
    """Control of a block of a camera that stands, and its noise."""
    size, pixel = config.sampler.block_frames, config.model.frames_per_latent
    actions = static_actions(size * pixel)
    camera = camera_conditioning(actions, CameraPath.identity(size * pixel), pixel)
    shape = (1, config.model.in_channels, size, config.model.latent_height, config.model.latent_width)
    return camera, torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def history_costs(
    subject: Subject, memories: Sequence[MemoryConfig], seconds: Sequence[float], repeats: int
) -> Iterator[HistoryCost]:
    """Time a block after each history, under each memory; each cost comes as soon as it is known.

    Args:
        subject: whose network and sampler count.
        memories: policies and storages.
        seconds: histories.
        repeats: blocks each; the median counts. On a processor all memories of a length take turns; a GPU holds one
            memory at a time.

    Raises:
        ValueError: for no repeat or a history shorter than a latent frame.
    """
    for length in seconds:
        _latent_frames(subject.config, length)
    device, model = subject.device, subject.model
    camera, noise = still_block(subject.config)
    text = model.encode_text(subject.prompt)
    draw = BlockDraw(camera=camera.to(device), guide=None, noise=noise.to(device), seed=0)

    def block(memory: KVMemory) -> None:
        before = memory.snapshot()
        draw_block(model, memory, draw, text, subject.config.sampler)
        memory.restore(before)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    groups = [[memory] for memory in memories] if device.type == "cuda" else [list(memories)]
    for length in seconds:
        for group in groups:
            try:
                filled = [filled_memory(subject, memory, length) for memory in group]
                stored = [(memory.num_tokens, memory.nbytes) for memory in filled]
                times = medians_s([partial(block, memory) for memory in filled], repeats)
            except torch.OutOfMemoryError:
                yield from (_no_room(memory, length) for memory in group)
                continue
            finally:
                filled = []
            for kind, time, (tokens, size) in zip(group, times, stored, strict=True):
                yield HistoryCost(
                    memory=kind, seconds=length, milliseconds=time * 1e3, tokens=tokens, megabytes=size / 1e6
                )


def _no_room(memory: MemoryConfig, seconds: float) -> HistoryCost:
    return HistoryCost(memory=memory, seconds=seconds, milliseconds=None, tokens=0, megabytes=0.0)


def history_table(costs: Iterable[HistoryCost]) -> Iterator[str]:
    """Lines of a Markdown table: a row for each memory and history, and bytes as a share of full memory's in floats.

    A share is told where full memory's cost of that history came before.
    """
    yield "| memory | storage | history | block | tokens | MB | share of full |"
    yield "|---" * 7 + "|"
    full: dict[float, float] = {}
    for cost in costs:
        start = f"| {cost.memory.policy} | {cost.memory.storage} | {cost.seconds:g} s |"
        if cost.milliseconds is None:
            yield f"{start} does not fit | - | - | - |"
            continue
        if cost.memory.policy == "full" and cost.memory.storage == "float":
            full[cost.seconds] = cost.megabytes
        share = f"1/{full[cost.seconds] / cost.megabytes:.2f}" if cost.seconds in full else "-"
        yield f"{start} {cost.milliseconds:.0f} ms | {cost.tokens} | {cost.megabytes:.1f} | {share} |"
