"""Kernels compiled for GPUs that are not here, in a process without the interpreter."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from relic_kernels.configurations import AttentionKernel, Target, attention_tile, nvidia_target, target_of
from relic_kernels.static_analysis import LIMITS, TARGETS, Compiled, measure_apart, occupancy

EVERY_TARGET: list[tuple[Target, str]] = [(target, "memory_attention, forward, D 128") for target in TARGETS]
EVERY_OPERATOR: list[tuple[Target, str]] = [
    ("sm_80", "memory_attention, gradient of queries, D 64"),
    ("sm_90", "memory_attention, gradient of keys, D 128"),
    ("sm_100", "qk_norm_rope_pose, backward of queries, wan-14b"),
    ("sm_100", "modulated_norm, backward, wan-14b"),
    ("sm_120", "gated_residual, backward, wan-1.3b"),
    ("sm_90", "memory_attention, unpack E4M3, D 128"),
    ("sm_80", "memory_attention, unpack bfloat16, D 64"),
    ("sm_90", "memory_commit, factor 4, D 128"),
    ("gfx942", "memory_commit, factor 2, D 128"),
]
PRODUCTS = {"sm_80": "mma", "sm_89": "mma", "sm_90": "wgmma", "sm_100": "tcgen05", "sm_120": "mma", "gfx942": "mfma"}


@pytest.fixture(scope="module")
def compiled() -> list[Compiled]:
    return list(measure_apart(EVERY_TARGET + EVERY_OPERATOR))


def test_a_sample_of_every_operator_and_target_spills_nothing_and_fits(compiled: list[Compiled]) -> None:
    assert {one.target for one in compiled} == set(TARGETS)
    assert len({one.operator for one in compiled}) == 5
    assert [fault for one in compiled for fault in one.faults] == []
    assert all(0 < one.occupancy <= 1 for one in compiled)


def test_attention_runs_on_each_targets_tensor_cores_and_copies_ahead(compiled: list[Compiled]) -> None:
    forward = {one.target: one for one in compiled if one.kernel == "forward, D 128"}
    for target, one in forward.items():
        assert one.instructions[PRODUCTS[target]] > 0
        assert (one.instructions["async copies"] > 0) == (target != "gfx942")
        assert (one.instructions["FP8 conversions"] > 0) == (target not in ("sm_80", "gfx942"))


def test_unpacking_runs_many_warps_without_shared_memory(compiled: list[Compiled]) -> None:
    unpacking = [one for one in compiled if one.kernel.startswith("unpack")]
    assert len(unpacking) == 2
    assert all(one.occupancy >= 0.75 and not one.shared_bytes for one in unpacking)


def test_a_kernel_that_spills_or_does_not_fit_is_a_fault(compiled: list[Compiled]) -> None:
    sound = compiled[0]
    assert sound.faults == []
    assert replace(sound, spilled_bytes=8).faults == ["memory_attention, forward, D 128 on sm_80 spills 8 bytes"]
    assert "of shared memory of" in replace(sound, shared_bytes=sound.shared_limit + 1).faults[0]
    assert "columns of tensor memory" in replace(sound, tensor_memory=513).faults[0]


def test_every_launch_has_a_tile_that_tensor_cores_take() -> None:
    for target in get_args(Target):
        for kernel in get_args(AttentionKernel):
            for width in (32, 64, 128):
                for dtype in (torch.bfloat16, torch.float32):
                    tile = attention_tile(kernel, target, width, dtype)
                    assert min(tile.queries, tile.keys) >= 16
                    assert tile.warps * (64 if target == "gfx942" else 32) <= 1024


def test_devices_take_the_tiles_of_their_architecture() -> None:
    assert [nvidia_target(*capability) for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 3), (12, 0))] == [
        "sm_80", "sm_89", "sm_89", "sm_90", "sm_100", "sm_120",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"compute capability 7\.5"):
        nvidia_target(7, 5)
    assert target_of(torch.device("cpu")) is None


def test_occupancy_is_the_scarcest_resources() -> None:
    assert occupancy("sm_90", registers=32, shared_bytes=0, warps=4) == 1.0
    assert occupancy("sm_90", registers=255, shared_bytes=0, warps=8) == 8 / 64
    assert occupancy("sm_80", registers=32, shared_bytes=LIMITS["sm_80"].program_shared, warps=4) == 4 / 64
    assert occupancy("gfx942", registers=256, shared_bytes=0, warps=4) == 8 / 32
