"""One world played by several processes: the command line's own main function in each, over gloo."""

import json
import os
import re
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from relic.weights import default_weights_dir
from relic.world import World
from relic_app.cli import main

PATIENCE_S = 240.0
NOTICE_S = 60.0
"""For all to end: far more than the seconds it takes, since the machine may be busy, far less than any timeout."""

DRAWING = re.compile(r"\b[1-9]\d*/9600")
"""Said by a rollout of 9600 frames once some are drawn."""


class Launch:
    """So many processes as `torchrun` would start them, each with what it says in a file."""

    def __init__(self, folder: Path, count: int, argv: list[str]) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(["tests.ranks", "relic.engine"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.files = [folder / f"rank-{rank}.txt" for rank in range(count)]
        self.ranks: list[BaseProcess] = [
            context.Process(target=run_rank, args=(rank, count, port, file, argv))
            for rank, file in enumerate(self.files)
        ]
        for rank in self.ranks:
            rank.start()

    def said(self, rank: int) -> str:
        file = self.files[rank]
        return file.read_text() if file.exists() else ""

    def wait_until(self, happened: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < end, [self.said(rank) for rank in range(len(self.ranks))]
            time.sleep(0.05)

    def codes(self, seconds: float = NOTICE_S) -> list[int | None]:
        """Exit statuses once all have ended."""
        end = time.monotonic() + seconds
        for rank in self.ranks:
            rank.join(max(0.0, end - time.monotonic()))
        return [rank.exitcode for rank in self.ranks]

    def signal(self, rank: int, number: signal.Signals) -> None:
        pid = self.ranks[rank].pid
        assert pid is not None
        os.kill(pid, number)


def run_rank(rank: int, count: int, port: int, file: Path, argv: list[str]) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server's children ignore it
    said = os.open(file, os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.exit(main(argv))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    made: list[Launch] = []

    def start(count: int, *argv: str) -> Launch:
        made.append(Launch(tmp_path, count, list(argv)))
        return made[-1]

    yield start
    for one in made:
        for rank in one.ranks:
            rank.kill()
            rank.join()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world with two heads, and a gallery."""
    folder = tmp_path_factory.mktemp("weights")
    World.tiny().save(folder)
    (folder / "gallery").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "gallery" / "a.png")
    entry = {"file": "a.png", "title": "A", "prompt": ""}
    (folder / "gallery" / "gallery.json").write_text(json.dumps([entry]))
    return folder


def rollout_of(weights: Path, picture: Path, actions: str, out: Path) -> list[str]:
    return [
        "rollout", "--weights", str(weights), "--image", str(picture), "--actions", actions, "--out", str(out),
    ]  # fmt: skip


def test_the_shipped_world_shows_on_five_ranks_what_it_shows_on_one(
    launch: Callable[..., Launch], tmp_path: Path
) -> None:
    shipped = default_weights_dir()
    picture = shipped / "gallery" / json.loads((shipped / "gallery" / "gallery.json").read_text())[0]["file"]
    five_gif, one_gif = (
        [*rollout_of(shipped, picture, "w*4 left*4", tmp_path / name), "--precision", "float32"]
        for name in ("five.gif", "one.gif")
    )  # in bfloat16 products of 12 rows and of 60 round apart by more
    run = launch(5, *five_gif)
    assert run.codes(PATIENCE_S) == [0, 0, 0, 0, 0], [run.said(rank) for rank in range(5)]
    assert main(one_gif) == 0
    five, one = (iio.imread(tmp_path / name).astype(int) for name in ("five.png", "one.png"))
    assert five.shape == one.shape
    assert np.abs(five - one).max() <= 1
    assert (tmp_path / "five.poses.json").read_text() == (tmp_path / "one.poses.json").read_text()
    assert sorted(path.name for path in tmp_path.glob("*.gif")) == ["five.gif", "one.gif"]


def test_ranks_that_do_not_divide_the_heads_are_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shipped = default_weights_dir()
    picture = tmp_path / "a.png"
    Image.new("RGB", (160, 96)).save(picture)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(World, "load", None)
    monkeypatch.setattr("torch.distributed.init_process_group", None)
    assert main(rollout_of(shipped, picture, "w*4", tmp_path / "out.gif")) == 2
    assert "4 ranks do not divide the network's 5 heads: start it with one of 1, 5" in capsys.readouterr().err


@pytest.mark.parametrize(("killed", "survivor"), [(1, 0), (0, 1)])
def test_a_rank_that_is_killed_ends_a_rollout_on_every_rank(
    launch: Callable[..., Launch], weights: Path, tmp_path: Path, killed: int, survivor: int
) -> None:
    run = launch(2, *rollout_of(weights, weights / "gallery" / "a.png", "w*9600", tmp_path / "out.gif"))
    run.wait_until(lambda: DRAWING.search(run.said(0)))
    run.signal(killed, signal.SIGKILL)
    codes = run.codes()
    assert codes[killed] == -signal.SIGKILL
    assert codes[survivor] == 1
    assert f"relic: rank {killed} of 2 is gone: the session ends on every rank" in run.said(survivor)
    assert not (tmp_path / "out.gif").exists()


def test_an_interruption_of_rank_0_ends_a_rollout_on_every_rank(
    launch: Callable[..., Launch], weights: Path, tmp_path: Path
) -> None:
    run = launch(2, *rollout_of(weights, weights / "gallery" / "a.png", "w*9600", tmp_path / "out.gif"))
    run.wait_until(lambda: DRAWING.search(run.said(0)))
    run.signal(1, signal.SIGINT)
    run.signal(0, signal.SIGINT)
    assert run.codes() == [130, 130]
    assert "rank 0 of 2 was interrupted: the session ends on every rank" in run.said(1)


def served(run: Launch) -> str:
    """Where rank 0 serves the page, once it does."""
    run.wait_until(lambda: "RELIC: http" in run.said(0))
    url = run.said(0).split("RELIC: ")[1].split()[0]
    with urllib.request.urlopen(f"{url}api/gallery", timeout=PATIENCE_S) as answer:
        assert json.load(answer)[0]["title"] == "A"
    return url


def test_a_rank_that_is_killed_ends_the_page_while_nobody_plays(launch: Callable[..., Launch], weights: Path) -> None:
    run = launch(2, "play", "--weights", str(weights))
    served(run)
    run.signal(1, signal.SIGKILL)
    assert run.codes() == [1, -signal.SIGKILL]
    assert "relic: rank 1 of 2 is gone" in run.said(0)


def test_ctrl_c_on_rank_0_ends_the_page_on_every_rank(launch: Callable[..., Launch], weights: Path) -> None:
    run = launch(2, "play", "--weights", str(weights))
    served(run)
    run.signal(0, signal.SIGINT)
    assert run.codes(PATIENCE_S) == [0, 0], (run.said(0), run.said(1))
