"""Wan 2.1's configuration as diffusers writes it, read as sizes of our network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relic.config import RelicConfig, wan_1_3b, wan_14b
from relic.vae.config import WanVaeConfig

WAN_CLASS = "WanTransformer3DModel"

_COUNTS = ("num_attention_heads", "attention_head_dim", "in_channels", "text_dim", "freq_dim", "ffn_dim", "num_layers")
_ALWAYS: Mapping[str, Any] = {
    "patch_size": [1, 2, 2],
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}
"""Values of every Wan 2.1 text-to-video network, and the only ones that ours computes."""
_ABSENT = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")
"""Settings of other Wan networks (image-to-video), which must be None or left out."""
_WITHOUT_EFFECT = ("rope_max_seq_len",)
"""Sizes of tables that our network does not keep."""


def wan_sizes(values: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """What a `WanTransformer3DModel`'s configuration says of `ModelConfig`.

    Args:
        values: of the configuration file.
        source: that file, to be named in errors.

    Raises:
        ValueError: for a setting that is missing, no size, or one that our network does not compute.
    """
    missing = [name for name in (*_COUNTS, *_ALWAYS, "eps") if name not in values]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}: fetch the folder again")
    for name in _COUNTS:
        if type(values[name]) is not int or values[name] < 1:
            raise ValueError(f"{name} {values[name]!r} in {source} must be a whole number from 1")
    if type(values["eps"]) is not float or not 0 < values["eps"] < 1:
        raise ValueError(f"eps {values['eps']!r} in {source} must be a number in (0, 1)")
    known = {*_COUNTS, *_ALWAYS, *_ABSENT, *_WITHOUT_EFFECT, "eps", "out_channels"}
    wanted = {**_ALWAYS, **dict.fromkeys((*_ABSENT, *(values.keys() - known)))}
    if values.get("out_channels") is not None:
        wanted["out_channels"] = values["in_channels"]
    for name, only in wanted.items():
        if not name.startswith("_") and values.get(name) != only:
            raise ValueError(f"{name} {values[name]!r} in {source} is not supported: only {only!r} is")
    return {
        "in_channels": values["in_channels"],
        "patch_size": 2,
        "dim": values["num_attention_heads"] * values["attention_head_dim"],
        "num_layers": values["num_layers"],
        "num_heads": values["num_attention_heads"],
        "ffn_dim": values["ffn_dim"],
        "text_dim": values["text_dim"],
        "freq_dim": values["freq_dim"],
        "eps": values["eps"],
        "rope_theta": 10000.0,
        "gelu_approximate": "tanh",
    }


def wan_world(values: Mapping[str, Any], source: Path, world: RelicConfig | None = None) -> RelicConfig:
    """The configuration of a world whose network is this one.

    Args:
        values: of the network's configuration file.
        source: that file, to be named in errors.
        world: the configuration to check; None for the preset of that size, or, where there is none, the 14B preset
            with this network's sizes.

    Raises:
        ValueError: as `wan_sizes`, or when `world` is of other sizes; it names both.
    """
    sizes = wan_sizes(values, source)
    if world is None:
        for preset in (wan_1_3b(), wan_14b()):
            if not _differences(preset, sizes):
                return preset
        base = wan_14b()
        vae = WanVaeConfig(latent_channels=sizes["in_channels"])
        return dataclasses.replace(base, preset="wan", model=dataclasses.replace(base.model, **sizes), vae=vae)
    different = _differences(world, sizes)
    if different:
        told = ", ".join(f"{name} {sizes[name]} (not {getattr(world.model, name)})" for name in different)
        raise ValueError(f"{source} is of another network than the {world.preset} configuration: {told}")
    return world


def _differences(world: RelicConfig, sizes: Mapping[str, Any]) -> list[str]:
    return [name for name, value in sizes.items() if getattr(world.model, name) != value]
