import copy
import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from relic.config import from_json, to_json
from relic.vae.config import VaeConfig
from relic.vae.layers import multiply_bytes
from relic.vae.tiny_vae import TinyVae
from relic_kernels.dispatch import force


def lively_vae(seed: int = 0, config: VaeConfig | None = None) -> TinyVae:
    """A VAE in which every path matters: the silent outputs get random weights."""
    torch.manual_seed(seed)
    vae = TinyVae(config or VaeConfig.tiny())
    for parameter in vae.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    vae.latent_mean.normal_()
    vae.latent_scale.fill_(1.7)
    return vae.eval().requires_grad_(False)


def video(batch: int = 2, frames: int = 17, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(batch, 3, frames, height, width) * 2 - 1


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_shapes_are_those_of_a_causal_video_vae(frames: int) -> None:
    vae = lively_vae()
    latents = vae.encode(video(frames=frames))
    assert latents.shape == (2, 16, 1 + (frames - 1) // 4, 2, 3)
    assert vae.decode(latents).shape == (2, 3, frames, 16, 24)


@pytest.mark.parametrize("pieces", [(1, 4, 4, 4, 4), (5, 12), (1, 8, 8)])
def test_streamed_encoding_equals_batch(pieces: tuple[int, ...]) -> None:
    vae, frames = lively_vae(), video()
    state, start, streamed = vae.encoder_state(2), 0, []
    for piece in pieces:
        latents, state = vae.encode_step(frames[:, :, start : start + piece], state)
        streamed.append(latents)
        start += piece
    torch.testing.assert_close(torch.cat(streamed, dim=2), vae.encode(frames), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (2, 3), (1, 4)])
def test_streamed_decoding_equals_batch(pieces: tuple[int, ...]) -> None:
    vae, latents = lively_vae(), torch.randn(2, 16, 5, 2, 3)
    state, start, streamed = vae.decoder_state(2), 0, []
    for piece in pieces:
        frames, state = vae.decode_step(latents[:, :, start : start + piece], state)
        streamed.append(frames)
        start += piece
    assert streamed[0].shape[2] == 1 + 4 * (pieces[0] - 1)
    torch.testing.assert_close(torch.cat(streamed, dim=2), vae.decode(latents), atol=1e-5, rtol=0)


@pytest.mark.native
@pytest.mark.parametrize("pieces", [(5,), (1, 4), (1, 1, 3)])
def test_cpp_decodes_and_encodes_what_torch_does(pieces: tuple[int, ...]) -> None:
    vae, frames, latents = lively_vae(), video(), torch.randn(2, 16, 5, 2, 3)

    def both(native: bool) -> list[Tensor]:
        out, encoder, decoder = [], vae.encoder_state(2), vae.decoder_state(2)
        with torch.no_grad(), nullcontext() if native else force("reference"):
            pixels = [4 * piece - (3 if index == 0 else 0) for index, piece in enumerate(pieces)]
            for film in frames.split(pixels, dim=2):
                shown, encoder = vae.encode_step(film, encoder)
                out.append(shown)
            for part in latents.split(pieces, dim=2):
                shown, decoder = vae.decode_step(part, decoder)
                out.append(shown)
        return out

    for got, expected in zip(both(True), both(False), strict=True):
        assert not torch.equal(got, expected)
        torch.testing.assert_close(got, expected, atol=3e-5, rtol=1e-5)


@pytest.mark.native
def test_a_stream_may_go_on_by_the_other_way() -> None:
    vae, latents = lively_vae().to(torch.bfloat16), torch.randn(1, 16, 4, 2, 3)
    with torch.no_grad():
        whole = vae.decode(latents)
        first, state = vae.decode_step(latents[:, :, :2], vae.decoder_state(1))
        with force("reference"):
            second, state = vae.decode_step(latents[:, :, 2:3], state)
        third, _ = vae.decode_step(latents[:, :, 3:], state)
    assert (torch.cat([first, second, third], dim=2) - whole).norm() < 0.02 * whole.norm()


def test_a_state_can_be_gone_back_to() -> None:
    vae, latents = lively_vae(), torch.randn(1, 16, 3, 2, 3)
    _, kept = vae.decode_step(latents[:, :, :1], vae.decoder_state(1))
    before = [tensor.clone() for tensor in kept.past]
    first, _ = vae.decode_step(latents[:, :, 1:2], kept)
    vae.decode_step(latents[:, :, 2:3], kept)
    again, _ = vae.decode_step(latents[:, :, 1:2], kept)
    assert torch.equal(first, again)
    assert all(torch.equal(old, now) for old, now in zip(before, kept.past, strict=True))
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.started = False  # type: ignore[misc]


def test_a_latent_depends_on_no_later_frame_and_on_the_one_before() -> None:
    vae, frames = lively_vae(), video(batch=1)
    changed = frames.clone()
    changed[:, :, 9:] = 0.0  # frames of latents 3 and 4
    difference = (vae.encode(frames) - vae.encode(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert torch.all(difference[:3] < 1e-6)
    assert torch.all(difference[3:] > 1e-3)
    changed = frames.clone()
    changed[:, :, 5:9] = 0.0  # frames of latent 2
    difference = (vae.encode(frames) - vae.encode(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[3] > 1e-5


def test_a_frame_depends_on_no_later_latent_and_on_the_one_before() -> None:
    vae, latents = lively_vae(), torch.randn(1, 16, 4, 2, 3)
    changed = latents.clone()
    changed[:, :, 2] = 0.0
    difference = (vae.decode(latents) - vae.decode(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert torch.all(difference[:5] < 1e-6)
    assert torch.all(difference[5:] > 1e-5)


def test_latents_are_the_raw_ones_normalised() -> None:
    vae, frames = lively_vae(), video()
    normalised, rebuilt = vae.encode(frames), vae.decode(vae.encode(frames))
    mean, scale = vae.latent_mean.clone(), vae.latent_scale.clone()
    vae.latent_mean.zero_()
    vae.latent_scale.fill_(1.0)
    raw = vae.encode(frames)
    torch.testing.assert_close(normalised, (raw - mean[:, None, None, None]) / scale, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rebuilt, vae.decode(raw), atol=1e-4, rtol=1e-5)


def test_every_parameter_is_used() -> None:
    vae = lively_vae().requires_grad_(True)
    frames = video(batch=1, frames=9)
    (vae.decode(vae.encode(frames)) - frames).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())


def test_the_shipped_size_is_small() -> None:
    assert sum(p.numel() for p in TinyVae(VaeConfig()).parameters()) < 9_000_000


def test_config_survives_json() -> None:
    config = VaeConfig(decoder_blocks=(2, 3), shift_fraction=0.5)
    assert from_json(VaeConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 2, 16, 24), "2 frames are no whole number of latents"),
        ((1, 3, 5, 20, 24), "20x24 must have sides"),
        ((1, 4, 5, 16, 24), "must be floating point"),
        ((3, 5, 16, 24), "must be floating point"),
        ((1, 3, 0, 16, 24), "16x24 must have sides"),
    ],
)
def test_bad_frames_are_named(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lively_vae().encode(torch.zeros(shape))


def test_bad_calls_of_a_stream_are_named() -> None:
    vae = lively_vae()
    _, state = vae.encode_step(video(frames=1), vae.encoder_state(2))
    with pytest.raises(ValueError, match="5 frames are no whole number of latents: give 4k frames"):
        vae.encode_step(video(frames=5), state)
    with pytest.raises(ValueError, match="batch of 3 for a state of 2"):
        vae.encode_step(video(batch=3, frames=4), state)
    with pytest.raises(ValueError, match="must be \\(B, 16"):
        vae.decode(torch.zeros(1, 8, 2, 2, 3))


@pytest.mark.parametrize(
    "values",
    [
        {"latent_channels": 0},
        {"encoder_channels": (8, 0)},
        {"decoder_blocks": (1, 2, 3)},
        {"expansion": 0},
        {"shift_fraction": 1.0},
    ],
)
def test_bad_sizes_are_named(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        VaeConfig(**values)  # type: ignore[arg-type]


def decoded(vae: TinyVae, latents: Tensor) -> tuple[Tensor, Tensor]:
    """By C++, and by PyTorch."""
    with torch.no_grad():
        shown = vae.decode(latents)
        with force("reference"):
            return shown, vae.decode(latents)


@pytest.mark.native
def test_weights_and_layers_put_in_place_of_others_are_seen() -> None:
    vae, latents = lively_vae(), torch.randn(1, 16, 2, 4, 6)
    before, _ = decoded(vae, latents)

    def check() -> None:
        nonlocal before
        after, expected = decoded(vae, latents)
        assert not torch.allclose(after, before, atol=1e-3)
        assert torch.allclose(after, expected, atol=3e-5, rtol=1e-5)
        before = after

    decoder = vae.decoder
    decoder.eighth[0].widen.weight = torch.nn.Parameter(3 * decoder.eighth[0].widen.weight)  # type: ignore[union-attr]
    check()
    decoder.quarter[0] = copy.deepcopy(decoder.quarter[0])
    torch.nn.init.normal_(decoder.quarter[0].narrow.weight)  # type: ignore[arg-type, union-attr]
    check()
    decoder.head.bias.data = decoder.head.bias + 1
    check()
    decoder.stem.weight.data.mul_(2)
    check()


@pytest.mark.native
def test_a_copy_and_a_cast_network_run_by_their_own_weights() -> None:
    vae, latents = lively_vae(), torch.randn(1, 16, 2, 4, 6)
    before, _ = decoded(vae, latents)
    other = copy.deepcopy(vae)
    for parameter in other.parameters():
        parameter.data.mul_(0.5)
    assert torch.equal(decoded(vae, latents)[0], before)
    shown, expected = decoded(other, latents)
    assert not torch.allclose(shown, before, atol=1e-3)
    assert torch.allclose(shown, expected, atol=3e-5, rtol=1e-5)
    vae.to(torch.float64)
    shown, expected = decoded(vae, latents.double())
    assert torch.equal(shown, expected), "C++ has no float64"
    assert torch.allclose(shown, before.double(), atol=3e-5, rtol=1e-5)


@pytest.mark.native
def test_whether_bytes_are_multiplied_may_change(require: Callable[..., None]) -> None:
    require("bytes")
    vae, latents = lively_vae(), torch.randn(1, 16, 2, 4, 6)
    before, _ = decoded(vae, latents)
    multiply_bytes(vae, True)
    shown, _ = decoded(vae, latents)
    assert 1e-4 < (shown - before).norm() / before.norm() < 3e-2
    multiply_bytes(vae, False)
    assert torch.equal(decoded(vae, latents)[0], before)


@pytest.mark.native
@pytest.mark.parametrize("values", [{"latent_channels": 15}, {"decoder_channels": (9, 16)}])
def test_odd_widths_are_run_by_torch(values: dict[str, Any]) -> None:
    vae = lively_vae(config=dataclasses.replace(VaeConfig.tiny(), **values))
    shown, expected = decoded(vae, torch.randn(1, vae.config.latent_channels, 2, 4, 6))
    assert torch.equal(shown, expected)


@pytest.mark.native
def test_pretended_tensors_have_no_numbers_for_the_cpp() -> None:
    vae = lively_vae()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 5, 16, 24))
        assert vae.decode(latents).shape == (1, 3, 5, 16, 24)
        assert isinstance(latents, FakeTensor)
    shown, expected = decoded(vae, torch.randn(1, 16, 2, 2, 3))
    assert torch.allclose(shown, expected, atol=3e-5, rtol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("way", ["by C++", "by torch", "with gradients"])
def test_frames_after_a_picture_are_those_of_a_film(way: str) -> None:
    vae, film = lively_vae().requires_grad_(way == "with gradients"), video(frames=9)
    with torch.set_grad_enabled(way == "with gradients"), force("reference") if way == "by torch" else nullcontext():
        got, whole = vae.encode_after(film[:, :, 0], film[:, :, 1:]), vae.encode(film)
    assert torch.equal(got, whole[:, :, 1:])
    assert got.requires_grad == (way == "with gradients")


def test_a_picture_that_does_not_fit_its_frames_is_named() -> None:
    vae, film = lively_vae(), video(frames=5)
    with pytest.raises(ValueError, match=r"picture \(1, 3, 16, 24\) before frames \(2, 3, 4, 16, 24\)"):
        vae.encode_after(film[:1, :, 0], film[:, :, 1:])
    with pytest.raises(ValueError, match="5 frames are no whole number of latents: give 4k frames"):
        vae.encode_after(film[:, :, 0], film)


def test_frames_are_folded_with_the_first_one_four_times() -> None:
    vae, frames, seen = lively_vae(), video(frames=9), []
    vae.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    vae.encode(frames)
    repeated = torch.cat([frames[:, :, :1].expand(-1, -1, 3, -1, -1), frames], dim=2)
    expected = repeated.unflatten(2, (3, 4)).permute(2, 0, 3, 1, 4, 5).reshape(6, 12, 16, 24)
    assert torch.equal(seen[0], expected)
