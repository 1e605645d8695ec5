"""Writing frames to an MP4 that every player opens (H.264, yuv420p), atomically."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
TARGET_WIDTH = 640


class VideoWriter:
    """Encodes frames as they come; the file appears under its name only when it is complete.

    Small pictures are enlarged by a whole factor (Lanczos) to about `TARGET_WIDTH`, so that players need not.

    Args:
        path: the MP4 to write; its folder must exist.
        width: frame width, pixels.
        height: frame height, pixels.
        fps: frames a second.

    Raises:
        ValueError: the name does not end in `.mp4`.
    """

    def __init__(self, path: Path, *, width: int, height: int, fps: float) -> None:
        import imageio_ffmpeg

        if path.suffix.lower() != ".mp4":
            raise ValueError(f"video {path.name!r} does not end in .mp4")
        self._path = path
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")
        self._shape = (height, width, 3)
        factor = max(1, round(TARGET_WIDTH / width))
        self._ffmpeg: Generator[None, Any, None] = imageio_ffmpeg.write_frames(
            str(self._temporary),
            (width, height),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=1,
            quality=None,
            ffmpeg_log_level="error",
            output_params=[
                *("-vf", f"scale={2 * (width * factor // 2)}:{2 * (height * factor // 2)}:flags=lanczos"),
                *("-preset", "veryfast", "-crf", "16", "-threads", "1", "-movflags", "+faststart"),
            ],
        )
        self._ffmpeg.send(None)

    def add(self, frame: UInt8Array) -> None:
        """Encode one (H, W, 3) uint8 frame.

        Raises:
            ValueError: another shape than the video's.
        """
        if frame.shape != self._shape:
            raise ValueError(f"a frame of shape {frame.shape} does not fit a video of {self._shape}")
        self._ffmpeg.send(np.ascontiguousarray(frame))

    def close(self) -> Path:
        """Finish the file and give it its name."""
        self._ffmpeg.close()
        os.replace(self._temporary, self._path)
        return self._path

    def abandon(self) -> None:
        """Stop and leave nothing behind."""
        self._ffmpeg.close()
        self._temporary.unlink(missing_ok=True)
