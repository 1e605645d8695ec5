"""Wan networks of the library's own class at toy sizes, with random weights in which every path matters."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from relic.config import RelicConfig
from relic.model.relic_transformer_3d import RelicTransformer3DModel
from relic.model.wan_config import wan_world

TINY_WAN: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "freq_dim": 32,
    "ffn_dim": 56,
    "num_layers": 2,
}


def tiny_wan(seed: int = 0, **switches: Any) -> WanTransformer3DModel:
    """A random network of the library's class."""
    torch.manual_seed(seed)
    network = WanTransformer3DModel(**{**TINY_WAN, **switches})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


def tiny_world(wan: WanTransformer3DModel, height: int = 6, width: int = 10, text_tokens: int = 5) -> RelicConfig:
    """A world of that network with a small picture."""
    world = wan_world(json.loads(wan.to_json_string()), Path("config.json"))
    sizes = {"latent_height": height, "latent_width": width, "text_tokens": text_tokens}
    return dataclasses.replace(world, model=dataclasses.replace(world.model, **sizes))


def converted(folder: Path, wan: WanTransformer3DModel, **sizes: int) -> RelicTransformer3DModel:
    """The network saved in shards, as published ones are, and loaded as ours."""
    wan.save_pretrained(folder / "transformer", max_shard_size="20KB")
    return RelicTransformer3DModel.from_wan(folder, world=tiny_world(wan, **sizes)).requires_grad_(False)
