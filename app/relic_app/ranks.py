"""The processes that `torchrun` starts to play one world: rank 0 serves it, the others follow, and all end together."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from relic.parallel.leading import Leader
    from relic.parallel.watch import State, Watch
    from relic.world import World
    from relic_app.world_options import WorldSource

LOST, INTERRUPTED = 1, 130
_COMPUTING = timedelta(minutes=10)
_BETWEEN_ORDERS = timedelta(days=365)
_SILENCE = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that play a world.

    Attributes:
        rank: its number; 0 serves.
        orders: the group in which rank 0 says what is to be computed; None where this process is alone.
        leader: rank 0's way to say it; None for the others, and alone.
    """

    rank: int = 0
    orders: ProcessGroup | None = None
    leader: Leader | None = None

    def share(self, world: World) -> World:
        """Make the world's network one that all ranks compute together, each its part of the sequence."""
        if self.orders is not None:
            import torch.distributed as dist

            from relic.parallel.sequence import SequenceParallel

            assert dist.group.WORLD is not None
            world.model.parallel = SequenceParallel(dist.group.WORLD, world.config.model)
            world.leader = self.leader
        return world

    def follow(self, world: World) -> None:
        """Compute what rank 0 says until it ends."""
        from relic.parallel.leading import follow

        assert self.orders is not None
        follow(self.share(world).model, self.orders)


def local_ranks() -> int:
    """Processes of the launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def joined_ranks(source: WorldSource) -> Iterator[Ranks]:
    """Meet the other processes that `torchrun` has started; alone without it.

    Once they have met, the death of one, or an error in one, ends every one with a line on stderr and a status that is
    not 0, and an interruption of rank 0 ends all.

    Args:
        source: of the world that is to be shared; its network is asked for its heads before anything is loaded.

    Raises:
        ValueError: when so many ranks cannot share its network.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    import torch.distributed

    from relic.parallel.sequence import check_ranks

    check_ranks(count, source.num_heads())
    ranks, watch = _meet()
    if ranks.rank > 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches every process of a terminal: rank 0 decides
    try:
        yield ranks
    except BaseException as error:
        watch.fail(interrupted=isinstance(error, KeyboardInterrupt))
        raise
    if ranks.leader is not None:
        ranks.leader.end()
    watch.close()
    torch.distributed.destroy_process_group()


def _meet() -> tuple[Ranks, Watch]:
    import torch
    import torch.distributed as dist

    from relic.parallel.leading import Leader
    from relic.parallel.watch import Watch

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_COMPUTING)
    orders = dist.new_group(backend="gloo", timeout=_BETWEEN_ORDERS)
    watch = Watch(dist.new_group(backend="gloo", timeout=_SILENCE), _end_process)
    rank = dist.get_rank()
    leader = Leader(orders, lambda: _fail(watch)) if rank == 0 else None
    return Ranks(rank=rank, orders=orders, leader=leader), watch


def _fail(watch: Watch) -> None:
    """End every rank, whatever thread the error is raised in, and whoever would have caught it."""
    from relic.parallel.watch import State

    error = sys.exception()
    interrupted = isinstance(error, KeyboardInterrupt)
    watch.fail(interrupted=interrupted)
    if interrupted:
        _end_process(State.INTERRUPTED, "interrupted")
    traceback.print_exc()
    _end_process(State.FAILED, f"rank 0 stopped with an error: {error!r}")


def _end_process(state: State, sentence: str) -> None:
    """End at once: the main thread may wait for a rank that will never answer."""
    from relic.parallel.watch import State

    print(f"relic: {sentence}", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED if state is State.INTERRUPTED else LOST)
