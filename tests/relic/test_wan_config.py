"""Presets, and what a Wan checkpoint's configuration is read as."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from relic.config import PRESETS, RelicConfig, find_preset, from_json, mini, to_json, wan_1_3b, wan_14b
from relic.memory.compression import memory_tokens
from relic.model.wan_config import wan_sizes, wan_world
from relic.planning.parameters import count_parameters
from relic.vae.config import VaeConfig, WanVaeConfig

FILE = Path("folder/config.json")


def published(layers: int, heads: int, ffn: int) -> dict[str, Any]:
    """The configuration file that lies beside Wan2.1-T2V's weights."""
    return {
        "_class_name": "WanTransformer3DModel",
        "_diffusers_version": "0.33.0.dev0",
        "added_kv_proj_dim": None,
        "attention_head_dim": 128,
        "cross_attn_norm": True,
        "eps": 1e-06,
        "ffn_dim": ffn,
        "freq_dim": 256,
        "image_dim": None,
        "in_channels": 16,
        "num_attention_heads": heads,
        "num_layers": layers,
        "out_channels": 16,
        "patch_size": [1, 2, 2],
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": 4096,
    }


SMALL, LARGE = published(30, 12, 8960), published(40, 40, 13824)


def test_presets_survive_json() -> None:
    for name in PRESETS:
        config = find_preset(name)
        assert config.preset == name
        assert from_json(RelicConfig, json.loads(json.dumps(to_json(config)))) == config
    with pytest.raises(ValueError, match=r"unknown preset 'wan-2b': choose one of mini, wan-1\.3b, wan-14b"):
        find_preset("wan-2b")


def test_the_paper_s_numbers() -> None:
    config = wan_14b()
    assert (config.height, config.width, config.fps, config.sampler.steps) == (480, 832, 16, 4)
    assert config.model.tokens_per_frame == 1560
    tokens = memory_tokens(80, config.model.grid, config.memory.schedule, config.memory.window)
    assert 80 * 1560 == 124_800
    assert tokens == pytest.approx(30_000, rel=0.02)


def test_which_auto_encoder_a_world_has() -> None:
    assert isinstance(mini().tiny_vae, VaeConfig)
    with pytest.raises(ValueError, match=r"the wan-1\.3b world's latents are Wan's"):
        _ = wan_1_3b().tiny_vae
    values = to_json(wan_1_3b())
    values["vae"]["kind"] = "other"
    with pytest.raises(ValueError, match=r"unknown kind 'other' of RelicConfig\.vae; known: \['wan'\]"):
        from_json(RelicConfig, values)
    with pytest.raises(ValueError, match="decoder 'tiny' is not one of"):
        WanVaeConfig(decoder="tiny")  # type: ignore[arg-type]


@pytest.mark.parametrize(("values", "preset", "billions"), [(SMALL, wan_1_3b, 1.42), (LARGE, wan_14b, 14.29)])
def test_a_published_network_is_its_preset(values: dict[str, Any], preset: Any, billions: float) -> None:
    """Counted on the meta device; the library's own class has as many parameters."""
    config = wan_world(values, FILE)
    assert config == preset()
    with torch.device("meta"):
        library = WanTransformer3DModel.from_config(values)
    count = count_parameters(config)
    assert count.backbone == sum(parameter.numel() for parameter in library.parameters())
    assert count.backbone == pytest.approx(billions * 1e9, rel=0.004)
    model = config.model
    actions, poses, square = 4 * 13, 4 * (9 + 3 * 11), model.dim**2 + model.dim
    encoders = [inputs * model.dim + model.dim + square * (1 + model.num_layers) for inputs in (actions, poses)]
    assert [count.action_encoder, count.pose_encoder, count.guide] == [*encoders, 0]


def test_other_sizes_are_told_from_a_world_s() -> None:
    other = wan_world({**LARGE, "num_layers": 4}, FILE)
    assert (other.preset, other.model.num_layers, other.model.ffn_dim) == ("wan", 4, 13824)
    expected = r"config.json is of another network than the wan-14b configuration: dim 1536 \(not 5120\), num_layers 30"
    with pytest.raises(ValueError, match=expected):
        wan_world(SMALL, FILE, wan_14b())
    slow = dataclasses.replace(wan_14b(), model=dataclasses.replace(wan_14b().model, rope_theta=100.0))
    with pytest.raises(ValueError, match=r"rope_theta 10000.0 \(not 100.0\)"):
        wan_world(LARGE, FILE, slow)
    assert wan_world(LARGE, FILE, dataclasses.replace(wan_14b(), fps=8)).fps == 8


@pytest.mark.parametrize(
    ("name", "value", "only"),
    [
        ("patch_size", [2, 2, 2], r"\[1, 2, 2\]"),
        ("cross_attn_norm", False, "True"),
        ("qk_norm", "rms_norm", "'rms_norm_across_heads'"),
        ("qk_norm", None, "'rms_norm_across_heads'"),
        ("image_dim", 1280, "None"),
        ("added_kv_proj_dim", 5120, "None"),
        ("pos_embed_seq_len", 514, "None"),
        ("out_channels", 32, "16"),
        ("vace_layers", [0, 5], "None"),
        ("quantization_config", {"quant_method": "bitsandbytes"}, "None"),
    ],
)
def test_settings_that_we_do_not_compute_are_named(name: str, value: Any, only: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} .* in folder/config\.json is not supported: only {only} is"):
        wan_sizes({**LARGE, name: value}, FILE)


@pytest.mark.parametrize(
    ("name", "value"), [("num_layers", 0), ("num_layers", "40"), ("ffn_dim", True), ("text_dim", 1.5), ("eps", "0")]
)
def test_settings_that_are_no_sizes_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} {value!r} in folder/config\.json must be a"):
        wan_sizes({**LARGE, name: value}, FILE)


def test_settings_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match=r"lacks ffn_dim, qk_norm"):
        wan_sizes({name: value for name, value in LARGE.items() if name not in ("qk_norm", "ffn_dim")}, FILE)
