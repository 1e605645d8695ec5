"""Recording what a player saw: an MP4 and the camera's poses, encoded in a thread of its own."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from relic_app.video import VideoWriter

if TYPE_CHECKING:
    from relic.camera import CameraPose

UInt8Array = NDArray[np.uint8]
MAX_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingFiles:
    """A finished recording.

    Attributes:
        video: the MP4.
        poses: the camera path of its frames, JSON, in the world of the run's first camera.
        frames: how many frames both have.
    """

    video: Path
    poses: Path
    frames: int


class Recorder:
    """One recording; `add` never blocks, `finish` waits for the encoder and belongs in a thread.

    Args:
        folder: where `<name>.mp4` and `<name>.poses.json` will appear, complete or not at all.
        name: the recording's name.
        width: frame width, pixels.
        height: frame height, pixels.
        fps: frames a second.
    """

    def __init__(self, folder: Path, name: str, *, width: int, height: int, fps: float) -> None:
        self._video_path = folder / f"{name}.mp4"
        self._poses_path = folder / f"{name}.poses.json"
        self._size = (width, height)
        self._fps = fps
        self._poses: list[CameraPose] = []
        self._frames: queue.SimpleQueue[UInt8Array | None] = queue.SimpleQueue()
        self._abandoned = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._encode, name="relic-recorder", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Length so far."""
        return len(self._poses) / self._fps

    def add(self, frame: UInt8Array, pose: CameraPose) -> None:
        """Append a shown frame, (H, W, 3) uint8, and its pose; beyond `MAX_SECONDS` nothing is added."""
        if self.seconds < MAX_SECONDS:
            self._poses.append(pose)
            self._frames.put(frame)

    def finish(self) -> RecordingFiles:
        """Wait for the encoder and write the poses.

        Raises:
            ValueError: nothing was shown while recording.
            OSError: the encoder failed or the disk is full.
        """
        self._abandoned = not self._poses
        self._frames.put(None)
        self._thread.join()
        if not self._poses:
            raise ValueError("nothing was shown while recording: record for longer")
        if self._error is not None:
            raise OSError(f"the recording could not be encoded: {self._error}") from self._error
        from relic.camera import CameraPath

        path = CameraPath(
            np.stack([pose.rotation_w2c for pose in self._poses]),
            np.stack([pose.position for pose in self._poses]),
        )
        path.save(self._poses_path)
        return RecordingFiles(video=self._video_path, poses=self._poses_path, frames=len(path))

    def abandon(self) -> None:
        """Stop without a file; returns at once."""
        self._abandoned = True
        self._frames.put(None)

    def _encode(self) -> None:
        width, height = self._size
        try:
            writer = VideoWriter(self._video_path, width=width, height=height, fps=self._fps)
            try:
                while (frame := self._frames.get()) is not None:
                    writer.add(frame)
            except BaseException:
                writer.abandon()
                raise
            if self._abandoned:
                writer.abandon()
            else:
                writer.close()
        except Exception as error:
            self._error = error
