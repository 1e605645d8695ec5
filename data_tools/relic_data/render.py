"""Render a data set: scenes to clips on disk, by several processes, restartable, the same bytes for a seed."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from tqdm import tqdm

from relic.intrinsics import Intrinsics
from relic_data.assets import furniture_archives, miniworld_dir
from relic_data.clips import (
    FOV,
    FPS,
    HEIGHT,
    VERSION,
    WIDTH,
    DamagedClipError,
    clip_frames,
    clip_name,
    is_complete,
    scene_numbers,
)
from relic_data.film import DiskFullError, Done, Filmer, Job, sweep_drafts, write_text

__all__ = ["DiskFullError", "main", "render_dataset", "write_index"]


def render_dataset(
    out: Path,
    scenes: int,
    seconds: float,
    seed: int,
    workers: int,
    clips_per_scene: int = 1,
    first_scene: int = 0,
    progress: bool = True,
    split: str | None = None,
) -> None:
    """Render clips of furnished rooms and gardens into ``out``.

    Args:
        out: data set folder; ``out/clips/<split>-s<scene>-c<clip>`` are the clips, ``out/dataset.json`` the list.
        scenes: number of scenes.
        seconds: length of a clip; 1 + 4k frames nearest to it at 16 frames a second.
        seed: of the whole set. A clip's bytes depend on seed, scene, clip number and length only.
        workers: processes; 1 renders in this one.
        clips_per_scene: different paths through the same scene.
        first_scene: number of the first scene.
        progress: show a bar with frames a second.
        split: pass over scenes of other splits than this one.

    Raises:
        ValueError: a number is out of range, the split is unknown, or ``out`` holds clips of another seed or length.
        DiskFullError: no space is left; call again to go on.
        relic_data.assets.AssetError: an asset package is missing.
    """
    _check(scenes, workers, clips_per_scene, first_scene, seed)
    numbers = scene_numbers(scenes, first_scene, split)
    frames = clip_frames(seconds)
    furniture_archives()
    miniworld_dir()
    _check_same(out / "dataset.json", seed, frames)
    clips = out / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    sweep_drafts(clips)
    jobs = [
        Job(clips=clips, seed=seed, scene=s, frames=frames, clip_count=clips_per_scene)
        for s in numbers
        if not all(is_complete(clips / clip_name(s, k)) for k in range(clips_per_scene))
    ]
    settings: dict[str, float | int | str] = {
        "scenes": scenes,
        "seconds": seconds,
        "seed": seed,
        "clips_per_scene": clips_per_scene,
        "first_scene": first_scene,
        "split": split or "all",
    }
    _film(jobs, workers, out, settings, frames, progress)


def _film(
    jobs: Sequence[Job],
    workers: int,
    out: Path,
    settings: dict[str, float | int | str],
    frames: int,
    progress: bool,
) -> None:
    """Run the jobs; the index follows, and drafts of a job that was stopped are swept away."""
    total = sum(job.clip_count for job in jobs) * frames
    last_index = 0.0
    try:
        with tqdm(total=total, unit="frame", disable=not progress, smoothing=0.05) as bar:
            for done in _run(jobs, workers):
                bar.update(done.frames)
                if time.monotonic() - last_index > 10:
                    write_index(out, settings, frames)
                    last_index = time.monotonic()
    finally:
        sweep_drafts(out / "clips")
        write_index(out, settings, frames)


def _check(scenes: int, workers: int, clips_per_scene: int, first_scene: int, seed: int) -> None:
    least = {"scenes": 1, "workers": 1, "clips_per_scene": 1, "first_scene": 0, "seed": 0}
    for (name, minimum), value in zip(
        least.items(), (scenes, workers, clips_per_scene, first_scene, seed), strict=True
    ):
        if value < minimum:
            raise ValueError(f"{name}={value}: give at least {minimum}")


def _check_same(index: Path, seed: int, frames: int) -> None:
    """Refuse to mix two data sets in one folder."""
    if not index.is_file():
        return
    try:
        settings = json.loads(index.read_text(encoding="utf-8"))["args"]
        before = {"seed": int(settings["seed"]), "frames": int(settings["frames"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedClipError(f"{index} is damaged ({error}); delete it, the clips beside it are kept") from error
    if before != {"seed": seed, "frames": frames}:
        raise ValueError(
            f"{index.parent} holds clips of seed {before['seed']} and {before['frames']} frames, not of seed {seed} "
            f"and {frames} frames: choose another folder"
        )


def _run(jobs: Sequence[Job], workers: int) -> Iterator[Done]:
    if workers == 1 or len(jobs) <= 1:
        filmer = Filmer()
        try:
            for job in jobs:
                yield filmer.film_scene(job)
        finally:
            filmer.close()
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(stop,)) as pool:
        queue = list(reversed(jobs))
        running: set[Future[Done]] = set()
        try:
            while queue or running:
                while queue and len(running) < workers + 1:
                    running.add(pool.submit(_film_in_worker, queue.pop()))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_FILMERS: list[Filmer] = []


def _start_worker(stop: Event) -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides, and says so through the event.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _FILMERS.append(Filmer(stop.is_set))


def _end_with_parent() -> None:
    """A parent that is killed tells its workers nothing; without this they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _film_in_worker(job: Job) -> Done:
    return _FILMERS[0].film_scene(job)


def write_index(out: Path, settings: dict[str, float | int | str], frames: int) -> None:
    """Write ``out/dataset.json`` from the clips that are complete."""
    k = Intrinsics.from_fov(FOV, WIDTH, HEIGHT)
    rows = []
    for folder in sorted((out / "clips").iterdir()):
        if folder.name.startswith(".") or not is_complete(folder):
            continue
        split, scene, _ = folder.name.split("-")
        rows.append({"name": folder.name, "split": split, "scene": int(scene[1:]), "frames": _length(folder)})
    content = {
        "version": VERSION,
        "args": {**settings, "frames": frames},
        "fps": FPS,
        "height": HEIGHT,
        "width": WIDTH,
        "intrinsics": [k.fx, k.fy, k.cx, k.cy],
        "clips": rows,
    }
    write_text(out / "dataset.json", json.dumps(content, indent=1))


def _length(folder: Path) -> int:
    with open(folder / "frames.npy", "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return int(shape[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Render rooms and gardens to clips: ``python -m relic_data.render --out DIR --scenes 100``."""
    parser = argparse.ArgumentParser(prog="relic_data.render", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="data set folder")
    parser.add_argument("--scenes", type=int, default=100, help="number of scenes")
    parser.add_argument("--first-scene", type=int, default=0, help="number of the first scene")
    parser.add_argument("--clips-per-scene", type=int, default=4, help="paths through each scene")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    args = parser.parse_args(argv)
    render_dataset(args.out, args.scenes, args.seconds, args.seed, args.workers, args.clips_per_scene, args.first_scene)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
