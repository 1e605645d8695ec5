"""A block's network time beside its matrix products alone, and beside the same block written plainly.

Where the blocks are computed by C++, torch's operators are one way of those that are timed, and its products are the
floor of that way. The plain ways call torch's operators and do what the definitions say, word for word: the memory's
keys are joined and rotated at every layer of every pass, the prompt's keys and values are made at every pass, and
weights in bfloat16 are laid out for the processor at every product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from relic.benchmarks.histories import Subject, filled_memory, still_block
from relic.benchmarks.products import products_of
from relic.benchmarks.timing import medians_s
from relic.config import MemoryConfig, ModelConfig
from relic.memory.compression import pooled_positions
from relic.memory.context import MemoryContext
from relic.memory.kv_cache import KVMemory
from relic.memory.placing import oldest_time, places
from relic.model.rope import grid_positions, rotate, rotation
from relic.packing import PackedLinear, unpacked
from relic.rollout import denoise_block
from relic.world import World
from relic_kernels.attention_backends import attend_as_chosen
from relic_kernels.dispatch import force


class PlainContext(MemoryContext):
    """Attention to memory as it is defined: all entries joined, rotated to their places, at every call."""

    def __init__(self, memory: KVMemory, model: ModelConfig, num_frames: int) -> None:
        super().__init__(memory, model, num_frames)
        self._model = model

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `MemoryContext.attend`."""
        model, memory = self._model, self._memory
        if layer == 0:
            self._own = []
        self._own.append((k, v))
        space = grid_positions(model.grid)
        oldest = oldest_time(memory.config, memory.num_frames)
        frames = range(memory.num_frames, memory.num_frames + k.shape[1])
        time, place = places(
            [*(max(entry.frame, oldest) for entry in memory.entries), *frames],
            [
                *(pooled_positions(space, model.grid, entry.factor) for entry in memory.entries),
                *(space for _ in frames),
            ],
        )
        keys = torch.cat([*(entry.k[layer] for entry in memory.entries), k.flatten(1, 2)], dim=1)
        values = torch.cat([*(entry.v[layer] for entry in memory.entries), v.flatten(1, 2)], dim=1)
        turned = rotate(keys, rotation(time, place, model.head_dim, model.rope_theta).to(keys.device))
        return attend_as_chosen(q.flatten(1, 2), turned, values).unflatten(1, q.shape[1:3])


@dataclass(frozen=True, kw_only=True)
class PassTimes:
    """Medians of a block's network time, denoising and commit, in milliseconds.

    Attributes:
        block: as it is played.
        products: its matrix products alone, by torch.
        plain: by torch's operators, then by each plain way alone and by all of them; left out where a way is the one
            before: blocks that C++ cannot compute, weights that are not packed.
        flops: of the products.
    """

    block: float
    products: float
    plain: dict[str, float]
    flops: int


OPERATORS = "torch's operators"
JOINED, EMBEDDED = "memory joined and rotated at every layer", "prompt embedded at every pass"
UNPACKED, ALL = "weights laid out at every product", "all of these"


@torch.inference_mode()
def pass_times(world: World, memory: MemoryConfig, seconds: float, repeats: int) -> PassTimes:
    """Time a block that has `seconds` of history.

    Raises:
        ValueError: for no repeat or a history shorter than a latent frame.
    """
    model, sampler = world.model, world.config.sampler
    filled = filled_memory(Subject.of_world(world), memory, seconds)
    camera, noise = still_block(world.config)
    control = model.encode_control(camera)
    tokens = world.text_encoder.encode(["a room"])
    text = model.encode_text(tokens)
    level = noise.new_full((noise.shape[0], noise.shape[2]), sampler.commit_sigma)

    def block(context_of: type[MemoryContext] = MemoryContext, *, embed_prompt: bool = False) -> Tensor:
        for _ in range(sampler.steps + 1 if embed_prompt else 0):
            model.encode_text(tokens)
        context = context_of(filled, model.config, sampler.block_frames)
        latents = denoise_block(model, context, control, text, noise, sampler)
        model.remember(latents, level, control, text, context)
        return latents

    def laid_out(context_of: type[MemoryContext] = MemoryContext, *, embed_prompt: bool = False) -> Tensor:
        with unpacked(model):
            return block(context_of, embed_prompt=embed_prompt)

    ways: dict[str, Callable[[], Tensor]] = {
        OPERATORS: block,
        JOINED: lambda: block(PlainContext),
        EMBEDDED: lambda: block(embed_prompt=True),
        UNPACKED: laid_out,
        ALL: lambda: laid_out(PlainContext, embed_prompt=True),
    }
    if not any(isinstance(module, PackedLinear) for module in model.modules()):
        del ways[UNPACKED]
    with force("reference"):
        products = products_of(block)
    if model.fused is None:
        del ways[OPERATORS]
    plainly = [_by_operators(way) for way in ways.values()]
    times = medians_s((block, products.run, *plainly), repeats)
    played, alone, *plain = (1e3 * time for time in times)
    return PassTimes(block=played, products=alone, plain=dict(zip(ways, plain, strict=True)), flops=products.flops)


def _by_operators(way: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A way that calls torch's operators, whatever could do it at once."""

    def called() -> Tensor:
        with force("reference"):
            return way()

    return called


def format_pass_times(times: PassTimes) -> str:
    """A Markdown table."""
    lines = ["| way | block | of its products |", "|---|---|---|"]
    rows = {"as played": times.block, "matrix products alone": times.products, **times.plain}
    lines += [f"| {name} | {value:.1f} ms | {value / times.products:.2f} x |" for name, value in rows.items()]
    rate = times.flops / times.products / 1e6
    return "\n".join([*lines, "", f"{times.flops / 1e9:.2f} GFLOP a block; products alone run at {rate:.0f} GFLOP/s"])
