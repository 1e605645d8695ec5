import dataclasses

import pytest
import torch

import relic_kernels
from relic.camera import Intrinsics
from relic.config import (
    COMPRESSION_SCHEDULE,
    CommitPass,
    MemoryConfig,
    MemoryPolicy,
    MemoryStorage,
    ModelConfig,
    SamplerConfig,
)
from relic.memory.backends import make_memory
from relic.memory.compression import memory_tokens, pool_tokens, pooled_positions, pooling_matrix
from relic.memory.entries import MemoryEntry, MemoryView, QuantisedEntry
from relic.model.conditioning import CameraConditioning
from relic.model.rope import grid_positions
from relic.model.transformer import RelicTransformer
from relic.rollout import rollout

TINY = ModelConfig(
    in_channels=4, dim=64, num_layers=2, num_heads=2, ffn_dim=64, text_dim=8, text_tokens=3, freq_dim=16,
    latent_height=6, latent_width=10,
)  # fmt: skip


def kv(frames: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (TINY.num_layers, 1, frames, TINY.tokens_per_frame, TINY.num_heads, TINY.head_dim)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def keys(view: MemoryView) -> torch.Tensor:
    """`(N, B, own_tokens + K, H, D)` of a network on one device."""
    assert view.k is not None
    (stack,) = view.k.stacks
    return stack


def values(view: MemoryView) -> torch.Tensor:
    """The same of the values."""
    assert view.v is not None
    (stack,) = view.v.stacks
    return stack


def test_pooling_averages_cells_and_ragged_edges() -> None:
    x = torch.arange(15.0).reshape(15, 1, 1)
    pooled = pool_tokens(x, (3, 5), 2).flatten()
    assert pooled.tolist() == [3.0, 5.0, 6.5, 10.5, 12.5, 14.0]
    assert pooled_positions(grid_positions((3, 5)), (3, 5), 2).tolist() == [
        [0.5, 0.5], [0.5, 2.5], [0.5, 4.0], [2.0, 0.5], [2.0, 2.5], [2.0, 4.0],
    ]  # fmt: skip
    torch.testing.assert_close(pooling_matrix((3, 5), 4).sum(1), torch.ones(2))


def test_the_schedule_gives_the_papers_token_counts() -> None:
    frames, window, grid = 80, 7, (30, 52)
    full = frames * grid[0] * grid[1]
    assert full == 124_800
    held = memory_tokens(frames, grid, COMPRESSION_SCHEDULE, window)
    assert 28_000 < held < 32_000
    mean = sum(1 / s**2 for s in COMPRESSION_SCHEDULE) / len(COMPRESSION_SCHEDULE)
    assert mean == pytest.approx(1 / 6, rel=0.02)


def test_every_frame_is_kept_and_old_ones_are_pooled() -> None:
    config = MemoryConfig(window=2, schedule=(1, 4, 2), max_frames=50)
    memory = make_memory(config, TINY)
    k, v = kv(7)
    memory.append(k[:, :, :4], v[:, :, :4])
    memory.append(k[:, :, 4:], v[:, :, 4:])
    assert [(e.frame, e.factor) for e in memory.entries] == [
        (0, 1),
        (1, 4),
        (2, 2),
        (3, 1),
        (4, 4),
        (5, 1),
        (6, 1),
    ]
    assert memory.num_tokens == memory_tokens(7, TINY.grid, config.schedule, 2) == 15 + 2 + 6 + 15 + 2 + 15 + 15
    assert memory.nbytes == 2 * 4 * TINY.num_layers * TINY.dim * memory.num_tokens
    torch.testing.assert_close(memory.entries[2].k.stacks[0], pool_tokens(k[:, :, 2], TINY.grid, 2))
    torch.testing.assert_close(memory.entries[1].v.stacks[0], pool_tokens(v[:, :, 1], TINY.grid, 4))


def test_window_forgets_and_full_keeps() -> None:
    k, v = kv(6)
    kept = {}
    for policy in ("window", "full"):
        memory = make_memory(MemoryConfig(policy=policy, window=2, max_frames=50), TINY)
        memory.append(k, v)
        kept[policy] = [entry.frame for entry in memory.entries]
    assert kept == {"window": [4, 5], "full": [0, 1, 2, 3, 4, 5]}


def test_memory_is_bounded_and_keeps_the_first_frame() -> None:
    memory = make_memory(MemoryConfig(window=2, max_frames=4), TINY)
    k, v = kv(7)
    for frame in range(7):
        memory.append(k[:, :, frame : frame + 1], v[:, :, frame : frame + 1])
    assert [entry.frame for entry in memory.entries] == [0, 4, 5, 6]
    assert memory.num_frames == 7


def test_restore_brings_back_the_view_and_snapshots_are_not_disturbed() -> None:
    memory = make_memory(MemoryConfig(window=2, schedule=(2,), max_frames=50), TINY)
    k, v = kv(6)
    memory.append(k[:, :, :3], v[:, :, :3])
    before = keys(memory.view(0)).clone()
    snapshot = memory.snapshot()
    memory.append(k[:, :, 3:], v[:, :, 3:])
    assert memory.view(15).next_frame == 6
    memory.restore(snapshot)
    after = memory.view(0)
    assert after.next_frame == 3
    assert torch.equal(before, keys(after))


def test_ages_beyond_the_trained_horizon_are_clamped() -> None:
    near = make_memory(MemoryConfig(policy="full", window=1, max_frames=60, max_age=5), TINY)
    far = make_memory(MemoryConfig(policy="full", window=1, max_frames=60, max_age=500), TINY)
    k, v = kv(9)
    for memory in (near, far):
        memory.append(k, v)
    clamped, exact = keys(near.view(0)), keys(far.view(0))
    same = (clamped - exact).abs().flatten(3).amax(dim=(0, 1, 3)).unflatten(0, (9, -1)).amax(1) == 0
    window_first = [True, *[False] * 4, *[True] * 4]
    assert same.tolist() == window_first


@pytest.mark.parametrize("policy", ["compressed", "full", "window"])
def test_reading_block_by_block_equals_reading_at_once(policy: MemoryPolicy) -> None:
    config = MemoryConfig(policy=policy, window=3, schedule=(1, 4, 2), max_frames=12, max_age=6)
    memory = make_memory(config, TINY)
    k, v = kv(20)
    for frame in range(20):
        memory.append(k[:, :, frame : frame + 1], v[:, :, frame : frame + 1])
        grown = memory.view(15)
        fresh = make_memory(config, TINY)
        fresh.restore(memory.snapshot())
        anew = fresh.view(15)
        assert keys(grown).shape[2] == 15 + memory.num_tokens
        assert torch.equal(keys(grown)[:, :, 15:], keys(anew)[:, :, 15:])
        assert torch.equal(values(grown)[:, :, 15:], values(anew)[:, :, 15:])


def lively(config: ModelConfig = TINY) -> RelicTransformer:
    torch.manual_seed(0)
    model = RelicTransformer(config, Intrinsics.from_fov(60.0, 80, 48))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.inference_mode()
def play(
    memory_config: MemoryConfig, frames: int = 9, seed: int = 1, block_frames: int = 1, commit: CommitPass = "clean"
) -> torch.Tensor:
    model = lively()
    generator = torch.Generator().manual_seed(seed)
    camera = CameraConditioning(
        actions=torch.rand(1, frames, 4, 13, generator=generator) * 0.05,
        rotations_w2c=torch.linalg.qr(torch.randn(1, frames, 4, 3, 3, generator=generator)).Q,
        positions=torch.randn(1, frames, 4, 3, generator=generator),
    )
    text = model.encode_text(torch.randn(1, 3, 8, generator=generator))
    first = torch.randn(1, 4, 1, 6, 10, generator=generator)
    sampler = SamplerConfig(steps=2, block_frames=block_frames, commit=commit)
    blocks = rollout(model, make_memory(memory_config, TINY), first, camera, text, sampler, generator)
    return torch.cat([block.latents for block in blocks], dim=2)


@pytest.mark.parametrize("block_frames", [1, 2])
def test_factor_one_and_a_long_window_equal_full_memory(block_frames: int) -> None:
    full = play(MemoryConfig(policy="full", window=2, max_frames=50), block_frames=block_frames)
    ones = play(MemoryConfig(window=2, schedule=(1,), max_frames=50), block_frames=block_frames)
    long_window = play(MemoryConfig(policy="window", window=40, max_frames=50), block_frames=block_frames)
    pooled = play(MemoryConfig(window=2, schedule=(4,), max_frames=50), block_frames=block_frames)
    assert full.shape == (1, 4, 8, 6, 10)
    torch.testing.assert_close(ones, full, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(long_window, full, rtol=1e-5, atol=1e-5)
    assert (pooled - full).abs().max() > 1e-2


def test_rollout_is_repeatable_and_depends_on_the_seed() -> None:
    config = MemoryConfig(window=2, max_frames=50)
    assert torch.equal(play(config), play(config))
    assert not torch.equal(play(config), play(config, seed=2))


def test_committing_the_last_pass_differs_only_after_the_first_block() -> None:
    config = MemoryConfig(window=2, max_frames=50)
    clean, last = play(config), play(config, commit="last")
    assert torch.equal(clean[:, :, 0], last[:, :, 0])
    assert not torch.equal(clean[:, :, 1], last[:, :, 1])


def test_control_that_fills_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="8 latent frames after the first do not fill blocks of 3"):
        play(MemoryConfig(window=2, max_frames=50), block_frames=3)


def test_memory_is_constant_to_gradients() -> None:
    memory = make_memory(MemoryConfig(window=2, max_frames=50), TINY)
    k, v = (x.requires_grad_() for x in kv(3))
    memory.append(k, v)
    assert not keys(memory.view(0)).requires_grad


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="memory policy 'attic'"):
        dataclasses.replace(MemoryConfig(), policy="attic")
    with pytest.raises(ValueError, match="max_frames 6 must exceed the window of 6"):
        MemoryConfig(max_frames=6)


@pytest.mark.parametrize("policy", ["compressed", "full"])
def test_eight_bit_storage_keeps_what_left_the_window_to_three_bits_of_mantissa(policy: MemoryPolicy) -> None:
    config = MemoryConfig(policy=policy, window=2, schedule=(1, 4, 2), max_frames=50)
    k, v = kv(7)
    exact, stored = (make_memory(dataclasses.replace(config, storage=storage), TINY) for storage in ("float", "fp8"))
    for frame in range(7):
        for memory in (exact, stored):
            memory.append(k[:, :, frame : frame + 1], v[:, :, frame : frame + 1])
    assert [(entry.frame, entry.factor) for entry in stored.entries] == [(e.frame, e.factor) for e in exact.entries]
    assert [isinstance(entry, QuantisedEntry) for entry in stored.entries] == [True] * 5 + [False] * 2
    for ours, theirs in zip(stored.entries[:5], exact.entries[:5], strict=True):
        for a, b in ((ours.k.stacks[0], theirs.k.stacks[0]), (ours.v.stacks[0], theirs.v.stacks[0])):
            largest = b.abs().amax(-1, keepdim=True)
            assert bool(((a - b).abs() <= (b.abs() / 16).maximum(largest * 2**-9)).all())
            assert not torch.equal(a, b)
    window = 2 * TINY.tokens_per_frame
    old = exact.num_tokens - window
    by_token = TINY.num_layers * 2 * (TINY.dim + 4 * TINY.num_heads)
    assert stored.nbytes == 8 * TINY.num_layers * TINY.dim * window + by_token * old
    view = stored.view(0)
    resumed = make_memory(dataclasses.replace(config, storage="fp8"), TINY)
    resumed.restore(stored.snapshot())
    assert torch.equal(keys(resumed.view(0)), keys(view))


def test_a_rollout_from_eight_bit_memory_stays_near_the_exact_one() -> None:
    config = MemoryConfig(window=2, schedule=(1, 4, 2), max_frames=50)
    exact = play(config)
    stored = play(dataclasses.replace(config, storage="fp8"))
    error = float((stored - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    assert 0 < error < 0.02


@pytest.mark.parametrize(
    "config",
    [
        MemoryConfig(window=2, schedule=(1, 4, 2), max_frames=50, max_age=4),
        MemoryConfig(window=3, schedule=(2, 4), max_frames=6, storage="fp8"),
        MemoryConfig(policy="full", window=2, max_frames=50),
        MemoryConfig(policy="window", window=3, max_frames=50),
    ],
)
def test_the_kernel_reads_the_memory_that_the_processor_reads(config: MemoryConfig) -> None:
    plain = play(config, frames=7)
    with relic_kernels.force("triton"):
        through_kernels = play(config, frames=7)
    torch.testing.assert_close(through_kernels, plain, rtol=1e-4, atol=1e-4)


def test_the_kernels_layout_goes_back_with_the_memory() -> None:
    memory = make_memory(MemoryConfig(window=2, schedule=(2, 4), max_frames=50, storage="fp8"), TINY)
    k, v = kv(9)
    for frame in range(6):
        memory.append(k[:, :, frame : frame + 1], v[:, :, frame : frame + 1])
    snapshot = memory.snapshot()
    before = [part.k.float().clone() for part in memory.parts().parts(1) if part is not None]
    for frame in range(6, 9):
        memory.append(k[:, :, frame : frame + 1], v[:, :, frame : frame + 1])
        memory.parts()
    memory.restore(snapshot)
    after = [part.k.float() for part in memory.parts().parts(1) if part is not None]
    assert len(before) == 2
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    fresh = make_memory(memory.config, TINY)
    assert fresh.parts().parts(0) == (None, None)


@pytest.mark.parametrize("storage", ["float", "fp8"])
def test_what_has_left_the_window_lies_in_the_kernels_layout_alone(storage: MemoryStorage) -> None:
    memory = make_memory(MemoryConfig(policy="full", window=2, max_frames=50, storage=storage), TINY)
    exact = make_memory(memory.config, TINY)
    snapshots = []
    k, v = kv(40)
    for frame in range(40):  # the layout grows on the way
        for one in (memory, exact):
            one.append(k[:, :, frame : frame + 1], v[:, :, frame : frame + 1])
        memory.parts()
        snapshots.append(memory.snapshot())
    settled = [stack for entry in memory.entries[:-2] for stack in stacks_of(entry)]
    pooled, _ = memory.parts().parts(0)
    assert pooled is not None
    kept = {stack.untyped_storage().data_ptr() for stack in settled}
    assert len(kept) == len(stacks_of(memory.entries[0]))
    assert pooled.k.untyped_storage().data_ptr() in kept
    for snapshot in (memory.snapshot(), snapshots[20]):
        for ours, theirs in zip(snapshot.entries[:-2], exact.entries, strict=False):
            pairs = zip(stacks_of(ours), stacks_of(theirs), strict=True)
            assert ours.frame == theirs.frame
            assert all(torch.equal(a.float(), b.float()) for a, b in pairs)
    assert memory.nbytes == exact.nbytes


def stacks_of(entry: MemoryEntry) -> list[torch.Tensor]:
    """Every tensor that an entry stores."""
    if isinstance(entry, QuantisedEntry):
        layers = (entry.k_codes, entry.v_codes, entry.k_scale, entry.v_scale)
        return [stack for one in layers for stack in one.stacks]
    return [*entry.k.stacks, *entry.v.stacks]
