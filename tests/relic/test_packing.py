"""Weights that are packed for the processor's matrix unit compute what they computed."""

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from relic import packing
from relic.benchmarks.products import products_of
from relic.packing import PackedLinear, pack_linears, unpacked
from relic.world import World


class Calls(TorchDispatchMode):
    """The operators that are called under its `with`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[object] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


def some_network(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.Sequential(nn.SiLU(), nn.Linear(96, 32, bias=False))).to(dtype)


def count(network: nn.Module) -> int:
    return sum(isinstance(module, PackedLinear) for module in network.modules())


@pytest.mark.parametrize("rows", [1, 7, 60, 333])
def test_a_packed_network_computes_the_same(rows: int) -> None:
    plain, packed = some_network(), some_network()
    pack_linears(packed)
    assert count(packed) == (2 if packing.packs() else 0)
    assert list(packed.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, rows, 48).bfloat16()
    with torch.inference_mode():
        expected, got = plain(x), packed(x)
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=2**-7)
    assert got.shape == (2, rows, 32)
    exact = plain.float()(x.float())
    assert (got.float() - exact).norm() < 0.01 * exact.norm()


def test_gradients_and_other_precisions_take_the_plain_way() -> None:
    packed = some_network()
    pack_linears(packed)
    x = torch.randn(5, 48).bfloat16()
    packed(x).float().sum().backward()
    weight = packed[0].weight
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    with torch.inference_mode():
        wide = packed.float()(x.float())
    torch.testing.assert_close(wide, some_network().float()(x.float()))
    narrow = some_network(torch.float32)
    pack_linears(narrow)
    assert count(narrow) == 0


def test_a_packed_network_may_be_timed_unpacked() -> None:
    packed = some_network()
    pack_linears(packed)
    x = torch.randn(3, 48).bfloat16()
    with torch.inference_mode():
        for plain in (False, True, False):
            with Calls() as calls, unpacked(packed) if plain else nullcontext():
                packed(x)
            assert (torch.ops.mkldnn._linear_pointwise.default in calls.seen) is (packing.packs() and not plain)


def test_a_weight_written_later_is_packed_again_and_copies_work() -> None:
    packed, x = some_network(), torch.randn(5, 48).bfloat16()
    pack_linears(packed)
    with torch.no_grad():
        before = packed(x)
        twin = copy.deepcopy(packed)
        packed.load_state_dict({name: 2 * value for name, value in packed.state_dict().items()})
        changed = packed(x)
        assert torch.equal(twin(x), before)
    plain = some_network()
    plain.load_state_dict(packed.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(changed, plain(x), rtol=2**-7, atol=2**-6)
    assert not torch.allclose(changed, before)


def test_a_world_in_bfloat16_is_packed_and_its_products_are_seen(tmp_path: Path) -> None:
    World.tiny().save(tmp_path)
    world = World.load(tmp_path, precision="bfloat16")
    if packing.packs():
        assert count(world.model.blocks) >= 10
    assert count(World.load(tmp_path).model) == 0
    with torch.inference_mode():
        linear = next(m for m in world.model.blocks.modules() if isinstance(m, nn.Linear))
        seen = products_of(lambda: linear(torch.zeros(3, linear.in_features, dtype=torch.bfloat16)))
    assert seen.flops == 2 * 3 * linear.in_features * linear.out_features


def test_products_alone_are_recorded_without_the_activation_they_end_with() -> None:
    packed, x = some_network(), torch.randn(5, 48).bfloat16()
    pack_linears(packed)
    layer = packed[0]
    if not isinstance(layer, PackedLinear):
        assert not packing.packs()
        return
    with torch.inference_mode():
        product, activated = layer(x), layer.with_gelu(x, "tanh")
        seen = products_of(lambda: layer.with_gelu(x, "tanh"))
        (job,) = seen.jobs
        assert torch.equal(job(), product)
    assert not torch.equal(activated, product)
    assert seen.flops == 2 * 5 * 48 * 96


def test_a_processor_without_such_products_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = some_network()
    pack_linears(network)
    assert count(network) == 0
