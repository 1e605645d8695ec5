"""A thread on each rank that notices when another is gone: computing would wait for it without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

_INTERVAL_S = 0.25
_NOTICE_S = 3.0
"""How long a rank that failed waits: for another's death to be seen as the reason, and for its own word to arrive."""


class State(IntEnum):
    """How a rank, or with it the session, stands."""

    ALIVE = 0
    DONE = 1
    INTERRUPTED = 2
    FAILED = 3
    GONE = 4


_SENTENCES = {
    State.INTERRUPTED: "rank {} was interrupted",
    State.FAILED: "rank {} stopped with an error",
    State.GONE: "rank {} is gone",
}


class Watch:
    """Rank 0 asks every rank how it stands, four times a second, and tells all how the session stands.

    Args:
        group: of gloo, used for nothing else; its timeout is how long a rank may be silent.
        on_lost: called once with a sentence, in the watch's thread, when another rank has ended the session; it should
            end the process, since computing may never return.
    """

    def __init__(self, group: ProcessGroup, on_lost: Callable[[State, str], None]) -> None:
        self._group, self._on_lost = group, on_lost
        self._rank = group.rank()
        self._state = State.ALIVE
        self._thread = threading.Thread(target=self._run, name="relic-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching; every rank calls it, and rank 0's call ends the session for all."""
        if self._rank == 0:
            self._state = State.DONE
        self._thread.join()

    def fail(self, *, interrupted: bool = False) -> None:
        """Tell the others that this rank stops, unless it stops because another has."""
        self._thread.join(0.0 if interrupted else _NOTICE_S)
        self._state = State.INTERRUPTED if interrupted else State.FAILED
        self._thread.join(_NOTICE_S)

    def _run(self) -> None:
        while True:
            state, rank = self._lead() if self._rank == 0 else self._answer()
            if state is not State.ALIVE:
                break
        if state in _SENTENCES and rank != self._rank:
            count = self._group.size()
            told = _SENTENCES[state].format(f"{rank} of {count}")
            self._on_lost(state, f"{told}: the session ends on every rank")

    def _lead(self) -> tuple[State, int]:
        time.sleep(_INTERVAL_S)
        verdict = self._state, 0
        for rank in range(1, self._group.size()):
            message = torch.zeros(1, dtype=torch.int64)
            try:
                dist.recv(message, group=self._group, group_src=rank)
                found = State(int(message))
            except RuntimeError:
                found = State.GONE
            if found is not State.ALIVE and verdict[0] in (State.ALIVE, State.DONE):
                verdict = found, rank
        for rank in range(1, self._group.size()):
            with suppress(RuntimeError):  # the next round asks it, and tells of it
                dist.send(torch.tensor(verdict), group=self._group, group_dst=rank)
        return verdict

    def _answer(self) -> tuple[State, int]:
        verdict = torch.zeros(2, dtype=torch.int64)
        try:
            dist.send(torch.tensor([int(self._state)]), group=self._group, group_dst=0)
            dist.recv(verdict, group=self._group, group_src=0)
        except RuntimeError:
            return State.GONE, 0
        return State(int(verdict[0])), int(verdict[1])
