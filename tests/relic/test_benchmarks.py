import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from relic.benchmarks.accuracy import Start, format_frame_accuracies, frame_accuracies
from relic.benchmarks.blocks import block_times, format_block_times, format_part_times, part_times
from relic.benchmarks.histories import Subject, filled_memory, history_costs, history_table, still_block
from relic.benchmarks.passes import (
    ALL,
    EMBEDDED,
    JOINED,
    OPERATORS,
    UNPACKED,
    PlainContext,
    format_pass_times,
    pass_times,
)
from relic.benchmarks.products import products_of
from relic.benchmarks.walks import start_up, walk_speed
from relic.memory.compression import memory_tokens
from relic.memory.context import MemoryContext
from relic.precision import Precision
from relic.rollout import denoise_block
from relic.world import World
from relic_kernels.dispatch import force


def test_histories_are_counted_in_tokens_and_bytes() -> None:
    world = World.tiny()
    rows = [block_times(world, policy, (0.5, 2.0), repeats=1) for policy in ("compressed", "full")]
    compressed, full = rows
    assert full.tokens == (3 * 60, 9 * 60)
    assert compressed.tokens[1] < full.tokens[1]
    assert full.megabytes[1] == pytest.approx(9 * 60 * 2 * 48 * 2 * 4 / 1e6)
    assert min(compressed.milliseconds) > 0
    table = format_block_times(rows).splitlines()
    assert table[0] == "| memory | 0.5 s | 2 s | last / first | tokens | MB |"
    assert len(table) == 4


def test_a_history_beyond_the_memorys_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seconds \(99.0,\) lie in"):
        block_times(World.tiny(), "full", (99.0,), repeats=1)


def test_parts_of_a_block_are_timed_and_named() -> None:
    times = part_times(World.tiny(), seconds=0.5, repeats=2)
    assert min(times.guide, times.denoise, times.commit, times.show, times.decode_fps, times.encode_fps) > 0
    head, _, row = format_part_times(times).splitlines()
    assert head.count("|") == row.count("|") == 8
    with pytest.raises(ValueError, match="repeats 0 must be at least 1"):
        part_times(World.tiny(), seconds=1.0, repeats=0)


def test_frames_are_compared_with_those_of_float32(tmp_path: Path) -> None:
    World.tiny().save(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3), dtype=np.uint8)
    starts = [Start(picture=Image.fromarray(picture), prompt="a room") for picture in noise]

    def load(precision: Precision) -> World:
        return World.load(tmp_path, precision=precision)

    rows = frame_accuracies(load, ["float32", "bfloat16"], starts, seconds=2)
    assert [(len(row.decibels), len(row.decibels[0])) for row in rows] == [(2, 2)] * 2
    exact, narrow = (row.decibels[0] for row in rows)
    assert min(exact) > 60
    assert 30 < min(narrow) < min(exact)
    lines = format_frame_accuracies(rows).splitlines()
    assert lines[0] == "| precision | second 1 | second 2 |"
    assert f"({min(narrow):.1f}) dB" in lines[3]
    with force("reference"):
        (same,) = frame_accuracies(load, ["float32"], starts[:1], seconds=1)
    assert same.decibels == ((math.inf,),)
    with pytest.raises(ValueError, match="0 starts of 1 s: give at least one of 1 s"):
        frame_accuracies(load, ["float32"], [], seconds=1)


def test_products_are_found_and_counted() -> None:
    a, b, bias = torch.randn(7, 5), torch.randn(5, 3), torch.randn(3)
    q, k, v = torch.randn(1, 2, 6, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    with torch.inference_mode():
        products = products_of(
            lambda: (
                a @ b,
                torch.nn.functional.linear(a, b.T, bias),
                torch.nn.functional.scaled_dot_product_attention(q, k, v),
            )[0]
        )
    assert products.flops == 2 * (2 * 7 * 5 * 3) + 2 * (2 * 2 * 6 * 9 * 8)
    assert len(products.jobs) == 4
    products.run()
    with pytest.raises(ValueError, match="no matrix product was seen"):
        products_of(lambda: a + 1)


def test_a_plainly_written_block_is_the_block_that_is_played() -> None:
    world = World.tiny()
    memory = dataclasses.replace(world.config.memory, window=2, max_age=5)
    filled = filled_memory(Subject.of_world(world), memory, 2.5)
    camera, noise = still_block(world.config)
    text = world.model.encode_text(world.text_encoder.encode(["a room"]))
    control = world.model.encode_control(camera)
    with torch.inference_mode():
        played, plain = (
            denoise_block(
                world.model, context(filled, world.config.model, 1), control, text, noise, world.config.sampler
            )
            for context in (MemoryContext, PlainContext)
        )
    torch.testing.assert_close(plain, played, rtol=1e-4, atol=1e-5)
    assert [entry.factor for entry in filled.entries][-2:] == [1, 1]


@pytest.mark.native
def test_a_blocks_passes_are_timed_beside_their_products() -> None:
    world = World.tiny()
    times = pass_times(world, world.config.memory, seconds=1.0, repeats=1)
    model = world.config.model
    linear = 2 * model.tokens_per_frame * model.num_layers * (6 * model.dim**2 + 2 * model.dim * model.ffn_dim)
    passes = world.config.sampler.steps + 1
    assert passes * linear < times.flops < 3 * passes * linear
    table = format_pass_times(times)
    assert all(name in table for name in ("as played", "matrix products alone", OPERATORS, JOINED, EMBEDDED, ALL))
    assert UNPACKED not in times.plain, "float32 weights are not packed"
    assert min(times.block, times.products, *times.plain.values()) > 0


def test_histories_cost_what_their_tokens_weigh() -> None:
    world = World.tiny()
    base = world.config.memory
    memories = [
        dataclasses.replace(base, policy="full"),
        base,
        dataclasses.replace(base, storage="fp8"),
    ]
    full, pooled, eight_bit = history_costs(Subject.of_world(world), memories, (12.0,), repeats=1)
    assert full.tokens == 48 * 60, "more frames than the configured bound of 40"
    assert pooled.tokens == eight_bit.tokens == memory_tokens(48, (6, 10), base.schedule, base.window)
    assert full.megabytes == pytest.approx(48 * 60 * 2 * 48 * 2 * 4 / 1e6)
    window, old = 2 * 60, pooled.tokens - 2 * 60
    assert eight_bit.megabytes == pytest.approx((window * 2 * 48 * 2 * 4 + old * 2 * 2 * (48 + 2 * 4)) / 1e6)
    rows = list(history_table([full, pooled, eight_bit]))
    assert rows[2].startswith("| full | float | 12 s |")
    assert rows[3].endswith(f"| 1/{full.megabytes / pooled.megabytes:.2f} |")
    short = [full, dataclasses.replace(full, milliseconds=None), dataclasses.replace(pooled, milliseconds=None)]
    assert list(history_table(short))[3:] == [
        "| full | float | 12 s | does not fit | - | - | - |",
        "| compressed | float | 12 s | does not fit | - | - | - |",
    ]
    with pytest.raises(ValueError, match="less than a latent frame"):
        next(history_costs(Subject.of_world(world), memories, (12.0, 0.01), repeats=1))


def test_a_walk_is_counted_in_frames() -> None:
    speed = walk_speed(World.tiny(), seconds=1.0, steps=1)
    assert speed.frames == 16
    assert speed.fps == pytest.approx(16 / speed.seconds)
    with pytest.raises(ValueError, match=r"less than a block of 0\.25 s"):
        walk_speed(World.tiny(), seconds=0.01)


def test_every_block_of_a_walk_takes_the_steps_that_were_asked() -> None:
    world, passes = World.tiny(), []
    world.model.register_forward_hook(lambda *_: passes.append(1))
    counts = []
    for steps in (1, 3):
        passes.clear()
        with force("reference"):
            walk_speed(world, seconds=1.0, steps=steps)
        counts.append(len(passes))
    warm_up, walked = 2, 4
    assert counts == [2 + (warm_up + walked) * (steps + 1) for steps in (1, 3)]


def test_start_up_is_told_stage_by_stage(tmp_path: Path) -> None:
    World.tiny().save(tmp_path)
    stages = start_up(tmp_path)
    assert len(stages) == 6
    assert next(iter(stages)).startswith("Python")
    assert min(stages.values()) > 0
    with pytest.raises(ValueError, match=r"starting a world failed.*nowhere"):
        start_up(tmp_path / "nowhere")
