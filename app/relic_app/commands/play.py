"""`relic play`: serve the page and walk through a picture in the browser."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from relic_app.ranks import Ranks, joined_ranks, local_ranks
from relic_app.world_options import WorldSource, add_world_arguments, world_source

if TYPE_CHECKING:
    from fastapi import FastAPI

    from relic.world import World
    from relic_app.gallery import Gallery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic play`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on (default: 7860 or the next free one)")
    parser.add_argument("--sessions", type=int, default=2, help="players at once; others are told to wait")
    parser.add_argument("--threads", type=int, help="CPU threads for the world (default: all cores but one)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_world_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted.

    Raises:
        ValueError: the port is taken, a bad number, or what `world_source` refuses.
        FileNotFoundError: no weights.
    """
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads is {options.threads}: give at least 1")
    if options.sessions < 1:
        raise ValueError(f"--sessions is {options.sessions}: give at least 1")
    # Read when torch is first imported. A thread that waits spins for some microseconds, then sleeps: sleeping at once
    # doubles a block's time, spinning for long starves the browser.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    source = world_source(options)
    with joined_ranks(source) as ranks:
        if ranks.rank > 0:
            ranks.follow(load_world(source, options.threads or default_threads(), lambda _message, _fraction: None))
        else:
            _serve_world(options, source, ranks)
    return 0


def _serve_world(options: argparse.Namespace, source: WorldSource, ranks: Ranks) -> None:
    from relic_app.server import bind

    listener = bind(options.host, options.port)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with tempfile.TemporaryDirectory(prefix="relic-recordings-") as recordings:
        app = build_app(
            load=lambda report: ranks.share(load_world(source, options.threads or default_threads(), report)),
            gallery=source.gallery(),
            sessions=options.sessions,
            recordings=Path(recordings),
        )
        print(f"RELIC: {url}  (Ctrl+C stops)", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(url)
        _serve(app, listener)


def default_threads() -> int:
    """All cores but one, which draws the page, shared out over the ranks of this machine; at least one."""
    return max(1, ((os.cpu_count() or 1) - 1) // local_ranks())


def load_world(source: WorldSource, threads: int, report: Callable[[str, float], None]) -> World:
    """Load the world in the calling thread, telling `report` what is being done."""
    report("waking the network", 0.1)
    import torch

    torch.set_num_threads(threads)
    report("remembering what rooms look like", 0.4)
    return source.load()


def build_app(
    *, load: Callable[[Callable[[str, float], None]], World], gallery: Gallery, sessions: int, recordings: Path
) -> FastAPI:
    """Put the server together, page included; the world is loaded once the app has started.

    Args:
        load: loads the world, in the worker's thread.
        gallery: start pictures.
        sessions: players at once.
        recordings: folder for finished recordings.
    """
    from relic_app.connection import Services
    from relic_app.page import mount_page
    from relic_app.server import create_api
    from relic_app.sessions import SessionManager, WorldHost
    from relic_app.uploads import UploadStore
    from relic_app.worker import Worker

    services = Services(
        manager=SessionManager(WorldHost(Worker(), load), sessions),
        gallery=gallery,
        uploads=UploadStore(),
        recordings=recordings,
    )
    return mount_page(create_api(services))


def _serve(app: FastAPI, listener: object) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        ws_per_message_deflate=False,
        ws_max_size=65_536,
        ws_ping_interval=10.0,
        ws_ping_timeout=10.0,
        timeout_graceful_shutdown=2,
    )
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl+C is how playing ends
        uvicorn.Server(config).run(sockets=[listener])
