"""The world and the sessions that walk in it: a limit, a polite refusal, and memory freed at once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from relic_app.controls import Controls
from relic_app.worker import Worker

if TYPE_CHECKING:
    from relic.camera import CameraPath
    from relic.engine import EngineStats, StepResult, WorldEngine
    from relic.world import World

UInt8Array = NDArray[np.uint8]
Report = Callable[[str, float], None]
Result = TypeVar("Result")
_WORLD_LANE = "world"
_LOG = logging.getLogger(__name__)


class BusyError(Exception):
    """All sessions are taken."""


class SessionClosedError(Exception):
    """The session was closed while it was asked for something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldStatus:
    """How far the world is loaded.

    Attributes:
        state: `waking`, `awake` or `failed`.
        message: what is being done, or what went wrong.
        fraction: progress in [0, 1].
        fps: frames a second; 0 until awake.
        width: picture width, pixels; 0 until awake.
        height: picture height, pixels; 0 until awake.
    """

    state: str = "waking"
    message: str = "waking the world"
    fraction: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0


class WorldHost:
    """Loads the world in the worker's thread, once, and tells how far it is.

    Attributes:
        block_s: seconds that a block took when the world was warmed up; valid once awake.
    """

    def __init__(self, worker: Worker, load: Callable[[Report], World]) -> None:
        self.worker = worker
        self.block_s = 0.25
        self._load = load
        self._world: World | None = None
        self._lock = threading.Lock()
        self._status = WorldStatus()
        self._listeners: list[Callable[[WorldStatus], None]] = []

    @property
    def status(self) -> WorldStatus:
        """How far the world is now."""
        return self._status

    @property
    def world(self) -> World:
        """The world.

        Raises:
            RuntimeError: it is not awake.
        """
        if self._world is None:
            raise RuntimeError(f"the world is {self._status.state}: {self._status.message}")
        return self._world

    def wake(self) -> Future[None]:
        """Begin to load the world; returns at once."""
        return self.worker.submit(_WORLD_LANE, self._wake)

    def listen(self, listener: Callable[[WorldStatus], None]) -> Callable[[], None]:
        """Call `listener` in the worker's thread at every change; returns a function that ends it."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return stop

    def _tell(self, status: WorldStatus) -> None:
        self._status = status
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(status)

    def _wake(self) -> None:
        def report(message: str, fraction: float) -> None:
            self._tell(WorldStatus(message=message, fraction=fraction))

        try:
            world = self._load(report)
            report("taking the first steps", 0.8)
            self.block_s = _seconds_of_a_block(world)
        except Exception as error:
            _LOG.exception("the world did not wake")
            self._tell(WorldStatus(state="failed", message=f"the world did not wake: {error}"))
            raise
        self._world = world
        self._tell(
            WorldStatus(
                state="awake",
                message="the world is awake",
                fraction=1.0,
                fps=world.config.fps,
                width=world.config.width,
                height=world.config.height,
            )
        )


def _seconds_of_a_block(world: World) -> float:
    """Warm the world up, text encoder included, with blocks of standing still; the last one's time counts."""
    from relic.actions import static_actions
    from relic.engine import WorldEngine

    engine = WorldEngine(world)
    grey = np.full((world.config.height, world.config.width, 3), 128, dtype=np.uint8)
    engine.start(grey, prompt="a quiet room")
    seconds = 0.0
    for _ in range(3):
        began = time.perf_counter()
        engine.step(static_actions(engine.frames_per_block))
        seconds = time.perf_counter() - began
    return seconds


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Block:
    """Frames that were made together.

    Attributes:
        frames: (n, H, W, 3) uint8.
        poses: the n poses.
        index: 0 for the start picture, then counting up.
        seq: newest input that the block contains.
        stats: the session's memory after the block.
    """

    frames: UInt8Array
    poses: CameraPath
    index: int
    seq: int
    stats: EngineStats


class Session:
    """One player's world. The methods are coroutines of the server's loop; the work is the worker's."""

    def __init__(self, host: WorldHost, number: int) -> None:
        self._host = host
        self._lane = ("session", number)
        self._engine: WorldEngine | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the session was closed."""
        return self._closed

    async def start(self, picture: Image.Image, prompt: str, seed: int) -> Block:
        """Begin, or begin again, from a picture; the block is the single start frame.

        Raises:
            ValueError: the engine refuses the picture, the prompt or the seed.
            SessionClosedError: the session was closed meanwhile.
        """

        def work() -> Block:
            from relic.camera import CameraPath
            from relic.engine import WorldEngine

            engine = self._engine or WorldEngine(self._host.world)
            frames = engine.start(picture, prompt, seed)
            self._engine = engine
            if self._closed:
                self._engine = None
            return Block(frames=frames, poses=CameraPath.identity(), index=0, seq=0, stats=engine.stats())

        return await self._do(work)

    async def step(self, controls: Controls) -> Block:
        """Make the next block; the controls are read when its turn has come.

        Raises:
            SessionClosedError: the session was closed meanwhile.
        """

        def work() -> tuple[Future[StepResult], int, EngineStats]:
            engine = self._running_engine()
            sample = controls.sample(engine.frames_per_block, time.monotonic())
            return engine.begin_step(sample.actions), sample.seq, engine.stats()

        decoding, seq, stats = await self._do(work)
        result = await asyncio.wrap_future(decoding)
        return Block(frames=result.frames, poses=result.poses, index=result.block_index + 1, seq=seq, stats=stats)

    async def set_prompt(self, text: str) -> None:
        """Change the prompt from the next block on.

        Raises:
            SessionClosedError: the session was closed meanwhile.
        """
        await self._do(lambda: self._running_engine().set_prompt(text))

    def close(self) -> None:
        """Free the engine and forget what waits; a block that is being made ends by itself."""
        self._closed = True
        self._engine = None
        self._host.worker.drop(self._lane)

    def _running_engine(self) -> WorldEngine:
        if self._engine is None:
            raise SessionClosedError("the session is closed or has no picture")
        return self._engine

    async def _do(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise SessionClosedError("the session is closed")
        future = self._host.worker.submit(self._lane, work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if self._closed and future.cancelled():
                raise SessionClosedError("the session is closed") from None
            raise


class SessionManager:
    """Gives out sessions up to a limit.

    Args:
        host: the world they walk in.
        limit: sessions at once, >= 1.

    Raises:
        ValueError: a limit below 1.
    """

    def __init__(self, host: WorldHost, limit: int = 2) -> None:
        if limit < 1:
            raise ValueError(f"the limit of sessions is {limit}: give at least 1")
        self.host = host
        self.limit = limit
        self._numbers = itertools.count()
        self._open: set[Session] = set()

    @property
    def active(self) -> int:
        """Sessions that are open."""
        return len(self._open)

    def open(self) -> Session:
        """Open a session.

        Raises:
            BusyError: as many as the limit are open.
        """
        if self.active >= self.limit:
            raise BusyError(_busy_message(self.limit))
        session = Session(self.host, next(self._numbers))
        self._open.add(session)
        return session

    def close(self, session: Session) -> None:
        """Close a session and free its memory at once; closing twice is harmless."""
        session.close()
        self._open.discard(session)


def _busy_message(limit: int) -> str:
    places = "The only place" if limit == 1 else f"All {limit} places"
    return f"{places} in this world {'is' if limit == 1 else 'are'} taken. Try again when someone leaves."
