"""Distribution matching and consistency against cases whose answers are known in closed form."""

import pytest
import torch
from torch import Tensor

from relic.config import MemoryConfig, RelicConfig, SamplerConfig
from relic.flow_matching import add_noise, velocity_target, x0_from_velocity
from relic.model.attention import AttentionContext
from relic.model.control import Control
from relic.model.transformer import RelicTransformer, TextKV
from relic.vae.config import VaeConfig
from relic_distill.causal_loss import ClipBatch
from relic_distill.dmd import generator_gradient, guided, known_distance, score_difference, truth_difference
from relic_distill.init_loss import consistency_loss
from tests.tiny_networks import INTRINSICS, TINY, random_camera

MEAN, STD = 0.7, 0.4


def gaussian_x0(x: Tensor, sigma: float, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """E[x0 | x] of `x = (1 - sigma) x0 + sigma eps` for Gaussian x0."""
    variance = torch.as_tensor(std) ** 2
    gain = (1 - sigma) * variance / ((1 - sigma) ** 2 * variance + sigma**2)
    return mean + gain * (x - (1 - sigma) * mean)


def gaussian_score(x: Tensor, sigma: float, mean: float, std: float) -> Tensor:
    return -(x - (1 - sigma) * mean) / ((1 - sigma) ** 2 * std**2 + sigma**2)


def test_the_map_is_the_difference_of_scores_up_to_a_factor_of_each_video() -> None:
    generated = torch.randn(3, 2, 4, 2, 2) * 0.9 - 0.2
    for sigma in (0.2, 0.5, 0.9):
        noisy = (1 - sigma) * generated + sigma * torch.randn_like(generated)
        data, own = gaussian_x0(noisy, sigma, MEAN, STD), gaussian_x0(noisy, sigma, -0.2, 0.9)
        difference = score_difference(generated, data, own)
        scores = gaussian_score(noisy, sigma, MEAN, STD) - gaussian_score(noisy, sigma, -0.2, 0.9)
        factor = (difference / scores).flatten(1)
        torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-3, atol=1e-4)
        expected = sigma**2 / (1 - sigma) / (generated - data).abs().mean(dim=(1, 2, 3, 4))
        torch.testing.assert_close(factor[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_a_gaussian_generator_becomes_the_data() -> None:
    """Mean and spread follow the map when the critic knows the generator's own distribution."""
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.tensor(-1.0, requires_grad=True), torch.tensor(1.5, requires_grad=True)
    optimizer = torch.optim.SGD([mean, std], lr=0.05)
    for _ in range(1500):
        z = torch.randn(256, 1, 1, 1, 1, generator=generator)
        latents = mean + std * z
        sigma = float(torch.rand((), generator=generator)) * 0.8 + 0.1
        noisy = (1 - sigma) * latents.detach() + sigma * torch.randn(z.shape, generator=generator)
        own = gaussian_x0(noisy, sigma, mean.detach(), std.detach())
        difference = score_difference(latents.detach(), gaussian_x0(noisy, sigma, MEAN, STD), own)
        optimizer.zero_grad()
        latents.backward(generator_gradient(difference))
        optimizer.step()
    assert abs(mean.item() - MEAN) < 0.05
    assert abs(std.item() - STD) < 0.05


def test_the_map_to_the_truth_is_the_way_there_where_it_is_known_and_nothing_elsewhere() -> None:
    latents, truth = torch.randn(3, 2, 4, 2, 2), torch.randn(3, 2, 4, 2, 2)
    known = torch.zeros(3, 1, 4, 2, 2)
    known[:2, :, 1:3] = 1.0
    known[1, :, 2] = 0.25
    found = truth_difference(latents, truth, known)
    assert found[0, :, 1:3].abs().mean().item() == pytest.approx(1.0, rel=1e-5)
    way = (truth - latents)[0, :, 1:3]
    torch.testing.assert_close(found[0, :, 1:3], way / way.abs().mean())
    expected = ((truth - latents) * known)[1]
    torch.testing.assert_close(found[1] / found[1].abs().mean(), expected / expected.abs().mean())
    assert not found[:, :, (0, 3)].any()
    assert not found[2].any()
    torch.testing.assert_close(truth_difference(2 * latents, 2 * truth, known), found)
    distances = known_distance(latents, truth, known).flatten()
    half_known = (truth - latents)[1, :, 1].abs().mean() * 0.8 + (truth - latents)[1, :, 2].abs().mean() * 0.2
    torch.testing.assert_close(distances, torch.stack([way.abs().mean(), half_known, torch.zeros(())]))


def test_a_critic_trained_by_flow_matching_reaches_the_true_score() -> None:
    generator = torch.Generator().manual_seed(0)
    sigma = torch.full((4096,), 0.6)
    slope, offset = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([slope, offset], lr=0.02)
    for _ in range(400):
        x0 = MEAN + STD * torch.randn(4096, 1, generator=generator)
        eps = torch.randn(4096, 1, generator=generator)
        loss = (slope * add_noise(x0, eps, sigma) + offset - velocity_target(x0, eps)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.linspace(-1.5, 2.0, 50)[:, None]
    predicted = x0_from_velocity(x, (slope * x + offset).detach(), torch.full((50,), 0.6))
    torch.testing.assert_close(predicted, gaussian_x0(x, 0.6, MEAN, STD), rtol=0, atol=0.05)


def test_guidance_goes_past_the_conditional_prediction() -> None:
    with_prompt, without = torch.tensor([2.0]), torch.tensor([1.0])
    assert guided(with_prompt, without, 1.0).item() == 2.0
    assert guided(with_prompt, without, 1.5).item() == 2.5
    assert guided(with_prompt, without, 0.0).item() == 1.0


class PointFlow(RelicTransformer):
    """The exact flow of data that is one point: every prediction of clean latents is that point."""

    point = 0.3

    def forward(
        self, latents: Tensor, sigma: Tensor, control: Control, text: TextKV, context: AttentionContext
    ) -> Tensor:
        level = sigma[:, None, :, None, None].clamp(min=1e-6)
        return (latents - self.point) / level


class BentFlow(PointFlow):
    """The same with a clean end that depends on the noise level: no student of it is consistent."""

    def forward(
        self, latents: Tensor, sigma: Tensor, control: Control, text: TextKV, context: AttentionContext
    ) -> Tensor:
        level = sigma[:, None, :, None, None].clamp(min=1e-6)
        return (latents - self.point * level) / level


def test_an_exact_flow_is_the_fixed_point_of_consistency() -> None:
    world = RelicConfig(memory=MemoryConfig(window=2), sampler=SamplerConfig(steps=2), vae=VaeConfig())
    exact, bent = PointFlow(TINY, INTRINSICS), BentFlow(TINY, INTRINSICS)
    batch = ClipBatch(latents=torch.full((2, 4, 5, 6, 10), 0.3), camera=random_camera(2, 5), text=torch.randn(2, 3, 8))

    def loss(student: RelicTransformer) -> float:
        generator = torch.Generator().manual_seed(0)
        return float(consistency_loss(student, student, exact, batch, world, 8, generator))

    assert loss(exact) < 1e-8
    assert loss(bent) > 1e-5
