"""`relic rollout`: play an action script without a browser; writes a video, its poses and a contact sheet."""

from __future__ import annotations

import argparse
import math
import os
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from relic_app.ranks import joined_ranks
from relic_app.world_options import add_world_arguments, world_source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from relic.camera import CameraPath
    from relic.engine import StepResult
    from relic.world import World

MAX_SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic rollout`."""
    parser.add_argument("--image", type=Path, required=True, help="start picture, any size and format")
    parser.add_argument("--prompt", default="", help="what the place is, one line")
    parser.add_argument(
        "--actions",
        required=True,
        help='script such as "w*16 d+left*8 none*4", JSON, or a .txt, .json or .npz file',
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="length of the video; a shorter script stands still at its end, a longer one is refused "
        "(default: the script's own length)",
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes all noise")
    parser.add_argument("--out", type=Path, required=True, help="the video, .mp4 or .gif")
    parser.add_argument("--move", type=float, default=0.75, help="metres a second of a held key")
    parser.add_argument("--turn", type=float, default=40.0, help="degrees a second of a held key")
    add_world_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Check everything, then load the world, play and write.

    Raises:
        ValueError: a bad picture, script, time, seed or output name, or what `world_source` refuses.
        FileNotFoundError: no such picture, script file, folder or weights.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from relic.action_files import load_actions
    from relic.actions import Speeds
    from relic.config import mini
    from relic_app.uploads import decode_picture

    check_output(options.out)
    check_seed(options.seed)
    picture = decode_picture(options.image.read_bytes(), str(options.image))
    speeds = Speeds(translation_m_per_s=options.move, rotation_deg_per_s=options.turn)
    source = world_source(options)
    fps = mini().fps
    actions = fit_actions(load_actions(options.actions, speeds, fps), options.seconds, fps)
    with joined_ranks(source) as ranks:
        if ranks.rank > 0:
            ranks.follow(source.load())
            return 0
        world = ranks.share(source.load())
        frames, poses = roll_out(world, picture, options.prompt, actions, options.seed)
    written = write_rollout(options.out, frames, poses, world)
    print("wrote " + ", ".join(str(path) for path in written))
    return 0


def check_output(out: Path) -> None:
    """Refuse a video name that cannot be written.

    Raises:
        ValueError: neither `.mp4` nor `.gif`, or a folder.
        FileNotFoundError: its folder does not exist.
    """
    from relic_app.video import SUFFIXES

    if out.suffix.lower() not in SUFFIXES or out.is_dir():
        raise ValueError(f"--out is {str(out)!r}: give the name of an .mp4 or .gif file")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out is {str(out)!r}, but there is no folder {str(out.parent)!r}: make it first")


def check_seed(seed: int) -> None:
    """Refuse a seed that is negative.

    Raises:
        ValueError: the seed is below 0.
    """
    if seed < 0:
        raise ValueError(f"--seed is {seed}: give a whole number from 0")


def fit_actions(actions: NDArray[np.float64], seconds: float | None, fps: float) -> NDArray[np.float64]:
    """Bring a script to the wanted length: a shorter one stands still at its end.

    Args:
        actions: (T, 13) motions.
        seconds: the wanted length; None keeps the script's own.
        fps: frames a second.

    Returns:
        (N, 13) with N = seconds * fps, rounded.

    Raises:
        ValueError: a length that is not in (0, `MAX_SECONDS`], or a script that is longer.
    """
    import numpy as np

    from relic.actions import static_actions

    if seconds is None:
        seconds = len(actions) / fps
    if not math.isfinite(seconds) or not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"--seconds is {seconds:g}: give a time above 0, at most {MAX_SECONDS:g}")
    wanted = max(1, round(seconds * fps))
    if len(actions) > wanted:
        raise ValueError(
            f"the actions last {len(actions) / fps:g} s but --seconds is {seconds:g}: "
            "leave --seconds out to play them all, or shorten them"
        )
    return np.concatenate([actions, static_actions(wanted - len(actions))])


def roll_out(
    world: World, picture: Image.Image, prompt: str, actions: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.uint8], CameraPath]:
    """Play actions from a picture.

    Args:
        world: where.
        picture: the start picture.
        prompt: what the place is.
        actions: (N, 13) motions; the last block is filled up with standing still and cut again.
        seed: fixes all noise.

    Returns:
        Frames (N + 1, H, W, 3) uint8, the start picture first, and their poses.
    """
    import numpy as np
    from tqdm import tqdm

    from relic.actions import static_actions
    from relic.camera import CameraPath
    from relic.engine import WorldEngine

    engine = WorldEngine(world)
    size = engine.frames_per_block
    rows = np.concatenate([actions, static_actions(-len(actions) % size)])
    start = engine.start(picture, prompt, seed)
    blocks: list[Future[StepResult]] = []
    with tqdm(total=len(actions), unit="frame", desc="rollout", dynamic_ncols=True) as progress:
        for first in range(0, len(rows), size):
            blocks.append(engine.begin_step(rows[first : first + size]))
            progress.update(min(size, len(actions) - first))
    results = [block.result() for block in blocks]
    frames = [start, *(result.frames for result in results)]
    paths = [CameraPath.identity(), *(result.poses for result in results)]
    length = len(actions) + 1
    return np.concatenate(frames)[:length], CameraPath.concatenate(paths)[:length]


def write_rollout(out: Path, frames: NDArray[np.uint8], poses: CameraPath, world: World) -> tuple[Path, Path, Path]:
    """Write the video, `.poses.json` and the `.png` contact sheet beside it, each whole or not at all."""
    from relic_app.contact_sheet import save_contact_sheet
    from relic_app.video import VideoWriter

    fps = world.config.fps
    poses_path, sheet_path = out.with_suffix(".poses.json"), out.with_suffix(".png")
    writer = VideoWriter(out, width=frames.shape[2], height=frames.shape[1], fps=fps)
    try:
        for frame in frames:
            writer.add(frame)
    except BaseException:
        writer.abandon()
        raise
    writer.close()
    poses.save(poses_path, world.intrinsics)
    save_contact_sheet(sheet_path, frames, fps)
    return out, poses_path, sheet_path
