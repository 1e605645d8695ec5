"""Cases to score a world on: paths through held-out scenes with their true renders.

Axes: T pixel frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relic.camera import CameraPath
from relic_data.clips import Clip

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One path through one held-out scene.

    Attributes:
        name: clip and kind of path.
        prompt: caption of the start.
        frames: `(T, H, W, 3)` true render.
        depth: `(T, H, W)` metres.
        path: T camera poses, the first the identity.
    """

    name: str
    prompt: str
    frames: Frames
    depth: NDArray[np.floating]
    path: CameraPath


def forward_case(clip: Clip, frames: int) -> Case:
    """The clip's own path, cut to `frames` pixel frames."""
    return _case(clip, "forward", list(range(frames)))


def out_and_back_case(clip: Clip, frames: int) -> Case:
    """Half the time along the clip's path, then exactly back; `frames` is odd."""
    half = frames // 2
    return _case(clip, "back", [*range(half + 1), *reversed(range(half))])


def _case(clip: Clip, kind: str, index: list[int]) -> Case:
    if max(index) >= len(clip.path):
        raise ValueError(f"clip {clip.name} has {len(clip.path)} frames, {max(index) + 1} are needed: render longer")
    path = CameraPath(clip.path.rotations_w2c[index], clip.path.positions[index]).rebased()
    return Case(
        name=f"{clip.name}-{kind}",
        prompt=clip.captions[0],
        frames=np.asarray(clip.frames[index]),
        depth=np.asarray(clip.depth[index], dtype=np.float32),
        path=path,
    )
