"""The page measured as a person sees it: a browser walks, and the page counts frames and latencies."""

from __future__ import annotations

import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WALKING_KEYS = ("KeyW", "KeyS", "KeyA", "KeyD", "ArrowLeft", "ArrowRight", "KeyE", "KeyQ")
_PATIENCE_MS = 120_000


@contextmanager
def served_page(weights: Path | None, *options: str) -> Iterator[str]:
    """The address of a `relic play` in a process of its own, with other options of it."""
    command = [sys.executable, "-m", "relic_app", "play", "--port", "0", *options]
    if weights is not None:
        command += ["--weights", str(weights)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    try:
        found = re.search(r"http://\S+", server.stdout.readline())
        if found is None:
            raise ValueError("`relic play` did not start: run it by itself to see why")
        yield found.group()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        server.stdout.close()


def measure_page(
    weights: Path | None, seconds: float, chromium: str, screenshot: Path | None, steps: int | None = None
) -> str:
    """Walk with random keys and tell frames a second, frame gaps and latencies.

    Args:
        weights: weights folder; None for the shipped one.
        seconds: length of the walk, > 0.
        chromium: path of the browser.
        screenshot: where to write a picture of the page at the end.
        steps: denoising steps a block; None for the world's own.

    Raises:
        ValueError: when `seconds` or `steps` is not positive or the server does not start.
        FileNotFoundError: when there is no such browser.
    """
    if seconds <= 0:
        raise ValueError(f"seconds {seconds} must be positive")
    if steps is not None and steps < 1:
        raise ValueError(f"steps {steps} must be at least 1")
    if not Path(chromium).is_file():
        raise FileNotFoundError(f"no browser at {chromium}: install chromium, or name one with --chromium")
    from playwright.sync_api import sync_playwright

    chosen = () if steps is None else ("--steps", str(steps))
    with served_page(weights, *chosen) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(url)
        page.wait_for_function("() => window.relic?.report().world === 'awake'", timeout=_PATIENCE_MS)
        page.get_by_role("button", name=re.compile("^Walk into")).first.click()
        page.wait_for_function("() => window.relic.report().frames > 16", timeout=_PATIENCE_MS)
        frames, gaps, latencies, elapsed = _walk(page, seconds)
        if screenshot is not None:
            page.screenshot(path=str(screenshot))
        browser.close()
    gaps.sort()
    latencies.sort()
    return (
        f"{frames / elapsed:.2f} frames shown a second over {elapsed:.0f} s; "
        f"gap median {statistics.median(gaps):.0f} ms, 95 % {gaps[int(0.95 * len(gaps))]:.0f} ms; "
        f"key to picture median {statistics.median(latencies):.0f} ms, "
        f"95 % {latencies[int(0.95 * len(latencies))]:.0f} ms ({len(latencies)} keys)"
    )


def _walk(page: Page, seconds: float) -> tuple[int, list[float], list[float], float]:
    """Press and release random keys; frames shown, gaps between them (ms), latencies (ms), seconds."""
    page.evaluate(
        """() => {
          window.bench = {gaps: [], latencies: [], last: 0};
          const painted = window.relic.hud.painted.bind(window.relic.hud);
          window.relic.hud.painted = (frame, now, latencies) => {
            if (window.bench.last) window.bench.gaps.push(now - window.bench.last);
            window.bench.last = now;
            window.bench.latencies.push(...latencies);
            painted(frame, now, latencies);
          };
        }"""
    )
    choose = random.Random(0)
    began, first = time.monotonic(), page.evaluate("window.relic.report().frames")
    while time.monotonic() - began < seconds:
        key = choose.choice(WALKING_KEYS)
        page.keyboard.down(key)
        time.sleep(choose.uniform(0.4, 1.2))
        page.keyboard.up(key)
        time.sleep(choose.uniform(0.1, 0.4))
    elapsed = time.monotonic() - began
    frames = page.evaluate("window.relic.report().frames") - first
    return frames, page.evaluate("window.bench.gaps"), page.evaluate("window.bench.latencies"), elapsed
