import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from relic.vae.wan import WanDecoder, WanEncoder, WanVae
from tests.wan_parts import autoencoder, save_taehv

TENSORS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def library() -> AutoencoderKLWan:
    return autoencoder()


@pytest.fixture(scope="module")
def vae(library: AutoencoderKLWan) -> WanVae:
    return WanVae(WanEncoder(library), WanDecoder(library))


@pytest.fixture(scope="module")
def saved(library: AutoencoderKLWan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan") / "vae"
    library.save_pretrained(folder)
    return folder


def video(batch: int = 2, frames: int = 17) -> Tensor:
    return torch.rand(batch, 3, frames, 16, 24) * 2 - 1


def statistics(library: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values) for values in (library.config.latents_mean, library.config.latents_std))
    return mean[:, None, None, None], std[:, None, None, None]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 9), (2, 5), (3, 17)])
def test_encoding_is_the_librarys_mode_normalised(
    library: AutoencoderKLWan, vae: WanVae, batch: int, frames: int
) -> None:
    mean, std = statistics(library)
    film = video(batch, frames)
    latents = vae.encode(film)
    assert latents.shape == (batch, 16, 1 + (frames - 1) // 4, 2, 3)
    assert latents.std() > 0.01
    close(latents, (library.encode(film).latent_dist.mode() - mean) / std)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 2), (3, 5)])
def test_decoding_is_the_librarys(library: AutoencoderKLWan, vae: WanVae, batch: int, length: int) -> None:
    mean, std = statistics(library)
    latents = torch.randn(batch, 16, length, 2, 3)
    frames = vae.decode(latents)
    assert frames.shape == (batch, 3, 1 + 4 * (length - 1), 16, 24)
    assert frames.std() > 0.01
    close(frames, library.decode(latents * std + mean).sample)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("pieces", [(1, 4, 4, 4, 4), (5, 12), (1, 8, 8)])
def test_streamed_encoding_equals_batch(vae: WanVae, pieces: tuple[int, ...], batch: int) -> None:
    film = video(batch)
    state, start, streamed = vae.encoder_state(batch), 0, []
    for piece in pieces:
        latents, state = vae.encode_step(film[:, :, start : start + piece], state)
        streamed.append(latents)
        start += piece
    close(torch.cat(streamed, dim=2), vae.encode(film))


def test_frames_after_a_picture_are_those_of_a_film(vae: WanVae) -> None:
    film = video(2, 9)
    close(vae.encode_after(film[:, :, 0], film[:, :, 1:]), vae.encode(film)[:, :, 1:])
    with pytest.raises(ValueError, match="before frames"):
        vae.encode_after(film[:1, :, 0], film[:, :, 1:])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (2, 3), (1, 4)])
def test_streamed_decoding_equals_batch(vae: WanVae, pieces: tuple[int, ...], batch: int) -> None:
    latents = torch.randn(batch, 16, 5, 2, 3)
    state, start, streamed = vae.decoder_state(batch), 0, []
    for piece in pieces:
        frames, state = vae.decode_step(latents[:, :, start : start + piece], state)
        streamed.append(frames)
        start += piece
    assert streamed[0].shape[2] == 1 + 4 * (pieces[0] - 1)
    close(torch.cat(streamed, dim=2), vae.decode(latents))


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_a_decoding_state_can_be_gone_back_to(vae: WanVae, seen: int) -> None:
    latents = torch.randn(1, 16, 4, 2, 3)
    kept = vae.decoder_state(1)
    for index in range(seen):
        _, kept = vae.decode_step(latents[:, :, index : index + 1], kept)
    before = [None if tensor is None else tensor.clone() for tensor in kept.past]
    first, after = vae.decode_step(latents[:, :, 2:3], kept)
    vae.decode_step(latents[:, :, 3:4], kept)
    again, after_again = vae.decode_step(latents[:, :, 2:3], kept)
    assert torch.equal(first, again)
    further = [vae.decode_step(latents[:, :, 3:4], state)[0] for state in (after, after_again)]
    assert torch.equal(*further)
    for old, now in zip(before, kept.past, strict=True):
        assert (old is None and now is None) or torch.equal(old, now)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.started = False  # type: ignore[misc]


def test_an_encoding_state_can_be_gone_back_to_and_streams_do_not_meet(vae: WanVae) -> None:
    one, other = video(1, 9), video(1, 9)
    _, kept = vae.encode_step(one[:, :, :1], vae.encoder_state(1))
    first, _ = vae.encode_step(one[:, :, 1:], kept)
    _, elsewhere = vae.encode_step(other[:, :, :5], vae.encoder_state(1))
    vae.encode_step(other[:, :, 5:], elsewhere)
    again, _ = vae.encode_step(one[:, :, 1:], kept)
    assert torch.equal(first, again)
    assert not torch.equal(first, vae.encode(other)[:, :, 1:])


def test_nothing_is_left_in_the_library(library: AutoencoderKLWan, vae: WanVae) -> None:
    held = {name: value for name, value in vars(library).items() if "feat_map" in name}
    vae.decode(vae.encode(video(1, 9)))
    assert {name: value for name, value in vars(library).items() if "feat_map" in name} == held
    assert all(kept is None for cache in held.values() for kept in cache)


def test_each_half_computes_in_its_own_precision() -> None:
    whole, film = autoencoder(), video(1, 9)
    expected = WanVae(WanEncoder(whole), WanDecoder(whole))
    latents = expected.encode(film)
    frames = expected.decode(latents)
    wide = autoencoder().double()
    mixed = WanVae(WanEncoder(wide), WanDecoder(whole))
    assert mixed.encode(film).dtype == torch.float32
    torch.testing.assert_close(mixed.encode(film), latents, atol=1e-4, rtol=0)
    assert torch.equal(mixed.decode(latents.double()), frames)
    _, state = mixed.encode_step(film[:, :, :1].double(), mixed.encoder_state(1))
    assert {tensor.dtype for tensor in state.past if tensor is not None} == {torch.float64}


def test_a_folder_is_loaded_with_either_decoder(vae: WanVae, saved: Path, tmp_path: Path) -> None:
    film, latents = video(1, 5), torch.randn(1, 16, 2, 2, 3)
    loaded = WanVae.load(saved)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.encode(film), vae.encode(film))
    assert torch.equal(loaded.decode(latents), vae.decode(latents))
    tiny = save_taehv(tmp_path / "taew2_1.safetensors")
    light = WanVae.load(saved, tmp_path / "taew2_1.safetensors")
    assert torch.equal(light.encode(film), vae.encode(film))
    assert torch.equal(light.decode(latents), tiny.decode(latents))
    assert not any(name.startswith("decoder.network") for name, _ in light.named_parameters())


def test_a_narrow_folder_is_loaded_in_the_precision_asked_for(vae: WanVae, saved: Path) -> None:
    latents = WanVae.load(saved, dtype=torch.bfloat16).encode(video(1, 5))
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()


def drop(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    del tensors["encoder.conv_in.bias"]
    save_file(tensors, folder / TENSORS)


def add(folder: Path) -> None:
    save_file({**load_file(folder / TENSORS), "surplus": torch.zeros(1)}, folder / TENSORS)


def cut(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-7])


def reconfigure(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"missing: encoder\.conv_in\.bias"),
        (add, "unexpected: surplus"),
        (cut, "is no whole AutoencoderKLWan"),
        (lambda folder: (folder / TENSORS).unlink(), "is no whole AutoencoderKLWan"),
        (lambda folder: (folder / "config.json").write_text("{"), "is no JSON"),
        (reconfigure(base_dim=16), r"no whole AutoencoderKLWan: .*expected shape"),
        (reconfigure(_class_name="AutoencoderTiny"), "describes AutoencoderTiny, not AutoencoderKLWan"),
        (reconfigure(latents_mean=[0.0]), "latents_mean in .* has 1 values for 16"),
    ],
)
def test_a_damaged_folder_is_named(
    library: AutoencoderKLWan, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    library.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        WanVae.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_folder_of_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no AutoencoderKLWan in .*nowhere: there is no config\.json"):
        WanVae.load(tmp_path / "nowhere")
    AutoencoderTiny().save_pretrained(tmp_path / "tiny")
    with pytest.raises(ValueError, match="describes AutoencoderTiny"):
        WanVae.load(tmp_path / "tiny")
    autoencoder(dim_mult=[1, 2, 2], temperal_downsample=[False, True]).save_pretrained(tmp_path / "coarse")
    with pytest.raises(ValueError, match=r"4x4 pixels and 2 frames: RELIC is built for Wan 2\.1's 8x8 and 4"):
        WanVae.load(tmp_path / "coarse")


def test_bad_calls_are_named(vae: WanVae) -> None:
    with pytest.raises(ValueError, match="2 frames are no whole number of latents"):
        vae.encode(video(1, 2))
    _, state = vae.encode_step(video(1, 1), vae.encoder_state(1))
    with pytest.raises(ValueError, match="5 frames are no whole number of latents: give 4k frames"):
        vae.encode_step(video(1, 5), state)
    with pytest.raises(ValueError, match=r"must be \(B, 16"):
        vae.decode(torch.zeros(1, 8, 2, 2, 3))
    with pytest.raises(ValueError, match="batch of 2 for a state of 1"):
        vae.decode_step(torch.zeros(2, 16, 1, 2, 3), vae.decoder_state(1))
