import itertools

import pytest
import torch

from relic import flow_matching as fm


def test_schedule_runs_from_noise_to_clean_and_shift_favours_noise() -> None:
    plain = fm.sampling_sigmas(4, 1.0)
    shifted = fm.sampling_sigmas(4, 3.0)
    assert plain.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert shifted.tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])


def test_velocity_and_x0_are_two_views_of_one_thing() -> None:
    x0, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    sigma = torch.tensor([[0.2, 0.5, 0.9], [0.1, 1.0, 0.4]])
    x = fm.add_noise(x0, noise, sigma)
    velocity = fm.velocity_target(x0, noise)
    torch.testing.assert_close(fm.x0_from_velocity(x, velocity, sigma), x0)
    torch.testing.assert_close(fm.velocity_from_x0(x, x0, sigma), velocity, rtol=1e-4, atol=1e-4)


def test_euler_with_the_true_velocity_lands_on_the_clean_latents() -> None:
    x0, noise = torch.randn(6), torch.randn(6)
    x = noise
    sigmas = fm.sampling_sigmas(5, 2.0)
    for sigma, after in itertools.pairwise(sigmas):
        x = fm.euler_step(x, fm.velocity_target(x0, noise), sigma, after)
    torch.testing.assert_close(x, x0)


def test_gaussian_data_is_sampled_with_its_own_spread() -> None:
    spread = 0.5
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    sigmas = fm.sampling_sigmas(200, 1.0)
    for sigma, after in itertools.pairwise(sigmas):
        variance = (1 - sigma) ** 2 * spread**2 + sigma**2
        velocity = x * (sigma - (1 - sigma) * spread**2) / variance
        x = fm.euler_step(x, velocity, sigma, after)
    assert x.std().item() == pytest.approx(spread, rel=0.02)


def test_steps_of_both_samplers_are_the_algebra_of_their_names() -> None:
    x, velocity, noise = torch.randn(3, 2, 3, 4, 5).unbind(0)
    sigmas = fm.sampling_sigmas(3, 2.0)
    euler, renoise = (fm.sampler_steps(kind, 3, 2.0) for kind in ("euler", "renoise"))
    for sigma, after, flow, jump in zip(sigmas[:-1], sigmas[1:], euler, renoise, strict=True):
        torch.testing.assert_close(flow.update(x, velocity, None), fm.euler_step(x, velocity, sigma, after))
        x0 = fm.x0_from_velocity(x, velocity, sigma)
        torch.testing.assert_close(jump.x0(x, velocity), x0)
        torch.testing.assert_close(
            jump.update(x, velocity, noise if jump.fresh else None), fm.add_noise(x0, noise, after)
        )
    assert renoise[-1].fresh == 0 == euler[0].fresh
