"""The parts of a Wan checkpoint: the libraries' own classes at toy sizes, saved as the libraries save them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from relic.checkpoint import save_checkpoint
from relic.config import RelicConfig
from relic.pretrained import check_class
from relic.vae.taehv import TaehvDecoder

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from transformers import T5TokenizerFast, UMT5EncoderModel

Network = TypeVar("Network", bound=nn.Module)

WORDS = ["a", "room", "with", "red", "walls", "and", "the", "quiet", "garden", "behind", "it"]
AUTOENCODER = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
TEXT_ENCODER = {"vocab_size": 64, "d_model": 48, "d_kv": 8, "d_ff": 96, "num_layers": 2, "num_heads": 6}
NETWORK = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 48, "freq_dim": 16, "ffn_dim": 32}


def lively(network: Network, seed: int = 0) -> Network:
    """Nothing left at zero or one, so that every parameter counts."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2 or parameter.std() == 0:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


def autoencoder(seed: int = 0, **changes: object) -> AutoencoderKLWan:
    """Wan's auto-encoder, 16 latent channels, with the published statistics."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(seed)
    return lively(AutoencoderKLWan(**{**AUTOENCODER, **changes}), seed)


def text_encoder(seed: int = 0, **changes: int) -> UMT5EncoderModel:
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    return lively(UMT5EncoderModel(UMT5Config(**{**TEXT_ENCODER, **changes})), seed)


def tokenizer() -> T5TokenizerFast:
    """A unigram tokenizer of a few words and all small letters."""
    from transformers import T5TokenizerFast

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [("▁" + word, -1.0) for word in WORDS] + [("▁", -2.0)]
    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz&"]
    return T5TokenizerFast(vocab=[*special, *pieces, *letters], extra_ids=0)


def save_taehv(file: Path, seed: int = 0) -> TaehvDecoder:
    """A tiny decoder of the published sizes and random weights, written to a file."""
    torch.manual_seed(seed)
    decoder = TaehvDecoder().eval().requires_grad_(False)
    save_checkpoint(file, decoder.state_dict(), {})
    return decoder


def save_whole_checkpoint(folder: Path) -> Path:
    """A checkpoint in diffusers' layout with all parts that a world is made of."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    lively(WanTransformer3DModel(**NETWORK, num_layers=2)).save_pretrained(folder / "transformer")
    autoencoder().save_pretrained(folder / "vae")
    text_encoder().save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def small_world(folder: Path) -> RelicConfig:
    """The world of the checkpoint's network, with pictures of 32x48 and 8 text tokens."""
    from relic.model.wan_config import WAN_CLASS, wan_world

    settings = folder / "transformer" / "config.json"
    config = wan_world(check_class(settings.parent, WAN_CLASS), settings)
    sizes = {"latent_height": 4, "latent_width": 6, "text_tokens": 8}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))


def save_lively_control(folder: Path, file: Path) -> Path:
    """Control encoders of random weights for the checkpoint in `folder` and pictures of 32x48."""
    from relic.model.relic_transformer_3d import RelicTransformer3DModel

    torch.manual_seed(1)
    model = RelicTransformer3DModel.from_wan(folder, world=small_world(folder))
    for module in model.control_modules():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_control(file)
    return file
