"""Control that is embedded by C++ is what the encoders' own layers make of it."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from relic.model.control import Control
from relic.model.transformer import RelicTransformer
from relic.packing import pack_linears
from relic_kernels.dispatch import force
from tests.tiny_networks import TINY, lively_model, random_camera

pytestmark = pytest.mark.native

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def network(dtype: torch.dtype = torch.float32) -> RelicTransformer:
    made = lively_model()
    made.requires_grad_(False).cast(dtype)
    assert made.fuse() is None
    assert made.fused_control is not None
    return made


def embed(model: RelicTransformer, *, frames: int = 1, batch: int = 1, guided: bool = True) -> Control:
    torch.manual_seed(5)
    camera, guide = random_camera(batch, frames), torch.randn(batch, TINY.guide_channels, frames, 6, 10)
    return model.encode_control(camera, guide if guided else None)


def by_layers(model: RelicTransformer, *, frames: int = 1, batch: int = 1, guided: bool = True) -> Control:
    with force("reference"):
        return embed(model, frames=frames, batch=batch, guided=guided)


def tensors_of(control: Control) -> Iterator[Tensor]:
    yield from (*control.actions, *control.poses)
    if control.guide is not None:
        yield from (control.guide.tokens, control.guide.skip)


def apart(one: Control, other: Control) -> float:
    """The largest relative distance of two tensors; they are of one kind."""
    distances = []
    for got, expected in zip(tensors_of(one), tensors_of(other), strict=True):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        distances.append(float((got.float() - expected.float()).norm() / expected.float().norm()))
    return max(distances)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("guided", [False, True])
def test_control_is_what_the_layers_make(
    dtype: torch.dtype, batch: int, guided: bool, require: Callable[..., None]
) -> None:
    if dtype == torch.bfloat16:
        require("bfloat16")
    model = network(dtype)
    pack_linears(model)
    with torch.inference_mode():
        got, expected = (how(model, batch=batch, guided=guided) for how in (embed, by_layers))
    assert 0 < apart(got, expected) < TOLERANCE[dtype]
    assert all(pose.is_contiguous() for pose in got.poses)


def test_cases_that_lie_apart_are_taken() -> None:
    model = network()
    camera, guide = random_camera(2, 3), torch.randn(2, TINY.guide_channels, 3, 6, 10)
    with torch.no_grad():
        got = model.encode_control(camera[1:2], guide[:, :, 1:2])
        with force("reference"):
            assert 0 < apart(got, model.encode_control(camera[1:2], guide[:, :, 1:2])) < TOLERANCE[torch.float32]


def test_what_it_cannot_take_the_layers_embed() -> None:
    model = network()
    with torch.no_grad():
        assert apart(embed(model, frames=3), by_layers(model, frames=3)) == 0, "several frames"
        with torch.autocast("cpu", torch.bfloat16):
            assert apart(embed(model), by_layers(model)) == 0, "mixed precision"
    assert apart(embed(model), by_layers(model)) == 0, "gradients"
    embed(model.requires_grad_()).poses[1].sum().backward()
    assert model.pose_encoder.proj_in.weight.grad is not None


def test_a_network_that_was_cast_since_embeds_by_itself_until_fused_anew() -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data * 1.5
        assert apart(embed(model), by_layers(model)) == 0
        model.fuse()
        assert 0 < apart(embed(model), by_layers(model)) < TOLERANCE[torch.float32]
        model.double()
        assert embed(model).poses[0].dtype == torch.float64
        assert model.fuse() is not None
        assert model.fused_control is None


def test_weights_that_are_trained_on_are_seen_and_copies_have_their_own() -> None:
    model = network()
    assert copy.deepcopy(model).fused_control is None
    with torch.no_grad():
        before = embed(model)
        for parameter in model.parameters():
            parameter.add_(0.01)
        assert apart(embed(model), before) > 1e-2
        assert 0 < apart(embed(model), by_layers(model)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("pose_encoding", ["frame", "ray"])
@pytest.mark.parametrize("guided", [False, True])
def test_every_network_that_is_fused_embeds_control_one_way_or_the_other(pose_encoding: str, guided: bool) -> None:
    sizes = dataclasses.replace(TINY, pose_encoding=pose_encoding, guide_channels=TINY.guide_channels * guided)
    model = lively_model(sizes)
    assert model.fuse() is None
    assert (model.fused_control is not None) == (pose_encoding == "ray")
    with torch.no_grad(), nullcontext() if guided else pytest.raises(ValueError, match="takes none"):
        assert apart(embed(model), by_layers(model)) < TOLERANCE[torch.float32]
