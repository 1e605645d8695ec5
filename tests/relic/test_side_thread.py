import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from relic.actions import Speeds, action_from_keys
from relic.engine import WorldEngine
from relic.side_thread import alongside, has_idle_core
from relic.world import World


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_the_job_is_done_when_the_body_ends_and_keeps_the_modes(threads: int) -> None:
    seen: list[object] = []
    with (
        torch.inference_mode(),
        alongside(lambda: seen.extend([torch.is_inference_mode_enabled(), threading.current_thread().name])),
    ):
        pass
    assert seen[0] is True
    assert str(seen[1]).startswith("relic-side") == has_idle_core()
    modes: list[bool] = []
    with torch.no_grad(), alongside(lambda: modes.append(torch.is_grad_enabled())):
        pass
    with alongside(lambda: modes.append(torch.is_grad_enabled())):
        pass
    assert modes == [False, True]


def test_errors_of_job_and_body_are_raised(threads: int) -> None:
    def fail() -> None:
        raise ValueError("the job's")

    with pytest.raises(ValueError, match="the job's"), alongside(fail):
        pass
    with pytest.raises(RuntimeError, match="the body's"), alongside(fail):
        raise RuntimeError("the body's")


def test_frames_are_the_same_bits_with_and_without_a_side_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    world, walk = World.tiny(), action_from_keys(("KeyW", "ArrowLeft"), Speeds())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        films = []
        for idle in (True, False):
            monkeypatch.setattr("relic.side_thread.has_idle_core", lambda idle=idle: idle)
            engine = WorldEngine(world)
            engine.start(np.full((96, 160, 3), 90, np.uint8), "a room", 3)
            films.append(np.concatenate([engine.step(walk).frames for _ in range(4)]))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*films)
