"""Real processes over gloo, forked from a server that has imported torch once: a rank starts in a moment."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_ranks(folder: Path, count: int, job: Callable[..., Any], *args: Any) -> list[Any]:
    """What `job(*args)` returns on each of so many ranks of one process group; no tensors."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks", "relic.engine"])
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        store = folder / f"store-{count}-{job.__name__}"
        futures = [pool.submit(_rank, store, rank, count, job, args) for rank in range(count)]
        return [future.result() for future in futures]


def _rank(store: Path, rank: int, count: int, job: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(seconds=120)
    )
    try:
        return job(*args)
    finally:
        dist.destroy_process_group()
