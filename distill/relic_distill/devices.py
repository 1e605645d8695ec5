"""Training on another device than the processor.

Losses create tensors without naming a device and draw noise from generators of the processor. On another device the
harness runs them under `on_device`: what they create lies there, and random numbers are drawn where their generator
lies, then moved. So losses need not know a device, and their batches, noise levels and choices are the same on each.
Only much noise at once, which would take a processor longer than the step, is drawn on the device, by a generator that
the given one seeds: a run on one kind of device can be repeated there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from relic.precision import full_precision
from relic_distill.ema import Ema

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_RANDOM = frozenset({torch.rand, torch.randn, torch.randint, torch.randperm})
_NOISE = frozenset({torch.rand, torch.randn})
_MUCH = 2**21

_Batch = TypeVar("_Batch", bound="DataclassInstance")


class _DrawnByItsGenerator(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        generator = named.get("generator")
        if func not in _RANDOM or generator is None:
            return func(*args, **named)
        wanted = torch.device(named.get("device") or torch.get_default_device())
        if wanted != generator.device and func in _NOISE and _count(args) > _MUCH:
            seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
            named["generator"] = torch.Generator(wanted).manual_seed(int(seed))
            return func(*args, **{**named, "device": wanted})
        return func(*args, **{**named, "device": generator.device}).to(wanted)


def _count(size: tuple[Any, ...]) -> int:
    """Numbers of a size given as `rand` takes it: one sequence, or its values one after another."""
    return math.prod(size[0] if size and not isinstance(size[0], int) else size)


@contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """Within the `with`, tensors are created on `device`, and noise is drawn by its generator wherever that lies."""
    if device.type == "cpu":
        yield
        return
    with device, _DrawnByItsGenerator():
        yield


@contextmanager
def on_processor() -> Iterator[None]:
    """Within the `with`, data are read and put together: on the processor, in their own precision."""
    with torch.device("cpu"), full_precision():
        yield


def moved(batch: _Batch, device: torch.device) -> _Batch:
    """A dataclass with its tensors, and those of dataclasses in it, on `device`; other values as they are."""
    if device.type == "cpu":
        return batch
    inside = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **{name: _moved(value, device) for name, value in inside.items()})


def _moved(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return moved(value, device)
    return value


def moved_aside(batch: _Batch, device: torch.device) -> _Batch:
    """`moved` onto a CUDA device beside what it computes: copied on a stream of its own, there when this returns."""
    aside = torch.cuda.Stream(device)
    with torch.cuda.stream(aside):
        there = moved(batch, device)
    aside.synchronize()
    for tensor in _tensors(there):
        tensor.record_stream(torch.cuda.default_stream(device))
    return there


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def move_networks(networks: Iterable[nn.Module], averages: Iterable[Ema], device: torch.device) -> None:
    """Bring networks and averages to `device` in place: optimisers keep their parameters."""
    for network in networks:
        network.to(device)
    for ema in averages:
        ema.average = {name: value.to(device) for name, value in ema.average.items()}
