"""One run of a session: start the picture, then make blocks at the right moments and send their frames."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from relic.camera import CameraPose
from relic_app.controls import Controls
from relic_app.pacing import (
    PacingConfig,
    PacingState,
    after_ack,
    after_block,
    after_pause,
    frame_period,
    seconds_until_block,
)
from relic_app.replies import FrameHeader, Started, Stats, encode, encode_frame
from relic_app.sessions import Block, Session

UInt8Array = NDArray[np.uint8]
JPEG_QUALITY = 98  # enlarged many times on screen, coarser coding shows as noise around edges


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """What a run begins from.

    Attributes:
        picture: the start picture, RGB, any size.
        prompt: what the world is.
        seed: seed of its noise.
    """

    picture: Image.Image
    prompt: str
    seed: int


class Player:
    """Plays one run to its end, which is cancellation or an error.

    Args:
        session: whose engine plays.
        run: the run's number.
        request: what to begin from.
        controls: what the player holds.
        fps: frames a second of the world.
        block_s: first guess of a block's time.
        send: queues a message to the page.
        on_shown: told of each frame that was painted, with its pose.
    """

    def __init__(
        self,
        session: Session,
        run: int,
        request: RunRequest,
        controls: Controls,
        *,
        fps: float,
        block_s: float,
        send: Callable[[str | bytes], None],
        on_shown: Callable[[UInt8Array, CameraPose], None],
    ) -> None:
        self.run = run
        self.request = request
        self._session = session
        self._controls = controls
        self._config = PacingConfig(fps=fps)
        self._state = PacingState(block_s=block_s)
        self._send = send
        self._on_shown = on_shown
        self._wake = asyncio.Event()
        self._paused = False
        self._blocks = 0
        self._unshown: deque[tuple[int, UInt8Array, CameraPose]] = deque()

    async def play(self) -> None:
        """Start the picture and make blocks until cancelled.

        Raises:
            ValueError: the engine refuses the picture or the prompt.
            SessionClosedError: the session was closed.
        """
        first = await self._session.start(self.request.picture, self.request.prompt, self.request.seed)
        self._send(encode(Started(run=self.run, prompt=self.request.prompt, seed=self.request.seed)))
        self._deliver(first)
        self._state = PacingState(block_s=self._state.block_s, frames_made=len(first.frames))
        while True:
            await self._wait_for_turn()
            began = time.monotonic()
            block = await self._session.step(self._controls)
            self._config = self._config_for(block)
            self._deliver(block)
            seconds = time.monotonic() - began
            self._blocks += 1
            self._state = after_block(self._state, self._config, frames=len(block.frames), seconds=seconds)
            self._send_stats(block)

    def ack(self, frame: int, slack_s: float | None) -> None:
        """Take the page's word that a frame was painted.

        Raises:
            ValueError: a frame that was never sent.
        """
        self._state = after_ack(self._state, self._config, frame=frame, now=time.monotonic(), slack_s=slack_s)
        while self._unshown and self._unshown[0][0] <= frame:
            _, picture, pose = self._unshown.popleft()
            self._on_shown(picture, pose)
        self._wake.set()

    def pause(self, on: bool) -> None:
        """Hold the world still, or let it go on."""
        if self._paused and not on:
            self._state = after_pause(self._state, time.monotonic())
        self._paused = on
        self._wake.set()

    def _config_for(self, block: Block) -> PacingConfig:
        if len(block.frames) == self._config.frames_per_block:
            return self._config
        return PacingConfig(fps=self._config.fps, frames_per_block=len(block.frames))

    async def _wait_for_turn(self) -> None:
        while True:
            self._wake.clear()
            wait = None if self._paused else seconds_until_block(self._state, self._config, time.monotonic())
            if wait == 0.0:
                return
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _deliver(self, block: Block) -> None:
        period_us = round(frame_period(self._state, self._config) * 1e6)
        first = self._state.frames_made
        for offset, picture in enumerate(block.frames):
            pose = block.poses[offset]
            header = FrameHeader(
                first_of_block=offset == 0,
                run=self.run,
                frame=first + offset,
                block=block.index,
                seq=block.seq,
                period_us=period_us,
                position=_triple(pose.position),
                forward=_triple(pose.rotation_w2c[2]),
            )
            self._unshown.append((first + offset, picture, pose))
            self._send(encode_frame(header, encode_jpeg(picture)))

    def _send_stats(self, block: Block) -> None:
        self._send(
            encode(
                Stats(
                    memory_tokens=block.stats.memory_tokens,
                    memory_bytes=block.stats.memory_bytes + block.stats.view_bytes,
                    seconds_remembered=round(block.stats.seconds_of_history, 3),
                    blocks=self._blocks,
                    block_ms=round(self._state.block_s * 1000, 1),
                    margin_ms=round(self._state.margin_s * 1000, 1),
                )
            )
        )


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


def encode_jpeg(picture: UInt8Array) -> bytes:
    """Return a JPEG without chroma subsampling of an (H, W, 3) uint8 RGB picture."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    encoded: bytes = data.tobytes()
    return encoded
