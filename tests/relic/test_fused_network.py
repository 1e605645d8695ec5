"""A network that is computed by C++ plays what it plays by torch's operators."""

import copy
import dataclasses
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from relic.camera import CameraPath
from relic.config import MemoryConfig, MemoryPolicy, MemoryStorage, SamplerConfig, SamplerKind, mini
from relic.flow_matching import sampling_sigmas
from relic.memory.backends import make_memory
from relic.memory.context import MemoryContext
from relic.model.attention import BidirectionalContext
from relic.model.conditioning import CameraConditioning, camera_conditioning, stack_conditioning
from relic.model.fused_network import KeptTimes
from relic.model.transformer import RelicTransformer
from relic.rollout import denoise_block, rollout
from relic.world import World, world_intrinsics
from relic_kernels.dispatch import force

pytestmark = pytest.mark.native

WORLD = World.tiny()
MODEL = WORLD.config.model


def network(dtype: torch.dtype = torch.float32) -> RelicTransformer:
    made = copy.deepcopy(WORLD.model)
    made.cast(dtype)
    assert made.fuse() is None
    return made


def test_a_copy_is_not_fused_to_the_original_s_weights() -> None:
    assert WORLD.model.fused is not None
    assert copy.deepcopy(WORLD.model).fused is None


def camera(latents: int, seed: int = 0) -> CameraConditioning:
    torch.manual_seed(seed)
    path = CameraPath.identity(1 + 4 * (latents - 1))
    actions = 0.02 * torch.randn(len(path), MODEL.num_actions).double().numpy()
    return camera_conditioning(actions, path)


def walk(model: RelicTransformer, memory: MemoryConfig, batch: int = 1, blocks: int = 7) -> Tensor:
    """Latents of a rollout with a memory that is pooled, from fixed noise."""
    torch.manual_seed(1)
    text = model.encode_text(torch.randn(batch, MODEL.text_tokens, MODEL.text_dim))
    first = torch.randn(batch, MODEL.in_channels, 1, MODEL.latent_height, MODEL.latent_width)
    cameras = stack_conditioning([camera(1 + blocks, seed) for seed in range(batch)])
    generator = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        drawn = rollout(model, make_memory(memory, MODEL), first, cameras, text, WORLD.config.sampler, generator)
        return torch.cat([block.latents for block in drawn], dim=2)


def by_operators(model: RelicTransformer, memory: MemoryConfig, batch: int = 1) -> Tensor:
    with force("reference"):
        return walk(model, memory, batch)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("storage", ["float", "fp8"])
@pytest.mark.parametrize("policy", ["compressed", "full", "window"])
def test_a_walk_is_the_same(policy: MemoryPolicy, storage: MemoryStorage, batch: int) -> None:
    memory = MemoryConfig(policy=policy, storage=storage, window=2, max_frames=40, max_age=20)
    model = network()
    expected, got = by_operators(model, memory, batch), walk(model, memory, batch)
    assert 0 < apart(got, expected) < 1e-4


def test_in_bfloat16_a_pass_is_no_farther_from_float32_than_by_operators(require: Callable[..., None]) -> None:
    require("bfloat16")
    exact = by_operators(network(), WORLD.config.memory)[:, :, :1]
    narrow = network(torch.bfloat16)
    by_cpp = apart(walk(narrow, WORLD.config.memory)[:, :, :1], exact)
    by_torch = apart(by_operators(narrow, WORLD.config.memory)[:, :, :1], exact)
    assert 0 < by_cpp < by_torch < 0.03


def test_the_threads_change_nothing_but_roundings_of_torch_s_own() -> None:
    model, threads = network(), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(walk(model, WORLD.config.memory))
    finally:
        torch.set_num_threads(threads)
    assert apart(*results) < 1e-5, "torch's own operators may divide sums otherwise"


def velocity(model: RelicTransformer, frames: int = 1, *, whole: bool = False) -> Tensor:
    torch.manual_seed(3)
    latents = torch.randn(1, MODEL.in_channels, frames, MODEL.latent_height, MODEL.latent_width)
    text = model.encode_text(torch.randn(1, MODEL.text_tokens, MODEL.text_dim))
    control = model.encode_control(camera(frames))
    context = (
        BidirectionalContext(MODEL, frames)
        if whole
        else MemoryContext(make_memory(WORLD.config.memory, MODEL), MODEL, frames)
    )
    return model(latents, torch.full((1, frames), 0.5), control, text, context)


def test_what_it_cannot_take_the_layers_compute_themselves() -> None:
    fused, plain = network(), network()
    plain.fused = None
    with torch.no_grad():
        assert not torch.equal(velocity(fused), velocity(plain)), "this one is its to compute"
        assert torch.equal(velocity(fused, 3), velocity(plain, 3)), "several frames"
        assert torch.equal(velocity(fused, whole=True), velocity(plain, whole=True)), "no memory to write into"
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(velocity(fused), velocity(plain)), "mixed precision"
    assert torch.equal(velocity(fused), velocity(plain)), "gradients"
    velocity(fused.requires_grad_()).sum().backward()
    assert all(block.attn1.to_q.weight.grad is not None for block in fused.blocks)


def test_a_network_that_was_cast_since_computes_by_itself_until_fused_anew() -> None:
    model, other = network(), network()
    other.fused = None
    for one in (model, other):
        one.cast(torch.float64)
        one.to(torch.float64)
    with torch.no_grad():
        assert torch.equal(velocity(model), velocity(other))
    assert model.fuse() == (
        "the C++ network cannot run here: they compute in float32 and bfloat16, not in torch.float64"
    )
    assert model.fused is None


def test_what_is_remembered_is_what_a_pass_without_guide_leaves() -> None:
    torch.manual_seed(4)
    model, level = network(), torch.zeros(1, 1)
    latents = torch.randn(1, MODEL.in_channels, 1, MODEL.latent_height, MODEL.latent_width)
    text = model.encode_text(torch.randn(1, MODEL.text_tokens, MODEL.text_dim))
    guided = model.encode_control(camera(1), torch.rand(1, MODEL.guide_channels, 1, *latents.shape[-2:]))
    plain = dataclasses.replace(guided, guide=None)
    memory = make_memory(WORLD.config.memory, MODEL)

    def left_by(run: Callable[[MemoryContext], object]) -> list[Tensor]:
        context = MemoryContext(memory, MODEL, 1)
        run(context)
        return [tensor.clone() for pair in zip(*context.own_kv, strict=True) for tensor in pair]

    with torch.no_grad():
        exact = left_by(lambda context: model(latents, level, plain, text, context))
        got = left_by(lambda context: model.remember(latents, level, guided, text, context))
        assert all(map(torch.equal, got, exact))
        with force("reference"):
            by_layers = left_by(lambda context: model.remember(latents, level, guided, text, context))
    assert all(apart(one, other) < 1e-5 for one, other in zip(by_layers, exact, strict=True))


def test_embeddings_of_noise_levels_are_kept_until_a_weight_is_written() -> None:
    weight, calls = torch.ones(3), []

    def embed(sigma: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(sigma)
        return (sigma[..., None, None] * weight).expand(-1, -1, 6, -1), sigma[..., None, None].expand(-1, -1, 2, 3)

    times, sigma = KeptTimes(embed, [weight]), torch.tensor([0.25, 0.5])[:, None, None]
    for _ in range(2):
        times.drop_old()
        level = times.at([0.25, 0.5])
    assert len(calls) == 1
    assert list(level.sigma) == [0.25, 0.5]
    assert torch.equal(level.modulation, sigma.expand(2, 6, 3))
    assert torch.equal(level.ends_modulation, sigma.expand(2, 2, 3))
    assert times.at([0.25]).modulation.shape == (1, 6, 3)
    weight.mul_(2)
    times.drop_old()
    assert torch.equal(times.at([0.25, 0.5]).modulation, 2 * level.modulation)


def test_few_embeddings_are_kept() -> None:
    made = []

    def embed(sigma: Tensor) -> tuple[Tensor, Tensor]:
        made.append(sigma)
        return sigma[..., None, None], sigma[..., None, None]

    times = KeptTimes(embed, [])
    for level in [*range(100), 99, 0]:
        times.at([level / 100])
    assert len(made) == 101, "the last is kept, the first is not"


@pytest.mark.parametrize("kind", ["euler", "renoise"])
def test_passes_at_once_draw_what_passes_one_by_one_do(kind: SamplerKind) -> None:
    class Watch:
        def __init__(self) -> None:
            self.levels: list[float] = []

        def passed(self, step: int, sigma: Tensor, latents: Tensor) -> Tensor:
            assert step == len(self.levels)
            self.levels.append(float(sigma))
            return latents

        def shown(self, pixels: Tensor) -> None: ...

    torch.manual_seed(5)
    model, sampler = network(), SamplerConfig(kind=kind, steps=3, shift=2.0)
    noise = torch.randn(2, MODEL.in_channels, 1, MODEL.latent_height, MODEL.latent_width)
    text = model.encode_text(torch.randn(2, MODEL.text_tokens, MODEL.text_dim))
    camera_of_both = stack_conditioning([camera(1, seed) for seed in range(2)])
    control = model.encode_control(camera_of_both, torch.rand(2, MODEL.guide_channels, *noise.shape[2:]))

    def draw(spectator: Watch | None) -> Tensor:
        context = MemoryContext(make_memory(WORLD.config.memory, MODEL), MODEL, 1)
        generator = torch.Generator().manual_seed(6)
        return denoise_block(model, context, control, text, noise, sampler, generator, spectator=spectator)

    with torch.no_grad():
        watch = Watch()
        at_once = draw(None)
        assert torch.equal(draw(watch), at_once), "watching changes nothing"
        with force("reference"):
            assert apart(draw(None), at_once) < 1e-5
    assert watch.levels == pytest.approx(sampling_sigmas(3, 2.0)[:-1].tolist())


def test_weights_that_are_trained_on_are_seen() -> None:
    model = network()
    with torch.no_grad():
        before = velocity(model)
        for parameter in model.parameters():
            parameter.add_(0.01)
        after = velocity(model)
        with force("reference"):
            expected = velocity(model)
    assert apart(after, before) > 1e-2
    assert apart(after, expected) < 1e-5


def test_frames_of_too_many_tokens_are_refused_by_name() -> None:
    large = dataclasses.replace(MODEL, latent_height=24)
    config = dataclasses.replace(mini(), model=large)
    why = RelicTransformer(large, world_intrinsics(config)).fuse()
    assert why == "frames of 120 tokens do not fit the C++ network, which takes 64"


@pytest.mark.parametrize("forced", [False, True])
def test_worlds_fuse_their_network_and_forced_operators_win(forced: bool) -> None:
    assert WORLD.model.fused is not None
    latents = torch.zeros(1, MODEL.in_channels, 1, MODEL.latent_height, MODEL.latent_width)
    context = MemoryContext(make_memory(WORLD.config.memory, MODEL), MODEL, 1)
    with torch.no_grad(), force("reference") if forced else nullcontext():
        assert WORLD.model.fused.takes(latents, context) is not forced
