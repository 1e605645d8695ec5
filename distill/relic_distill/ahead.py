"""Work that a step needs, begun while the step before it computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_Made = TypeVar("_Made")


class Ahead(Generic[_Made]):
    """Makes what belongs to a key in a thread of its own, ahead of who asks; keys are asked for in rising order.

    What is made must depend on its key alone: it is the same whether it was foreseen or not.

    Args:
        make: called with a key, in the other thread.
    """

    def __init__(self, make: Callable[[tuple[int, ...]], _Made]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._begun: dict[tuple[int, ...], Future[_Made]] = {}

    def get(self, key: tuple[int, ...], following: tuple[int, ...]) -> _Made:
        """What belongs to `key`; that of `following` is begun. An error of making it is raised when it is asked for."""
        made = self._begun.get(key) or self._thread.submit(self._make, key)
        self._begun = {later: begun for later, begun in self._begun.items() if later > key}
        result = made.result()
        self._begun[following] = self._thread.submit(self._make, following)
        return result
