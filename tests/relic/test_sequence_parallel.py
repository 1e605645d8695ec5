"""Ulysses over gloo: each rank's part of a network's work, put together, is what one process does."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from relic.config import MemoryConfig, ModelConfig, RelicConfig, SamplerConfig
from relic.memory.backends import make_memory
from relic.memory.entries import QuantisedEntry
from relic.memory.kv_cache import KVMemory
from relic.model.attention import BidirectionalContext
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import RelicTransformer
from relic.parallel.sequence import SequenceParallel, check_ranks
from relic.planning.prediction import sent_bytes_of_pass
from relic.rollout import rollout
from relic_distill.forcing import TeacherForcingContext
from tests.ranks import run_ranks
from tests.tiny_networks import TINY, lively_model, random_camera

RANKS = (2, 4)
UNEVEN = dataclasses.replace(TINY, dim=48, num_heads=4)
"""15 tokens a frame."""
EVEN = dataclasses.replace(UNEVEN, latent_height=8, latent_width=8, pose_encoding="frame")
FRAMES = 4
PASSES = ("bidirectional", "teacher forcing", "even")
MEMORIES = {
    "compressed": MemoryConfig(policy="compressed", window=2, schedule=(2, 3), max_frames=40, max_age=20),
    "fp8": MemoryConfig(policy="compressed", window=2, schedule=(1, 2), storage="fp8", max_frames=40, max_age=20),
    "full": MemoryConfig(policy="full", window=2, max_frames=40, max_age=20),
    "window": MemoryConfig(policy="window", window=2, max_frames=40, max_age=20),
}
SAMPLER = SamplerConfig(steps=2, block_frames=2)
BLOCKS = 3
Found = dict[str, Any]


def network(config: ModelConfig, *, parallel: bool) -> RelicTransformer:
    """The same on every rank, nothing in it silent, in double precision."""
    model = lively_model(config).double()
    if parallel:
        assert dist.group.WORLD is not None
        model.parallel = SequenceParallel(dist.group.WORLD, config)
    return model


def camera_of(frames: int, config: ModelConfig) -> CameraConditioning:
    camera = random_camera(1, frames, config)
    return CameraConditioning(
        actions=camera.actions.double(),
        rotations_w2c=camera.rotations_w2c.double(),
        positions=camera.positions.double(),
    )


def draw(model: RelicTransformer, kind: str) -> tuple[Tensor, Tensor]:
    """Two passes, one over the other's result; gradients of a loss lie in the parameters.

    Returns:
        The second velocity, and the gradient of the latents that the first pass read.
    """
    sizes = model.config
    teacher = TeacherForcingContext(sizes, MEMORIES["compressed"], 3, 1)
    context = teacher if kind == "teacher forcing" else BidirectionalContext(sizes, FRAMES, 2)
    torch.manual_seed(1)
    cells = (FRAMES, sizes.latent_height, sizes.latent_width)
    latents = torch.randn(1, sizes.in_channels, *cells, dtype=torch.float64, requires_grad=True)
    guide = torch.rand(1, sizes.guide_channels, *cells, dtype=torch.float64)
    text = model.encode_text(torch.randn(1, sizes.text_tokens, sizes.text_dim).double())
    control = model.encode_control(camera_of(FRAMES, sizes), guide)
    sigma = torch.rand(1, FRAMES, dtype=torch.float64)
    first = model(latents, sigma, control, text, context)
    second = model(latents - 0.5 * first, sigma, control, text, context)
    (second * torch.randn_like(second)).sum().backward()
    assert latents.grad is not None
    return second.detach(), latents.grad


def gradients(model: RelicTransformer) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@torch.no_grad()
def walk(model: RelicTransformer, policy: str) -> tuple[Tensor, KVMemory]:
    """Some blocks of a rollout, and its memory at the end."""
    sizes = model.config
    torch.manual_seed(2)
    first = torch.randn(1, sizes.in_channels, 1, sizes.latent_height, sizes.latent_width, dtype=torch.float64)
    camera = camera_of(1 + BLOCKS * SAMPLER.block_frames, sizes)
    text = model.encode_text(torch.randn(1, sizes.text_tokens, sizes.text_dim).double())
    memory = make_memory(MEMORIES[policy], sizes)
    drawn = rollout(model, memory, first, camera, text, SAMPLER, torch.Generator().manual_seed(3))
    return torch.cat([block.latents for block in drawn], dim=2), memory


def kept_by(memory: KVMemory) -> Found:
    """What is stored, and what the kernel would read of it, heads last but one."""
    parts = [part for part in memory.parts().parts(1) if part is not None]
    return {
        "k": [entry.k.stacks[0].numpy() for entry in memory.entries],
        "v": [entry.v.stacks[0].numpy() for entry in memory.entries],
        "parts": [part.k.float().numpy() for part in parts],
        "turns": [part.turns.table.numpy()[part.turns.offsets.numpy()] for part in parts],
        "quantised": [isinstance(entry, QuantisedEntry) for entry in memory.entries],
        "nbytes": memory.nbytes,
    }


def job() -> Found:
    """One rank's share of everything."""
    found: Found = {}
    for kind in PASSES:
        model = network(EVEN if kind == "even" else UNEVEN, parallel=True)
        assert model.parallel is not None
        velocity, latent_gradient = draw(model, kind)
        for gradient in gradients(model).values():
            dist.all_reduce(gradient)
        found[kind] = {
            "velocity": velocity.numpy(),
            "latents": latent_gradient.numpy(),
            "parameters": {name: value.numpy() for name, value in gradients(model).items()},
            "exchanged": model.parallel.exchanged_bytes,
            "gathered": model.parallel.gathered_bytes,
        }
    for policy in MEMORIES:
        latents, memory = walk(network(UNEVEN, parallel=True), policy)
        found[policy] = {"latents": latents.numpy(), **kept_by(memory)}
    found["sharded"] = sharded_gradients()
    return found


def sharded_gradients() -> dict[str, np.ndarray]:
    """The same training pass with parameters shared out by FSDP2, which averages gradients over the ranks."""
    from relic_distill.sharding import shard_networks

    model = network(UNEVEN, parallel=True)
    shard_networks([model], [], [], init_device_mesh("cpu", (dist.get_world_size(),)))
    draw(model, "bidirectional")
    found = gradients(model)
    assert all(isinstance(value, DTensor) for value in found.values())
    return {name: value.full_tensor().numpy() * dist.get_world_size() for name, value in found.items()}  # type: ignore[attr-defined]


@pytest.fixture(scope="module", params=RANKS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return run_ranks(tmp_path_factory.mktemp("ranks"), request.param, job)


def assert_same(found: np.ndarray, wanted: np.ndarray, close: float = 1e-9) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=close, atol=close * np.abs(wanted).max())


@pytest.mark.parametrize("kind", PASSES)
def test_velocity_and_gradients_are_those_of_one_process(ranks: list[Found], kind: str) -> None:
    model = network(EVEN if kind == "even" else UNEVEN, parallel=False)
    velocity, latent_gradient = draw(model, kind)
    wanted = gradients(model)
    assert all(value.any() for value in wanted.values())
    for found in ranks:
        assert_same(found[kind]["velocity"], velocity.numpy())
        assert_same(found[kind]["latents"], latent_gradient.numpy())
        assert found[kind]["parameters"].keys() == wanted.keys()
        for name, value in wanted.items():
            assert_same(found[kind]["parameters"][name], value.numpy())


def test_parameters_may_be_shared_out_too(ranks: list[Found]) -> None:
    model = network(UNEVEN, parallel=False)
    draw(model, "bidirectional")
    for found in ranks:
        assert found["sharded"].keys() == gradients(model).keys()
        for name, value in gradients(model).items():
            assert_same(found["sharded"][name], value.numpy())


@pytest.mark.parametrize("policy", MEMORIES)
def test_a_rollout_is_that_of_one_process_and_each_rank_keeps_its_heads(ranks: list[Found], policy: str) -> None:
    latents, memory = walk(network(UNEVEN, parallel=False), policy)
    whole = kept_by(memory)
    own = UNEVEN.num_heads // len(ranks)
    close = 1e-6 if policy == "fp8" else 1e-9  # the scales are single precision
    assert any(entry.num_tokens < UNEVEN.tokens_per_frame for entry in memory.entries) == (
        policy in ("compressed", "fp8")
    )
    for rank, found in enumerate(ranks):
        part = found[policy]
        assert_same(part["latents"], latents.numpy(), close)
        assert part["nbytes"] * len(ranks) == whole["nbytes"]
        assert part["quantised"] == whole["quantised"]
        for name in ("k", "v", "parts"):
            assert len(part[name]) == len(whole[name])
            for held, everything in zip(part[name], whole[name], strict=True):
                assert_same(held, everything[..., rank * own : (rank + 1) * own, :], close)
        for turns, wanted in zip(part["turns"], whole["turns"], strict=True):
            assert_same(turns, wanted)
    assert any(whole["quantised"]) == (policy == "fp8")


def planned(sizes: ModelConfig, count: int) -> float:
    """Bytes of a rank's pass in single precision."""
    config = RelicConfig(model=dataclasses.replace(sizes, in_channels=16, guide_channels=0))
    return sent_bytes_of_pass(config, FRAMES * sizes.tokens_per_frame, count, "fp32")


def test_bytes_sent_are_those_of_the_plan(ranks: list[Found]) -> None:
    count, width, passes = len(ranks), torch.float64.itemsize, 2
    plan = planned(EVEN, count)
    share, surplus = divmod(UNEVEN.tokens_per_frame, count)
    everything, patch = FRAMES * UNEVEN.tokens_per_frame, UNEVEN.in_channels * UNEVEN.patch_size**2
    for rank, found in enumerate(ranks):
        assert found["even"]["exchanged"] == 2 * passes * plan * width / 4, "forward and backward"
        own = FRAMES * (share + (rank < surplus))
        there, back = own * (count - 1), everything - own
        forward, backward = 3 * there + back, 3 * back + there
        sent = UNEVEN.num_layers * UNEVEN.dim * (forward + backward) / count
        assert found["bidirectional"]["exchanged"] == passes * sent * width
        assert found["bidirectional"]["gathered"] == 2 * passes * there * patch * width
    total = sum(found["bidirectional"]["exchanged"] for found in ranks)
    assert total == count * 2 * passes * planned(UNEVEN, count) * width / 4, "shares differ, their sum does not"


def test_ranks_that_do_not_divide_the_heads_are_refused() -> None:
    check_ranks(5, 40)
    with pytest.raises(ValueError, match=r"2 ranks do not divide the network's 5 heads: .* one of 1, 5 ranks"):
        check_ranks(2, 5)


def more_ranks_than_tokens() -> str:
    assert dist.group.WORLD is not None
    try:
        SequenceParallel(dist.group.WORLD, dataclasses.replace(UNEVEN, latent_height=2, latent_width=2))
    except ValueError as error:
        return str(error)
    return ""


def test_every_rank_needs_a_token(tmp_path: Path) -> None:
    refused = "2 ranks for 1 tokens a frame: each needs at least one"
    assert run_ranks(tmp_path, 2, more_ranks_than_tokens) == [refused, refused]
