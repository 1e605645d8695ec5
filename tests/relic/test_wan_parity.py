"""Our network with a Wan checkpoint's weights computes what diffusers' does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from relic.actions import static_actions
from relic.camera import CameraPose, continue_path
from relic.model.conditioning import camera_conditioning
from relic.model.relic_transformer_3d import RelicTransformer3DModel
from tests.tiny_networks import random_camera
from tests.tiny_wan import converted, tiny_wan, tiny_world

SWITCHES: dict[str, dict[str, Any]] = {
    "as-it-is": {},
    "one-head": {"num_attention_heads": 1, "attention_head_dim": 12},
    "wide-heads": {"num_attention_heads": 3, "attention_head_dim": 32},
    "head-dim-of-wan": {"num_attention_heads": 1, "attention_head_dim": 128},
    "four-layers": {"num_layers": 4},
    "sixteen-channels": {"in_channels": 16, "out_channels": 16},
    "channels-left-out": {"out_channels": None},
    "large-eps": {"eps": 1e-2},
    "narrow-frequencies": {"freq_dim": 10},
    "short-tables": {"rope_max_seq_len": 16},
}


@pytest.mark.parametrize("name", SWITCHES)
@torch.inference_mode()
def test_bidirectional_output_is_that_of_diffusers(name: str, tmp_path: Path) -> None:
    wan = tiny_wan(**SWITCHES[name])
    ours = converted(tmp_path, wan)
    latents = torch.randn(2, wan.config.in_channels, 3, 6, 10)
    timestep, text = torch.tensor([999, 347]), torch.randn(2, 5, 12)
    expected = wan(latents, timestep, text).sample
    torch.testing.assert_close(ours.bidirectional(latents, timestep, text).sample, expected, rtol=0, atol=1e-5)
    (as_tuple,) = ours.bidirectional(latents, timestep, text, return_dict=False)
    assert torch.equal(as_tuple, ours.bidirectional(latents, timestep, text).sample)
    assert expected.std() > 0.1


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 2, 2), (2, 4, 14), (9, 8, 4)])
@torch.inference_mode()
def test_every_grid(frames: int, height: int, width: int, tmp_path: Path) -> None:
    wan = tiny_wan()
    ours = converted(tmp_path, wan, height=height, width=width)
    latents, timestep, text = torch.randn(1, 4, frames, height, width), torch.tensor([500.5]), torch.randn(1, 5, 12)
    expected = wan(latents, timestep, text).sample
    torch.testing.assert_close(ours.bidirectional(latents, timestep, text).sample, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("words", "length"), [(1, 1), (3, 8), (0, 8), (512, 512)])
@torch.inference_mode()
def test_padded_prompts(words: int, length: int, tmp_path: Path) -> None:
    """Places after a prompt's end are zeros, and are attended to by both."""
    wan = tiny_wan()
    ours = converted(tmp_path, wan)
    latents, timestep, text = torch.randn(1, 4, 2, 6, 10), torch.tensor([20]), torch.randn(1, length, 12)
    text[:, words:] = 0.0
    expected = wan(latents, timestep, text).sample
    torch.testing.assert_close(ours.bidirectional(latents, timestep, text).sample, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_noise_level_for_each_frame(tmp_path: Path) -> None:
    """The library's network takes a level for each token; those of a frame are the frame's."""
    wan = tiny_wan()
    ours = converted(tmp_path, wan)
    latents, text = torch.randn(2, 4, 3, 6, 10), torch.randn(2, 5, 12)
    levels = torch.tensor([[0.0, 900.0, 900.0], [0.0, 250.0, 750.0]])
    expected = wan(latents, levels.repeat_interleave(15, dim=1), text).sample
    torch.testing.assert_close(ours.bidirectional(latents, levels, text).sample, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_control_is_silent_until_it_is_trained(tmp_path: Path) -> None:
    ours = converted(tmp_path, tiny_wan())
    latents, timestep, text = torch.randn(1, 4, 3, 6, 10), torch.tensor([700]), torch.randn(1, 5, 12)
    still = camera_conditioning(static_actions(9), continue_path(CameraPose.identity(), static_actions(9)))
    without = ours.bidirectional(latents, timestep, text).sample
    for camera in (still, random_camera(1, 3, ours.config)):
        assert torch.equal(ours.bidirectional(latents, timestep, text, camera).sample, without)
    for encoder in (ours.action_encoder, ours.pose_encoder):
        torch.nn.init.normal_(encoder.proj_out[0].weight)
        moved = ours.bidirectional(latents, timestep, text, random_camera(1, 3, ours.config)).sample
        assert (moved - without).abs().max() > 0.01
        torch.nn.init.zeros_(encoder.proj_out[0].weight)


@torch.inference_mode()
def test_bfloat16_is_as_close_to_float32_as_the_library(tmp_path: Path) -> None:
    wan = tiny_wan()
    ours = converted(tmp_path, wan)
    half = RelicTransformer3DModel.from_wan(tmp_path, world=tiny_world(wan), dtype=torch.bfloat16)
    library = WanTransformer3DModel.from_pretrained(tmp_path / "transformer", dtype=torch.bfloat16)
    assert {name: p.dtype for name, p in library.named_parameters()}.items() <= {
        name: p.dtype for name, p in half.named_parameters()
    }.items()
    latents, timestep, text = torch.randn(1, 4, 3, 6, 10), torch.tensor([700]), torch.randn(1, 5, 12)
    exact = ours.bidirectional(latents, timestep, text).sample
    errors = [
        (model(latents.bfloat16(), timestep, text.bfloat16()).sample.float() - exact).square().mean().sqrt()
        for model in (half.bidirectional, library)
    ]
    assert 0 < errors[0] < 1.5 * errors[1]


def test_latents_of_another_size_are_refused(tmp_path: Path) -> None:
    ours = converted(tmp_path, tiny_wan())
    with pytest.raises(ValueError, match=r"latents \(1, 4, 3, 8, 10\) must be \(1, 4, 3, 6, 10\)"):
        ours.bidirectional(torch.randn(1, 4, 3, 8, 10), torch.tensor([1]), torch.randn(1, 5, 12))
