"""The one thread that does all torch work, fair over the sessions that ask."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """Runs jobs one after another, taking turns between lanes.

    A lane is a session's queue: its jobs run in their order, and lanes with waiting jobs are served in turn,
    one job each, so no session starves another. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._lanes: dict[Hashable, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._turns: deque[Hashable] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="relic-worker", daemon=True)
        self._thread.start()

    def submit(self, lane: Hashable, job: Callable[[], Result]) -> Future[Result]:
        """Queue a job.

        Args:
            lane: whose job it is.
            job: called without arguments in the worker's thread.

        Returns:
            The job's future; cancelled when the lane is dropped or the worker closes before its turn.

        Raises:
            RuntimeError: the worker is closed.
        """
        future: Future[Result] = Future()
        with self._condition:
            if self._closing:
                raise RuntimeError("the worker is closed")
            waiting = self._lanes.setdefault(lane, deque())
            if not waiting:
                self._turns.append(lane)
            waiting.append((future, job))
            self._condition.notify()
        return future

    def drop(self, lane: Hashable) -> None:
        """Cancel a lane's waiting jobs; the one that runs now is not stopped."""
        with self._condition:
            waiting = self._lanes.pop(lane, None)
            if waiting:
                self._turns.remove(lane)
        for future, _ in waiting or ():
            future.cancel()

    def close(self) -> None:
        """Cancel what waits, let the running job end, and stop the thread."""
        with self._condition:
            self._closing = True
            lanes = list(self._lanes)
            self._condition.notify()
        for lane in lanes:
            self.drop(lane)
        self._thread.join()

    def _next_job(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._condition:
            while not self._turns:
                if self._closing:
                    return None
                self._condition.wait()
            lane = self._turns.popleft()
            waiting = self._lanes[lane]
            job = waiting.popleft()
            if waiting:
                self._turns.append(lane)
            else:
                del self._lanes[lane]
            return job

    def _run(self) -> None:
        while (taken := self._next_job()) is not None:
            future, job = taken
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            # What the job holds (a closed session's engine) must not live on while the thread waits.
            del taken, future, job
