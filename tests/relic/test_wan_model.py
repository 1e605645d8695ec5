"""The network as a diffusers model: saved, sharded, placed, adapted."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from relic.config import from_json, mini, to_json
from relic.model.conditioning import CameraConditioning
from relic.model.relic_transformer_3d import RelicTransformer3DModel
from relic.model.transformer import RelicTransformer
from relic.world import world_intrinsics
from tests.tiny_networks import random_camera
from tests.tiny_wan import converted, tiny_wan, tiny_world


@pytest.fixture
def model(tmp_path: Path) -> RelicTransformer3DModel:
    """A converted network whose control is heard."""
    made = converted(tmp_path / "wan", tiny_wan())
    for encoder in (made.action_encoder, made.pose_encoder):
        for layer in encoder.proj_out:
            torch.nn.init.normal_(layer.weight, std=0.2)
    return made


Inputs = tuple[Tensor, Tensor, Tensor, CameraConditioning]


@pytest.fixture
def inputs(model: RelicTransformer3DModel) -> Inputs:
    return torch.randn(1, 4, 3, 6, 10), torch.tensor([600]), torch.randn(1, 5, 12), random_camera(1, 3, model.config)


@torch.no_grad()
def output(model: RelicTransformer3DModel, inputs: Inputs) -> Tensor:
    return model.bidirectional(*inputs).sample


def test_saved_in_shards_and_loaded(model: RelicTransformer3DModel, inputs: Inputs, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved", max_shard_size="60KB")
    assert len(list((tmp_path / "saved").glob("*-of-*.safetensors"))) > 2
    loaded = RelicTransformer3DModel.from_pretrained(tmp_path / "saved")
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded.pose_encoder.rays, model.pose_encoder.rays)
    assert torch.equal(output(loaded, inputs), output(model, inputs))


def test_it_is_the_same_network_as_without_diffusers(model: RelicTransformer3DModel, inputs: Inputs) -> None:
    plain = RelicTransformer(model.config, world_intrinsics(tiny_world(tiny_wan())))
    plain.load_weights(model.state_dict(), Path("wan"))
    assert isinstance(model, RelicTransformer)
    assert RelicTransformer3DModel.forward is RelicTransformer.forward
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_a_mini_network_is_one_too(tmp_path: Path) -> None:
    small = {"dim": 32, "num_layers": 1, "num_heads": 2, "ffn_dim": 32}
    config = from_json(type(mini()), {**to_json(mini()), "model": {**to_json(mini().model), **small}})
    made = RelicTransformer3DModel.from_config_of(config)
    made.save_pretrained(tmp_path)
    loaded = RelicTransformer3DModel.from_pretrained(tmp_path)
    assert loaded.config == config.model
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())
    with pytest.raises(ValueError, match=r"unknown settings \['dimm'\] in network"):
        RelicTransformer3DModel(network={"dimm": 3})


def test_precision(model: RelicTransformer3DModel, inputs: Inputs, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    half = RelicTransformer3DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    kept = {name for name, parameter in half.named_parameters() if parameter.dtype is torch.float32}
    assert kept == {
        name
        for name, _ in model.named_parameters()
        if "time_embedder" in name or "norm2" in name or name.endswith("scale_shift_table")
    }
    assert torch.equal(half.action_encoder.scale, model.action_encoder.scale)
    assert torch.equal(half.pose_encoder.rays, model.pose_encoder.rays)
    rough, exact = output(half, inputs), output(model, inputs)
    assert rough.dtype is torch.float32
    assert 0 < (rough - exact).square().mean().sqrt() < 0.05 * exact.std()


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_maps(model: RelicTransformer3DModel, inputs: Inputs, tmp_path: Path, device_map: object) -> None:
    model.save_pretrained(tmp_path)
    loaded = RelicTransformer3DModel.from_pretrained(tmp_path, device_map=device_map)
    assert torch.equal(output(loaded, inputs), output(model, inputs))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_block_may_stay_on_the_disk(model: RelicTransformer3DModel, inputs: Inputs, tmp_path: Path) -> None:
    """Its weights are fetched when it runs: the same that several devices need."""
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    places = {name: "cpu" for name, _ in model.named_children() if name != "blocks"}
    places |= {"scale_shift_table": "cpu", "blocks.0": "disk", "blocks.1": "cpu"}
    loaded = RelicTransformer3DModel.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offload")
    assert loaded.blocks[0].ffn.net[2].weight.device.type == "meta"
    assert torch.equal(output(loaded, inputs), output(model, inputs))


def test_a_control_adapter_is_silent_trained_saved_and_loaded(
    model: RelicTransformer3DModel, inputs: Inputs, tmp_path: Path
) -> None:
    before = output(model, inputs)
    model.save_pretrained(tmp_path / "base")
    model.add_control_adapter(rank=4)
    assert torch.equal(output(model, inputs), before)
    control = set(model.control_names())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert control < trained
    lora = trained - control
    assert len(lora) == 2 * 2 * 4 * model.config.num_layers
    assert all("lora_" in name and "attn" in name for name in lora)

    optimiser = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    losses = []
    for _ in range(3):
        loss = model.bidirectional(*inputs).sample.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    after = output(model, inputs)
    assert (after - before).abs().max() > 1e-3

    model.save_lora_adapter(tmp_path / "lora", adapter_name="control")
    model.save_control(tmp_path / "control.safetensors")
    fresh = RelicTransformer3DModel.from_pretrained(tmp_path / "base")
    fresh.load_control(tmp_path / "control.safetensors")
    assert (output(fresh, inputs) - after).abs().max() > 1e-4
    fresh.load_lora_adapter(tmp_path / "lora", adapter_name="control")
    torch.testing.assert_close(output(fresh, inputs), after, rtol=0, atol=1e-6)
    fresh.disable_lora()
    assert (output(fresh, inputs) - after).abs().max() > 1e-4


def test_control_of_another_network_is_refused(model: RelicTransformer3DModel, tmp_path: Path) -> None:
    wan = tiny_wan(num_layers=3)
    other = converted(tmp_path / "other", wan)
    path = tmp_path / "control.safetensors"
    other.save_control(path)
    with pytest.raises(ValueError, match=r"does not hold this network's control encoders: num_layers 3 \(not 2\)"):
        model.load_control(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        model.load_control(tmp_path / "nowhere.safetensors")


def test_nothing_is_unpickled(model: RelicTransformer3DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match=r"no file named diffusion_pytorch_model\.safetensors"):
        RelicTransformer3DModel.from_pretrained(tmp_path)
    for load in (RelicTransformer3DModel.from_pretrained, model.load_lora_adapter):
        with pytest.raises(ValueError, match="pickled weights are never read"):
            load(tmp_path, use_safetensors=False)
