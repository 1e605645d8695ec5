"""Two stages on two devices: a block is decoded while the next is drawn."""

import dataclasses
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from torch import Tensor

from relic.actions import Speeds, action_from_keys
from relic.engine import WorldEngine
from relic.vae.protocol import DecoderState
from relic.world import World
from tests.elsewhere import ELSEWHERE, TensorElsewhere, pretended

WALK = action_from_keys(("KeyW", "ArrowLeft"), Speeds())
BLOCKS = 3
PATIENCE_S = 60.0


def world(*, guided: bool) -> World:
    config = World.tiny().config
    if not guided:
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, guide_channels=0), reprojection=None
        )
    return World.tiny(config=config)


def film(walked: World) -> np.ndarray:
    engine = WorldEngine(walked)
    first = engine.start(np.full((96, 160, 3), 90, np.uint8), "a room", 3)
    blocks = [engine.begin_step(WALK) for _ in range(BLOCKS)]
    return np.concatenate([first, *(block.result().frames for block in blocks)])


@pytest.fixture
def elsewhere() -> Iterator[None]:
    with pretended():
        yield


def moved(walked: World) -> World:
    """The same world with its network on the pretended device."""
    for owner in walked.model.modules():
        for tensors in (owner._parameters, owner._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = TensorElsewhere(tensor.detach())
    assert walked.device == ELSEWHERE
    assert walked.vae_device.type == "cpu"
    return walked


@pytest.mark.parametrize("guided", [False, True])
def test_network_and_decoder_on_two_devices_show_what_one_device_shows(guided: bool, elsewhere: None) -> None:
    expected = film(world(guided=guided))
    split = moved(world(guided=guided))
    assert split.decodes_ahead == (not guided), "what guides the next block must have been shown"
    difference = np.abs(film(split).astype(int) - expected)  # torch picks another attention kernel for a device
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


class Observed:
    """Lets a block be decoded only once the next one is being drawn; without two stages that is never."""

    def __init__(self, walked: World) -> None:
        self.drawn, self.decoded, self.threads = 0, 0, set[str]()
        self.changed = threading.Condition()
        decode = walked.vae.decode_step
        forward = walked.model.forward

        def draw(*args: object, **kwargs: object) -> Tensor:
            with self.changed:
                self.drawn += 1
                self.changed.notify_all()
            return forward(*args, **kwargs)

        def wait_and_decode(latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
            if state.started:
                passes = walked.config.sampler.steps + 1
                wanted = 1 + passes * (1 + self.decoded) + 1
                with self.changed:
                    assert self.changed.wait_for(lambda: self.drawn >= wanted, PATIENCE_S), "the next was not begun"
                self.decoded += 1
                self.threads.add(threading.current_thread().name)
            return decode(latents, state)

        walked.model.forward = draw  # type: ignore[method-assign]
        walked.vae.decode_step = wait_and_decode  # type: ignore[method-assign]


def test_a_block_is_decoded_while_the_next_is_drawn(elsewhere: None) -> None:
    split = moved(world(guided=False))
    observed = Observed(split)
    engine = WorldEngine(split)
    engine.start(np.full((96, 160, 3), 90, np.uint8), "a room", 3)
    first = engine.begin_step(WALK)
    assert not first.done()
    second = engine.begin_step(WALK)
    assert first.result(PATIENCE_S).block_index == 0
    assert not second.done()
    third = engine.begin_step(WALK)
    assert second.result(PATIENCE_S).block_index == 1
    with observed.changed:
        observed.drawn += 1
        observed.changed.notify_all()
    assert third.result(PATIENCE_S).frames.shape == (4, 96, 160, 3)
    assert len(observed.threads) == 1
    assert next(iter(observed.threads)).startswith("relic-decode")


def test_a_snapshot_waits_for_what_is_being_decoded(elsewhere: None) -> None:
    engine = WorldEngine(moved(world(guided=False)))
    engine.start(np.full((96, 160, 3), 90, np.uint8), "a room", 3)
    engine.begin_step(WALK)
    moment = engine.snapshot()
    assert moment.screen.shown == 2
    original = engine.step(WALK).frames
    engine.begin_step(WALK)
    engine.restore(moment)
    assert np.array_equal(engine.step(WALK).frames, original)


def test_an_error_of_the_decoder_is_the_blocks(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    split = moved(world(guided=False))
    engine = WorldEngine(split)
    engine.start(np.full((96, 160, 3), 90, np.uint8), "a room", 3)

    def fail(latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        raise RuntimeError("no decoder")

    monkeypatch.setattr(split.vae, "decode_step", fail)
    with pytest.raises(RuntimeError, match="no decoder"):
        engine.step(WALK)
