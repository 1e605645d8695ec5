"""Medians of repeated jobs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def seconds_of(job: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def medians_s(jobs: Sequence[Callable[[], object]], repeats: int) -> tuple[float, ...]:
    """Median seconds of each job, the jobs taking turns so that a noisy moment falls on all of them.

    Raises:
        ValueError: for no repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats {repeats} must be at least 1")
    for job in jobs:
        job()
    rounds = [[seconds_of(job) for job in jobs] for _ in range(repeats)]
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))
