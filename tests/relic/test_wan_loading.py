"""A Wan checkpoint is read tensor by tensor, and refused before anything is read where it is not whole."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from relic.model.relic_transformer_3d import RelicTransformer3DModel
from tests.tiny_wan import TINY_WAN, converted, tiny_wan, tiny_world

SHARD = "diffusion_pytorch_model-00002-of-"
INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline's folder whose network lies in shards."""
    tiny_wan().save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    return tmp_path


def shard_of(folder: Path) -> Path:
    (found,) = (folder / "transformer").glob(SHARD + "*.safetensors")
    return found


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def rewrite_shard(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of the second shard, and the index with them."""
    path = shard_of(folder)
    tensors = load_file(path)
    before = set(tensors)
    change(tensors)
    save_file(tensors, path)

    def reindex(values: dict[str, Any]) -> None:
        values["weight_map"] = {k: v for k, v in values["weight_map"].items() if k not in before - set(tensors)}
        values["weight_map"].update(dict.fromkeys(tensors, path.name))

    rewrite(folder / "transformer" / INDEX, reindex)


@torch.inference_mode()
def test_every_form_of_a_folder_gives_the_same_network(tmp_path: Path) -> None:
    wan = tiny_wan()
    expected = converted(tmp_path / "shards", wan)
    wan.save_pretrained(tmp_path / "single" / "transformer")
    for folder in (tmp_path / "shards" / "transformer", tmp_path / "single", tmp_path / "single" / "transformer"):
        loaded = RelicTransformer3DModel.from_wan(str(folder), world=tiny_world(wan))
        assert not loaded.training
        for name, tensor in wan.state_dict().items():
            assert torch.equal(loaded.get_parameter(name), tensor), name
            assert torch.equal(expected.get_parameter(name), tensor), name
        for name in loaded.control_names():
            value = loaded.get_parameter(name)
            assert value.isfinite().all()
            assert value.any() == ("proj_out" not in name and name.endswith("weight")), name
    assert {name.split(".")[0] for name in loaded.control_names()} == {"action_encoder", "pose_encoder"}
    assert set(loaded.state_dict()) == set(wan.state_dict()) | set(loaded.control_names())


class LiveBytes(TorchDispatchMode):
    """Watches how many bytes the tensors made since it began hold together, whenever an operator runs."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        alive = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and t.device.type == "cpu"]
        self.most = max(self.most, sum({t.data_ptr(): t.nbytes for t in alive}.values()))
        return out

    def __enter__(self) -> Self:
        gc.collect()
        gc.freeze()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        gc.unfreeze()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_is_never_a_second_copy(folder: Path, dtype: torch.dtype) -> None:
    world = tiny_world(tiny_wan())
    with LiveBytes() as watch:
        model = RelicTransformer3DModel.from_wan(folder, world=world, dtype=dtype)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    control = sum(model.get_parameter(name).nbytes for name in model.control_names())
    in_flight = 2 * 4 * max(parameter.numel() for parameter in model.parameters())
    assert whole <= watch.most <= whole + in_flight
    assert in_flight < 0.7 * (whole - control), "the network is too small to tell a second copy"


def test_the_folder_may_go_once_it_is_loaded(folder: Path) -> None:
    """No parameter is a view into a mapped file, which would end the process when the file is cut."""
    model = RelicTransformer3DModel.from_wan(folder, world=tiny_world(tiny_wan()))
    for path in (folder / "transformer").glob("*.safetensors"):
        path.write_bytes(b"")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RelicTransformer3DModel.from_wan(folder)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder at org/name: .* nothing is downloaded"):
        RelicTransformer3DModel.from_wan("org/name")
    with pytest.raises(FileNotFoundError, match=r"no WanTransformer3DModel in .*: there is no config\.json"):
        RelicTransformer3DModel.from_wan(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "WanModel", "model_type": "t2v"}')
    refused(tmp_path, "describes WanModel, not WanTransformer3DModel")
    (tmp_path / "config.json").write_text('{"_class_name": ')
    refused(tmp_path, r"config\.json is no JSON")


def test_a_folder_without_readable_weights(folder: Path) -> None:
    network = folder / "transformer"
    for path in network.glob("diffusion*"):
        path.unlink()
    (network / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    refused(folder, r"no weights in .*transformer: there is neither .*pickled ones above all")


def test_a_truncated_shard(folder: Path) -> None:
    path = shard_of(folder)
    path.write_bytes(path.read_bytes()[:-10])
    refused(folder, rf"{path.name} is not a whole safetensors file")
    path.write_bytes(b"")
    refused(folder, rf"{path.name} is not a whole safetensors file")


def test_an_index_that_names_what_is_not_there(folder: Path) -> None:
    index = folder / "transformer" / INDEX
    whole = index.read_text()
    shard_of(folder).rename(folder / "moved.safetensors")
    refused(folder, rf"index\.json names {SHARD}.*, which is missing")
    (folder / "moved.safetensors").rename(folder / "transformer" / json.loads(whole)["weight_map"]["proj_out.bias"])
    index.write_text("[1, 2]")
    refused(folder, "is no index of shards")
    index.write_text('{"weight_map": {"proj_out.bias": "../moved.safetensors"}}')
    refused(folder, "must name files of its own folder")


def test_an_index_that_disagrees_with_its_shards(folder: Path) -> None:
    index = folder / "transformer" / INDEX
    rewrite(index, lambda values: values["weight_map"].pop("blocks.0.ffn.net.0.proj.bias"))
    refused(folder, r"and the shards disagree about blocks\.0\.ffn\.net\.0\.proj\.bias in diffusion.*: fetch")


def test_tensors_that_disagree_with_the_configuration(folder: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("weight"))
        tensors["blocks.0.attn1.extra.weight"] = tensors.pop(name)
        other = next(name for name in tensors if name.endswith("bias"))
        tensors[other] = torch.zeros(3)

    rewrite_shard(folder, spoil)
    refused(
        folder,
        r"disagree with its config\.json: missing: \S+\.weight; unknown: blocks\.0\.attn1\.extra\.weight; "
        r"misshapen: \S+\.bias \(3,\) instead of \(40,\)",
    )


def test_a_configuration_of_another_depth(folder: Path) -> None:
    rewrite(folder / "transformer" / "config.json", lambda values: values.update(num_layers=3))
    refused(folder, r"missing: blocks\.2\.\S+, .* and 21 more")
    rewrite(folder / "transformer" / "config.json", lambda values: values.update(num_layers=1))
    refused(folder, r"unknown: blocks\.1\.")


def test_tensors_of_another_type(folder: Path) -> None:
    rewrite_shard(folder, lambda tensors: tensors.update({k: v.to(torch.int8) for k, v in tensors.items()}))
    refused(folder, r"holds .* of I8.*: only F64, F32, F16, BF16 are read")


def test_too_little_memory_is_said_before_loading(tmp_path: Path) -> None:
    """A checkpoint of more bytes than the machine has, all holes: only its header takes room on the disk."""
    network = tmp_path / "transformer"
    wide = {**TINY_WAN, "num_attention_heads": 8, "attention_head_dim": 128, "ffn_dim": 2**20, "num_layers": 1}
    bytes_a_layer = 4 * 2 * wide["ffn_dim"] * 1024
    wide["num_layers"] = psutil.virtual_memory().total // bytes_a_layer + 1
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in tiny_meta(wide).named_parameters()}
    write_holes(network / "diffusion_pytorch_model.safetensors", shapes)
    config = {**wide, "_class_name": "WanTransformer3DModel", "eps": 1e-6, "patch_size": [1, 2, 2]}
    config |= {"cross_attn_norm": True, "qk_norm": "rms_norm_across_heads"}
    (network / "config.json").write_text(json.dumps(config))
    refused(tmp_path, r"the network in \S+transformer needs [\d.]+ GB and cpu has [\d.]+ GB available: load it in")


def tiny_meta(sizes: dict[str, Any]) -> torch.nn.Module:
    from diffusers import WanTransformer3DModel

    network: torch.nn.Module = WanTransformer3DModel(**sizes)
    return network


def write_holes(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of zeros that the file system does not store."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
