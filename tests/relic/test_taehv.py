from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from relic.vae.taehv import TaehvDecoder
from tests.wan_parts import lively, save_taehv


def small(seed: int = 0) -> TaehvDecoder:
    torch.manual_seed(seed)
    return lively(TaehvDecoder(16, (24, 16, 8, 8)), seed)


def published_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the decoder's tensors in taew2_1, written out from upstream's list of layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for first, width, grown, after in [(3, 256, 256, 128), (9, 128, 256, 64), (15, 64, 128, 64)]:
        for place in range(first, first + 3):
            for conv, inputs in [(0, 2 * width), (2, width), (4, width)]:
                shapes[f"decoder.{place}.conv.{conv}.weight"] = (width, inputs, 3, 3)
                shapes[f"decoder.{place}.conv.{conv}.bias"] = (width,)
        shapes[f"decoder.{first + 4}.conv.weight"] = (grown, width, 1, 1)
        shapes[f"decoder.{first + 5}.weight"] = (after, width, 3, 3)
    for place, out, inputs in [(1, 256, 16), (22, 3, 64)]:
        shapes[f"decoder.{place}.weight"] = (out, inputs, 3, 3)
        shapes[f"decoder.{place}.bias"] = (out,)
    return shapes


def painted(tensors: dict[str, Tensor], latents: list[Tensor]) -> list[Tensor]:
    """One stream, written from the layout as recursion over single frames: latents (C, h, w) -> pictures in [0, 1]."""
    before: dict[int, Tensor] = {}
    pictures: list[Tensor] = []

    def conv(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return F.conv2d(x[None], tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), padding=padding)[0]

    def onwards(x: Tensor, place: int) -> None:
        if place == 23:
            pictures.append(x.clamp(0, 1))
        elif place == 0:
            onwards(3 * torch.tanh(x / 3), 1)
        elif place in (2, 21):
            onwards(x.relu(), place + 1)
        elif place in (6, 12, 18):
            onwards(x.repeat_interleave(2, 1).repeat_interleave(2, 2), place + 1)
        elif place in (7, 13, 19):
            grown = conv(x, f"decoder.{place}.conv", padding=0)
            for frame in grown.split(x.shape[0]):
                onwards(frame, place + 1)
        elif place in (1, 8, 14, 20, 22):
            onwards(conv(x, f"decoder.{place}"), place + 1)
        else:
            y = torch.cat([x, before.get(place, torch.zeros_like(x))])
            before[place] = x
            y = conv(conv(y, f"decoder.{place}.conv.0").relu(), f"decoder.{place}.conv.2").relu()
            onwards((conv(y, f"decoder.{place}.conv.4") + x).relu(), place + 1)

    for latent in latents:
        onwards(latent, 0)
    return pictures[3:]


def test_names_and_shapes_are_the_published_ones() -> None:
    assert {name: tuple(value.shape) for name, value in TaehvDecoder().state_dict().items()} == published_layout()


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 4)])
def test_decoding_is_what_the_layout_says(batch: int, length: int) -> None:
    decoder, latents = small(), 2 * torch.randn(batch, 16, length, 2, 3)
    frames = decoder.decode(latents)
    assert frames.shape == (batch, 3, 4 * length - 3, 16, 24)
    assert (frames.abs() < 1).float().mean() > 0.05, "some of the picture must be painted, not clamped"
    for index in range(batch):
        expected = torch.stack(painted(decoder.state_dict(), list(latents[index].unbind(1))), dim=1)
        torch.testing.assert_close(frames[index], expected * 2 - 1, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (2, 3), (1, 4)])
def test_streamed_decoding_equals_batch(pieces: tuple[int, ...], batch: int) -> None:
    decoder, latents = small(), torch.randn(batch, 16, 5, 2, 3)
    state, start, streamed = decoder.decoder_state(batch), 0, []
    for piece in pieces:
        frames, state = decoder.decode_step(latents[:, :, start : start + piece], state)
        streamed.append(frames)
        start += piece
    assert streamed[0].shape[2] == 1 + 4 * (pieces[0] - 1)
    torch.testing.assert_close(torch.cat(streamed, dim=2), decoder.decode(latents), atol=1e-5, rtol=0)


def test_a_state_can_be_gone_back_to() -> None:
    decoder, latents = small(), torch.randn(1, 16, 3, 2, 3)
    _, kept = decoder.decode_step(latents[:, :, :1], decoder.decoder_state(1))
    before = [tensor.clone() for tensor in kept.past if tensor is not None]
    assert len(before) == 9
    first, after = decoder.decode_step(latents[:, :, 1:2], kept)
    decoder.decode_step(latents[:, :, 2:3], kept)
    again, after_again = decoder.decode_step(latents[:, :, 1:2], kept)
    assert torch.equal(first, again)
    assert torch.equal(*(decoder.decode_step(latents[:, :, 2:3], state)[0] for state in (after, after_again)))
    assert all(torch.equal(old, now) for old, now in zip(before, kept.past, strict=True))


def test_every_parameter_is_used_and_every_latent_looks_back() -> None:
    decoder, latents = small().requires_grad_(True), torch.randn(1, 16, 3, 2, 3)
    decoder.decode(latents).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())
    changed = latents.clone()
    changed[:, :, 1] = 0.0
    difference = (decoder.decode(latents) - decoder.decode(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert torch.all(difference[:1] < 1e-6)
    assert torch.all(difference[1:] > 1e-5)


def test_precision_is_the_decoders_and_frames_are_float32() -> None:
    decoder, latents = small(), torch.randn(1, 16, 2, 2, 3)
    frames = decoder.decode(latents)
    wide = small().double().decode(latents)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, frames, atol=1e-5, rtol=0)


def test_a_file_is_loaded_whatever_its_precision_and_its_encoder_left_alone(tmp_path: Path) -> None:
    file, latents = tmp_path / "taew2_1.safetensors", torch.randn(1, 16, 2, 1, 2)
    saved = save_taehv(file)
    half = {name: value.half() for name, value in load_file(file).items()}
    save_file({**half, "encoder.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    loaded = TaehvDecoder.load(file)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(loaded.decode(latents), saved.decode(latents), atol=5e-3, rtol=0)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("decoder.7.conv.weight"), r"layout: missing: decoder\.7\.conv\.weight$"),
        (lambda t: {**t, "decoder.3.skip.weight": torch.zeros(1)}, r"layout: unknown: decoder\.3\.skip\.weight$"),
        (
            lambda t: {**t, "decoder.22.weight": torch.zeros(12, 64, 3, 3)},
            r"misshapen: decoder\.22\.weight is \(12, 64, 3, 3\), not \(3, 64, 3, 3\)$",
        ),
        (lambda t: {"model": torch.zeros(1)}, r"missing: decoder\.1\.weight, .*; unknown: model$"),
    ],
)
def test_a_file_of_another_layout_is_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in published_layout().items()}
    file = tmp_path / "other.safetensors"
    save_file(change(tensors), file)
    with pytest.raises(ValueError, match=message) as error:
        TaehvDecoder.load(file)
    assert str(file) in str(error.value)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        TaehvDecoder.load(tmp_path / "nowhere.safetensors")
    pickled = tmp_path / "taew2_1.pth"
    pickled.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"taew2_1\.pth is no \.safetensors file"):
        TaehvDecoder.load(pickled)
    pickled.rename(tmp_path / "renamed.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        TaehvDecoder.load(tmp_path / "renamed.safetensors")


def test_bad_latents_are_named() -> None:
    decoder = small()
    with pytest.raises(ValueError, match=r"must be \(B, 16, L >= 1"):
        decoder.decode(torch.zeros(1, 48, 2, 2, 3))
    with pytest.raises(ValueError, match="batch of 2 for a state of 1"):
        decoder.decode_step(torch.zeros(2, 16, 1, 2, 3), decoder.decoder_state(1))
