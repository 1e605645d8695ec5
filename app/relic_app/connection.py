"""One page's websocket: reads its messages, runs its player, and frees everything when it goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect
from numpy.typing import NDArray

from relic.actions import DEFAULT_SPEEDS, Speeds
from relic.camera import CameraPose
from relic_app.controls import Controls
from relic_app.gallery import Gallery
from relic_app.player import Player, RunRequest
from relic_app.protocol import (
    PROTOCOL_VERSION,
    Ack,
    Analog,
    ClientMessage,
    Hello,
    Keys,
    Pause,
    ProtocolError,
    Record,
    Restart,
    SetPrompt,
    SetSpeeds,
    Start,
    check_version,
    parse_client_message,
)
from relic_app.recorder import MAX_SECONDS, Recorder
from relic_app.replies import Busy, Error, Ready, Recording, ServerMessage, World, encode
from relic_app.sessions import BusyError, Session, SessionClosedError, SessionManager, WorldStatus
from relic_app.uploads import UploadStore

_LOG = logging.getLogger(__name__)
_CLOSE_PROTOCOL = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What every connection shares.

    Attributes:
        manager: gives out sessions.
        gallery: the start pictures.
        uploads: the players' own pictures.
        recordings: folder of finished recordings.
    """

    manager: SessionManager
    gallery: Gallery
    uploads: UploadStore
    recordings: Path


class Connection:
    """A page that is connected."""

    def __init__(self, socket: WebSocket, services: Services) -> None:
        self._socket = socket
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: Session | None = None
        self._player: Player | None = None
        self._play_task: asyncio.Task[None] | None = None
        self._recorder: Recorder | None = None
        self._speeds = DEFAULT_SPEEDS
        self._controls: Controls | None = None
        self._runs = 0

    async def serve(self) -> None:
        """Talk with the page until it goes; then its session, player and recording are freed."""
        await self._socket.accept()
        stop_listening = self._services.manager.host.listen(self._on_world)
        self._spawn(self._send_outgoing())
        try:
            if await self._greet():
                while True:
                    await self._receive()
        except WebSocketDisconnect:
            pass
        finally:
            stop_listening()
            self._leave()

    async def _greet(self) -> bool:
        try:
            hello = parse_client_message(await self._socket.receive_text())
            if not isinstance(hello, Hello):
                raise ProtocolError("the first message must be 'hello'")
            check_version(hello)
        except ProtocolError as error:
            await self._socket.send_text(encode(Error(code="protocol", message=str(error))))
            await self._socket.close(_CLOSE_PROTOCOL, "protocol")
            return False
        services = self._services
        self._post(
            Ready(
                version=PROTOCOL_VERSION,
                limit=services.manager.limit,
            )
        )
        self._post_world(services.manager.host.status)
        return True

    async def _receive(self) -> None:
        try:
            await self._handle(parse_client_message(await self._socket.receive_text()))
        except ProtocolError as error:
            self._post(Error(code="protocol", message=str(error)))

    async def _handle(self, message: ClientMessage) -> None:
        match message:
            case Ack():
                self._ack(message)
            case Keys():
                if self._controls is not None:
                    self._controls.hold(message.codes, message.seq, time.monotonic())
            case Analog():
                if self._controls is not None:
                    self._controls.lean(message.magnitudes, message.seq)
            case Start():
                await self._start(message)
            case Restart():
                if self._player is not None:
                    self._begin(self._player.request)
            case SetSpeeds():
                self._speeds = Speeds(translation_m_per_s=message.move, rotation_deg_per_s=message.turn)
                if self._controls is not None:
                    self._controls.set_speeds(self._speeds)
            case SetPrompt():
                self._spawn(self._set_prompt(message.text))
            case Pause():
                if self._player is not None:
                    self._player.pause(message.on)
            case Record():
                self._record(message.on)
            case Hello():
                raise ProtocolError("'hello' was said already")

    async def _start(self, message: Start) -> None:
        services = self._services
        try:
            if message.source == "gallery":
                picture = await asyncio.to_thread(services.gallery.open, message.picture)
            else:
                picture = services.uploads.get(message.picture)
        except (ValueError, OSError) as error:
            self._post(Error(code="picture", message=str(error)))
            return
        self._begin(RunRequest(picture=picture, prompt=message.prompt, seed=message.seed))

    def _begin(self, request: RunRequest) -> None:
        services = self._services
        host = services.manager.host
        if host.status.state != "awake":
            self._post_world(host.status)
            return
        if self._session is None or self._session.closed:
            try:
                self._session = services.manager.open()
            except BusyError as busy:
                self._post(Busy(limit=services.manager.limit, message=str(busy)))
                return
        if self._play_task is not None:
            self._play_task.cancel()
        self._runs += 1
        self._controls = Controls(self._speeds, host.status.fps)
        self._player = Player(
            self._session,
            self._runs,
            request,
            self._controls,
            fps=host.status.fps,
            block_s=host.block_s,
            send=self._outgoing.put_nowait,
            on_shown=self._on_shown,
        )
        self._play_task = self._spawn(self._play(self._player, self._session))

    async def _play(self, player: Player, session: Session) -> None:
        try:
            await player.play()
        except SessionClosedError:
            return
        except ValueError as error:
            self._post(Error(code="picture", message=str(error)))
        except Exception as error:
            _LOG.exception("a session stopped")
            self._post(Error(code="engine", message=f"the world stopped: {error}. Start again."))
        self._services.manager.close(session)

    async def _set_prompt(self, text: str) -> None:
        if self._session is None or self._player is None:
            return
        try:
            await self._session.set_prompt(text)
        except SessionClosedError:
            return
        except ValueError as error:
            self._post(Error(code="prompt", message=str(error)))

    def _ack(self, message: Ack) -> None:
        if self._player is None or message.run != self._player.run:
            return
        slack_s = None if message.slack_ms is None else message.slack_ms / 1000
        try:
            self._player.ack(message.frame, slack_s)
        except ValueError as error:
            raise ProtocolError(str(error)) from None

    def _on_shown(self, frame: NDArray[np.uint8], pose: CameraPose) -> None:
        if self._recorder is not None:
            self._recorder.add(frame, pose)
            if self._recorder.seconds >= MAX_SECONDS:
                self._record(on=False)

    def _record(self, on: bool) -> None:
        if on and self._recorder is None and self._player is not None:
            world = self._services.manager.host.status
            self._recorder = Recorder(
                self._services.recordings,
                f"relic-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}",
                width=world.width,
                height=world.height,
                fps=world.fps,
            )
            self._post(Recording(state="on", seconds=0.0))
        elif not on and self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            self._post(Recording(state="saving", seconds=recorder.seconds))
            self._spawn(self._save(recorder))

    async def _save(self, recorder: Recorder) -> None:
        try:
            files = await asyncio.to_thread(recorder.finish)
        except (ValueError, OSError) as error:
            self._post(Error(code="recording", message=str(error)))
            return
        self._post(
            Recording(
                state="saved",
                seconds=recorder.seconds,
                video=f"recordings/{files.video.name}",
                poses=f"recordings/{files.poses.name}",
            )
        )

    def _post(self, message: ServerMessage) -> None:
        self._outgoing.put_nowait(encode(message))

    def _post_world(self, status: WorldStatus) -> None:
        self._post(World(**asdict(status)))

    def _on_world(self, status: WorldStatus) -> None:
        """Called in the worker's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server is going down
            self._loop.call_soon_threadsafe(self._post_world, status)

    async def _send_outgoing(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                message = await self._outgoing.get()
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_text(message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _leave(self) -> None:
        if self._session is not None:
            self._services.manager.close(self._session)
        if self._recorder is not None:
            self._recorder.abandon()
        self._player = None
        for task in self._tasks:
            task.cancel()
