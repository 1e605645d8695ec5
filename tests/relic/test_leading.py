"""Rank 0 plays, the others follow: the pictures of one process, and nothing kept that rank 0 has forgotten."""

import gc
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from relic.actions import Speeds, action_from_keys
from relic.engine import WorldEngine
from relic.parallel import leading
from relic.parallel.leading import Leader, follow
from relic.parallel.sequence import SequenceParallel
from relic.stream import Stream
from relic.world import World
from tests.ranks import run_ranks

WALK, TURN = (action_from_keys((key,), Speeds()) for key in ("KeyW", "ArrowLeft"))


def picture(shade: int) -> np.ndarray:
    return np.random.default_rng(shade).integers(0, 256, (96, 160, 3), dtype=np.uint8)


def play(world: World) -> np.ndarray:
    """Two sessions side by side, a prompt changed, a moment returned to."""
    one, other = WorldEngine(world), WorldEngine(world)
    shown = [one.start(picture(1), "a room", 3), one.step(WALK).frames]
    shown += [other.start(picture(2), "", 4), one.step(TURN).frames, other.step(TURN).frames]
    moment = one.snapshot()
    one.set_prompt("a garden")
    shown += [one.step(WALK).frames, other.step(WALK).frames]
    one.restore(moment)
    shown += [one.step(WALK).frames]
    del moment, other
    gc.collect()
    shown += [one.start(picture(2), "a hall", 5), one.step(WALK).frames]
    return np.concatenate(shown)


def job() -> Any:
    """Rank 0's pictures; of the others, how many streams and snapshots are left at the end."""
    orders = dist.new_group(backend="gloo", timeout=timedelta(seconds=120))
    world = World.tiny()
    assert dist.group.WORLD is not None
    world.model.parallel = SequenceParallel(dist.group.WORLD, world.config.model)
    if dist.get_rank() == 0:
        world.leader = Leader(orders, lambda: None)
        shown = play(world)
        world.leader.end()
        return shown
    follow(world.model, orders)
    gc.collect()
    alive = [thing for thing in gc.get_objects() if type(thing) in (Stream, leading._LedSnapshot)]
    return len(alive), world.text_encoder is not None


def test_sessions_of_two_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    shown, (alive, _) = run_ranks(tmp_path, 2, job)
    expected = play(World.tiny())
    assert shown.shape == expected.shape
    difference = np.abs(shown.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert alive == 0
