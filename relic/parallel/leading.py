"""Rank 0 has the session, the others follow: before each step of a stream it tells them, and all take it together.

An order is a line of JSON and some tensors, broadcast on the CPU (gloo); nothing is pickled. Text is encoded and
pictures are decoded by rank 0 alone: the others get text tokens, control, guide, noise and seeds.
"""

from __future__ import annotations

import itertools
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from relic.config import MemoryConfig, SamplerConfig, from_json, to_json
from relic.memory.entries import MemorySnapshot
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import RelicTransformer
from relic.rollout import BlockDraw
from relic.stream import Stream


class Leader:
    """Rank 0's way to give orders.

    Args:
        group: of gloo, used for orders only. Its timeout is the longest time between two of them.
        on_failure: called when a step fails here that the others have begun, and are not to be called back from.
    """

    def __init__(self, group: ProcessGroup, on_failure: Callable[[], None]) -> None:
        self._group, self._on_failure = group, on_failure
        self._numbers = itertools.count()
        self._dropped: list[int] = []

    def stream(self, model: RelicTransformer, memory: MemoryConfig, sampler: SamplerConfig) -> Stream:
        """A stream that every rank has."""
        return _LedStream(self, model, memory, sampler)

    def number(self) -> int:
        """A fresh number to speak of a stream or a snapshot by."""
        return next(self._numbers)

    def forget_with(self, thing: object, number: int) -> None:
        """The others drop what they keep under a number once `thing` is gone here."""
        weakref.finalize(thing, self._dropped.append, number).atexit = False

    @contextmanager
    def together(self, kind: str, tensors: Mapping[str, Tensor] | None = None, **values: Any) -> Iterator[None]:
        """Broadcast an order, whose share of this rank is the body of the `with`."""
        try:
            self._tell(kind, tensors, **values)
            yield
        except BaseException:
            self._on_failure()
            raise

    def _tell(self, kind: str, tensors: Mapping[str, Tensor] | None = None, **values: Any) -> None:
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        given = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
        shapes = {name: [str(x.dtype).removeprefix("torch."), list(x.shape)] for name, x in given.items()}
        head = json.dumps({"kind": kind, "dropped": dropped, "tensors": shapes, "values": values}).encode()
        self._send(torch.tensor([len(head)]))
        self._send(torch.frombuffer(bytearray(head), dtype=torch.uint8))
        for tensor in given.values():
            self._send(tensor)

    def end(self) -> None:
        """Let the others return from `follow`."""
        self._tell("end")

    def _send(self, tensor: Tensor) -> None:
        dist.broadcast(tensor.view(torch.uint8), group=self._group, group_src=0)


@torch.inference_mode()
def follow(model: RelicTransformer, group: ProcessGroup) -> None:
    """Obey rank 0 until it ends.

    Args:
        model: the network, with the ranks that share it as its `parallel`.
        group: the leader's.

    Raises:
        RuntimeError: when rank 0 is gone.
    """
    streams: dict[int, Stream] = {}
    snapshots: dict[int, MemorySnapshot] = {}
    while (order := _receive(group, model.proj_out.weight.device)).kind != "end":
        for number in order.dropped:
            streams.pop(number, None)
            snapshots.pop(number, None)
        number, values, tensors = order.values["stream"], order.values, order.tensors
        match order.kind:
            case "start":
                memory = from_json(MemoryConfig, values["memory"], "the leader's memory")
                sampler = from_json(SamplerConfig, values["sampler"], "the leader's sampler")
                streams[number] = Stream(model, memory, sampler)
                streams[number].start(tensors["latent"], _camera(tensors), tensors["text"])
            case "text":
                streams[number].set_text(tensors["text"])
            case "draw":
                streams[number].draw(_draw(order))
            case "snapshot":
                snapshots[values["snapshot"]] = streams[number].snapshot()
            case "restore":
                streams[number].restore(snapshots[values["snapshot"]])


@dataclass(frozen=True, kw_only=True)
class _Order:
    kind: str
    dropped: list[int]
    values: dict[str, Any]
    tensors: dict[str, Tensor]


def _receive(group: ProcessGroup, device: torch.device) -> _Order:
    def take(shape: list[int], dtype: torch.dtype) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        dist.broadcast(tensor.view(torch.uint8), group=group, group_src=0)
        return tensor

    length = int(take([1], torch.int64))
    head = json.loads(bytes(take([length], torch.uint8).tolist()))
    tensors = {name: take(shape, getattr(torch, dtype)).to(device) for name, (dtype, shape) in head["tensors"].items()}
    return _Order(kind=head["kind"], dropped=head["dropped"], values=head["values"], tensors=tensors)


@dataclass(frozen=True, kw_only=True)
class _LedSnapshot(MemorySnapshot):
    """A rank's own memory, and the number under which the others keep theirs."""

    number: int


class _LedStream(Stream):
    """A stream whose steps the other ranks are told of before they are taken."""

    def __init__(self, leader: Leader, model: RelicTransformer, memory: MemoryConfig, sampler: SamplerConfig) -> None:
        super().__init__(model, memory, sampler)
        self._leader, self._number = leader, leader.number()
        leader.forget_with(self, self._number)
        self._settings = {"memory": to_json(memory), "sampler": to_json(sampler)}

    def start(self, latent: Tensor, camera: CameraConditioning, text: Tensor) -> None:
        tensors = {"latent": latent, "text": text, **_tensors_of(camera)}
        with self._leader.together("start", tensors, stream=self._number, **self._settings):
            super().start(latent, camera, text)

    def set_text(self, text: Tensor) -> None:
        with self._leader.together("text", {"text": text}, stream=self._number):
            super().set_text(text)

    def draw(self, draw: BlockDraw, show: Callable[[Tensor], object] | None = None) -> Tensor:
        guide = {} if draw.guide is None else {"guide": draw.guide}
        tensors = {"noise": draw.noise, **guide, **_tensors_of(draw.camera)}
        with self._leader.together("draw", tensors, stream=self._number, seed=draw.seed, exit_step=draw.exit_step):
            return super().draw(draw, show)

    def snapshot(self) -> MemorySnapshot:
        number = self._leader.number()
        with self._leader.together("snapshot", stream=self._number, snapshot=number):
            own = super().snapshot()
        snapshot = _LedSnapshot(entries=own.entries, num_frames=own.num_frames, number=number)
        self._leader.forget_with(snapshot, number)
        return snapshot

    def restore(self, snapshot: MemorySnapshot) -> None:
        assert isinstance(snapshot, _LedSnapshot)
        with self._leader.together("restore", stream=self._number, snapshot=snapshot.number):
            super().restore(snapshot)


def _draw(order: _Order) -> BlockDraw:
    tensors, values = order.tensors, order.values
    return BlockDraw(
        camera=_camera(tensors),
        guide=tensors.get("guide"),
        noise=tensors["noise"],
        seed=values["seed"],
        exit_step=values["exit_step"],
    )


def _tensors_of(camera: CameraConditioning) -> dict[str, Tensor]:
    return {"actions": camera.actions, "rotations_w2c": camera.rotations_w2c, "positions": camera.positions}


def _camera(tensors: Mapping[str, Tensor]) -> CameraConditioning:
    return CameraConditioning(
        actions=tensors["actions"], rotations_w2c=tensors["rotations_w2c"], positions=tensors["positions"]
    )
