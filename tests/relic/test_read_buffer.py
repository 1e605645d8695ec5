"""What a block reads of memory is the same however it came to lie there: by C++ or PyTorch, at once or bit by bit."""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

import relic.memory.compressed
import relic.memory.kv_cache
from relic.config import MemoryConfig, ModelConfig
from relic.memory.backends import make_memory
from relic.memory.compression import frame_factor, pool_tokens, pooled_positions, pooling_matrix
from relic.memory.context import MemoryContext
from relic.memory.kv_cache import KVMemory
from relic.memory.placing import FrameRotations
from relic.model.rope import grid_positions, rotate, rotation
from relic_kernels.dispatch import force
from tests.relic.test_memory import TINY, keys, kv, values

CONFIGS = [
    MemoryConfig(window=3, schedule=(1, 4, 2), max_frames=12, max_age=6),
    MemoryConfig(window=2, schedule=(2, 1), max_frames=50, max_age=9, storage="fp8"),
    MemoryConfig(policy="full", window=2, max_frames=14, max_age=4),
    MemoryConfig(policy="window", window=3, max_frames=50),
]


def history(seed: int) -> Iterator[tuple[str, int, Tensor]]:
    """Orders to a memory: to append some frames, to remember this moment, to go back to one."""
    chance = random.Random(seed)
    for number in range(60):
        what = chance.choices(["append", "remember", "restore"], [8, 1, 1])[0]
        yield what, chance.randrange(100), torch.stack(kv(chance.choice([1, 1, 1, 3]), seed=number))


def read(memory: KVMemory) -> tuple[Tensor, Tensor]:
    view = memory.view(15)
    return keys(view)[:, :, 15:].clone(), values(view)[:, :, 15:].clone()


def views(config: MemoryConfig, dtype: torch.dtype, seed: int, *, anew: bool = False) -> list[tuple[Tensor, Tensor]]:
    """What is read after each order; `anew` by a memory that never saw the ones before."""
    memory, found = make_memory(config, TINY), []
    memory.append(*(x.to(dtype) for x in kv(1)))
    moments = [memory.snapshot()]
    for what, number, (k, v) in history(seed):
        if what == "append":
            memory.append(k.to(dtype), v.to(dtype))
        elif what == "remember":
            moments.append(memory.snapshot())
        else:
            memory.restore(moments[number % len(moments)])
        reader = memory
        if anew:
            reader = make_memory(config, TINY)
            reader.restore(memory.snapshot())
        found.append(read(reader))
    return found


@pytest.mark.native
@pytest.mark.parametrize("config", CONFIGS, ids=["compressed", "8 bits", "full", "window"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_long_history_reads_the_same_by_cpp_and_by_torch(
    config: MemoryConfig, dtype: torch.dtype, require: Callable[..., None]
) -> None:
    require("compiler", *(["bfloat16"] if dtype == torch.bfloat16 else []))
    written = views(config, dtype, seed=1)
    with force("reference"):
        by_torch = views(config, dtype, seed=1)
    at_once = views(config, dtype, seed=1, anew=True)
    assert len(written) == len(by_torch) == len(at_once) == 60
    for one, *others in zip(written, by_torch, at_once, strict=True):
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def test_memories_of_several_cases_start_anew_when_their_number_changes() -> None:
    memory = make_memory(CONFIGS[0], TINY)
    empty = memory.snapshot()
    for batch in (2, 1, 3):
        memory.restore(empty)
        for seed in range(6):
            memory.append(*(x.repeat(1, batch, 1, 1, 1, 1) for x in kv(1, seed)))
            k, v = read(memory)
        assert k.shape[1] == batch
        assert torch.equal(k, k[:, :1].expand_as(k))
        assert torch.equal(v, v[:, :1].expand_as(v))


def test_what_is_read_stays_when_the_room_for_it_grows() -> None:
    memory, anew = (make_memory(MemoryConfig(policy="full", window=2, max_frames=100), TINY) for _ in range(2))
    for seed in range(90):
        memory.append(*kv(1, seed))
        k, v = read(memory)
    anew.restore(memory.snapshot())
    assert k.shape[2] == 90 * TINY.tokens_per_frame
    assert all(torch.equal(a, b) for a, b in zip((k, v), read(anew), strict=True))


def test_a_frame_is_aged_and_turned_once_however_long_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    aged: list[int] = []
    made: list[tuple[int, int]] = []

    def factor_of(frame: int, schedule: Sequence[int]) -> int:
        aged.append(frame)
        return frame_factor(frame, schedule)

    class Counted(FrameRotations):
        def _made(self, time: int, factor: int) -> Tensor:
            made.append((time, factor))
            return super()._made(time, factor)

    monkeypatch.setattr(relic.memory.compressed, "frame_factor", factor_of)
    monkeypatch.setattr(relic.memory.kv_cache, "FrameRotations", Counted)
    memory = make_memory(MemoryConfig(window=2, schedule=(2,), max_frames=50, max_age=60), TINY)
    for _ in range(40):
        MemoryContext(memory, TINY, 1)
        memory.append(*kv(1))
        memory.view(15)
    assert aged == list(range(38))
    assert sorted(made) == sorted([*((frame, 1) for frame in range(40)), *((frame, 2) for frame in range(38))])


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, dim=24, latent_height=2, latent_width=14)], ids=str)
def test_a_frame_s_rotation_is_that_of_its_tokens_to_the_bit(config: ModelConfig) -> None:
    rotations = FrameRotations(config)
    for time in (0, 1, 7, 7, 96, 1211, -20, 0):
        for factor in (1, 2, 4):
            space = pooled_positions(grid_positions(config.grid), config.grid, factor)
            exact = rotation(torch.full((len(space),), time), space, config.head_dim, config.rope_theta)
            assert torch.equal(rotations.of(time, factor), exact)
    assert rotations.of(0, 4) is rotations.of(0, 4)


def test_a_rotation_made_while_playing_serves_training() -> None:
    with torch.inference_mode():
        memory = make_memory(CONFIGS[0], TINY)
        turn = MemoryContext(memory, TINY, 2).query_rotation(torch.device("cpu"))
    x = torch.randn(2 * TINY.tokens_per_frame, TINY.num_heads, TINY.head_dim, requires_grad=True)
    turn = MemoryContext(memory, TINY, 1).query_rotation(torch.device("cpu"))
    rotate(x[: len(turn)], turn).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[: len(turn)], 2 * x.detach()[: len(turn)])


@pytest.mark.parametrize("grid", [(6, 10), (3, 5), (1, 7), (7, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pooling_averages_in_float32_what_a_cell_holds(grid: tuple[int, int], factor: int, dtype: torch.dtype) -> None:
    torch.manual_seed(factor)
    x = torch.randn(3, 2, grid[0] * grid[1], 5, 8).to(dtype)
    pooled = pool_tokens(x, grid, factor)
    exact = (pooling_matrix(grid, factor).double() @ x.double().flatten(-2)).unflatten(-1, (5, 8))
    assert pooled.dtype == dtype
    assert pooled.is_contiguous()
    torch.testing.assert_close(pooled.double(), exact, rtol=2.0**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert torch.equal(pool_tokens(x.transpose(0, 1), grid, factor), pooled.transpose(0, 1))
