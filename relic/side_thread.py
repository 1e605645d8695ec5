"""A second thread for work that does not wait for the first: a process that computes with one leaves a core idle."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch


def has_idle_core() -> bool:
    """Whether torch computes with one thread on a machine that lends this process more cores."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return torch.get_num_threads() == 1 and cores > 1


@contextmanager
def alongside(job: Callable[[], object]) -> Iterator[None]:
    """Run `job` while the body of the `with` runs, or before it where no core is idle; done when the `with` ends.

    The two must not depend on each other; results are the same bits either way. The job runs under the caller's
    gradient and precision modes, and its exception is raised at the end of the body, unless the body raises its own.
    """
    if torch.get_default_device().type != "cpu" or not has_idle_core():
        failure: Exception | None = None
        try:
            job()
        except Exception as error:
            failure = error
        yield
        if failure is not None:
            raise failure
        return
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    mixed, precision = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def under_the_same_modes() -> None:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(gradients),
            torch.autocast("cpu", precision, enabled=mixed, cache_enabled=False),
        ):
            job()

    future = _helper().submit(under_the_same_modes)
    try:
        yield
    except BaseException:
        future.exception()
        raise
    future.result()


@cache
def _helper() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="relic-side")
