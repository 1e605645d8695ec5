"""A playable world from a Wan 2.1 checkpoint and RELIC's control encoders: every part from the disk, nothing fetched.

A checkpoint is a folder in diffusers' layout: `transformer/`, `vae/`, `text_encoder/` and `tokenizer/`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from relic.checkpoint import read_metadata
from relic.config import ModelConfig, RelicConfig, from_json
from relic.model.wan_config import WAN_CLASS, wan_world
from relic.pretrained import check_class
from relic.text import UMT5Encoder
from relic.vae.config import WanDecoder, WanVaeConfig
from relic.vae.wan import WanVae
from relic.world import World

_PARTS = ("transformer", "vae", "text_encoder", "tokenizer")


def load_wan_world(
    folder: Path,
    *,
    control: Path | None = None,
    tiny_decoder: Path | None = None,
    device: torch.device | str = "cpu",
    vae_device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> World:
    """Load the network, the auto-encoder and the text encoder of a checkpoint.

    Args:
        folder: the checkpoint.
        control: control encoders that `RelicTransformer3DModel.save_control` wrote; they also say the size of the
            picture. Without them the world has the size of its preset and does not answer to the controls: the
            encoders' outputs are zero.
        tiny_decoder: a `taew2_1` file to decode with; None for the checkpoint's own decoder.
        device: of the network and the text encoder.
        vae_device: of the auto-encoder; by default the network's. Latents are moved between the two.
        dtype: the network, the text encoder and a tiny decoder compute in; Wan's auto-encoder always in float32.

    Raises:
        FileNotFoundError: when the folder, one of its parts or a file is missing.
        ValueError: when a part is damaged, of another class, or does not fit the others, or memory is too small.
    """
    from relic.model.relic_transformer_3d import RelicTransformer3DModel

    check_wan_folder(folder)
    config = _configuration(folder, control, tiny_decoder)
    vae = WanVae.load(folder / "vae", tiny_decoder, device=device if vae_device is None else vae_device)
    _check_channels(vae, config, folder)
    if tiny_decoder is not None:
        vae.decoder.to(dtype)
    model = RelicTransformer3DModel.from_wan(folder, world=config, dtype=dtype, device=device)
    if control is not None:
        model.load_control(control)
    text_encoder = UMT5Encoder(
        folder / "text_encoder", folder / "tokenizer", config.model.text_tokens, device=device, dtype=dtype
    )
    if text_encoder.width != config.model.text_dim:
        raise ValueError(
            f"the text encoder in {folder} makes tokens of width {text_encoder.width}, but its transformer reads "
            f"{config.model.text_dim}: they do not belong together"
        )
    return World(config, model, vae, text_encoder)


def check_wan_folder(folder: Path) -> None:
    """Refuse a folder that lacks a part of a checkpoint; nothing is read.

    Raises:
        FileNotFoundError: it names what is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}: name a local Wan 2.1 checkpoint in diffusers' layout")
    missing = [part for part in _PARTS if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is no Wan checkpoint in diffusers' layout: {', '.join(missing)} missing; the original "
            "checkpoint's .pth files are another layout and are not read"
        )


def read_wan_config(folder: Path) -> RelicConfig:
    """The preset world of a checkpoint's network, read from its `config.json` alone.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is another network's, or a setting is not supported.
    """
    settings = folder / "transformer" / "config.json"
    return wan_world(check_class(settings.parent, WAN_CLASS), settings)


def _configuration(folder: Path, control: Path | None, tiny_decoder: Path | None) -> RelicConfig:
    """The world of a checkpoint's network, with the sizes that its control encoders were trained for."""
    config = read_wan_config(folder)
    if control is not None:
        trained = from_json(ModelConfig, read_metadata(control)["config"], str(control))
        config = dataclasses.replace(config, model=trained)
    decoder: WanDecoder = "wan" if tiny_decoder is None else "taehv"
    return dataclasses.replace(config, vae=WanVaeConfig(latent_channels=config.model.in_channels, decoder=decoder))


def _check_channels(vae: WanVae, config: RelicConfig, folder: Path) -> None:
    if vae.latent_channels != config.model.in_channels:
        raise ValueError(
            f"the auto-encoder in {folder} makes {vae.latent_channels} latent channels, but its transformer reads "
            f"{config.model.in_channels}: they do not belong together"
        )
