"""Writing frames to an MP4 that every player opens (H.264, yuv420p), or to a GIF, atomically."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
TARGET_WIDTH = 640
SUFFIXES = (".mp4", ".gif")
_GIF_WIDTH = 320
_PALETTE = "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=sierra2_4a"
_H264 = ("-preset", "veryfast", "-crf", "16", "-threads", "1", "-movflags", "+faststart")


class VideoWriter:
    """Encodes frames as they come; the file appears under its name only when it is complete.

    Small pictures are enlarged by a whole factor (Lanczos) to about `TARGET_WIDTH`, so that players need not.

    Args:
        path: the MP4 or GIF to write; its folder must exist. A GIF is half as wide: it has no motion coding.
        width: frame width, pixels.
        height: frame height, pixels.
        fps: frames a second.

    Raises:
        ValueError: the name ends in neither `.mp4` nor `.gif`.
    """

    def __init__(self, path: Path, *, width: int, height: int, fps: float) -> None:
        import imageio_ffmpeg

        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"video {path.name!r} ends in neither .mp4 nor .gif")
        self._path = path
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{suffix}")
        self._shape = (height, width, 3)
        gif = suffix == ".gif"
        factor = max(1, round((_GIF_WIDTH if gif else TARGET_WIDTH) / width))
        scale = f"scale={2 * (width * factor // 2)}:{2 * (height * factor // 2)}:flags=lanczos"
        self._ffmpeg: Generator[None, Any, None] = imageio_ffmpeg.write_frames(
            str(self._temporary),
            (width, height),
            fps=fps,
            codec="gif" if gif else "libx264",
            pix_fmt_out="pal8" if gif else "yuv420p",
            macro_block_size=1,
            quality=None,
            ffmpeg_log_level="error",
            output_params=["-vf", f"{scale},{_PALETTE}"] if gif else ["-vf", scale, *_H264],
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
