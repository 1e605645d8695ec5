"""Film one scene: build and light it, plan paths, draw the pictures, write clips that are complete or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relic.camera import CameraPath, actions_from_poses
from relic.failures import WorkFailedError
from relic.intrinsics import Intrinsics
from relic_data.bake import bake
from relic_data.captions import caption, room_at, visible
from relic_data.clips import FOV, FPS, HEIGHT, WIDTH, clip_name, is_complete, split_of
from relic_data.palette import Rng
from relic_data.paths import PathError, PathPlanner, PlannedPath
from relic_data.renderer import Renderer
from relic_data.rooms import build_scene, scene_rng
from relic_data.scene import Scene
from relic_data.views import ViewProbe

PROBES = 8
SEGMENT_SECONDS = 5
VARIANTS = 5
TEXTURE_CREDIT = "Textures and portraits: MiniWorld 2.1.0 (Farama Foundation), Apache-2.0 / MIT"


class DiskFullError(WorkFailedError):
    """The disk is full; complete clips are kept and the same call goes on where it stopped."""


class StoppedError(RuntimeError):
    """Rendering was asked to stop in the middle of a clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One scene's work: ``clip_count`` clips of ``frames`` frames, written into the folder ``clips``."""

    clips: Path
    seed: int
    scene: int
    frames: int
    clip_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a job did: the scene, the frames drawn now, and the seconds that drawing and writing took."""

    scene: int
    frames: int
    seconds: float


def never() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A scene ready to be filmed: variant 0, or a later one where the first was too cramped to move in."""

    scene: Scene
    planner: PathPlanner
    variant: int


class Filmer:
    """Films scenes one after another with one renderer. ``stop`` is asked at every frame."""

    def __init__(self, stop: Callable[[], bool] = never) -> None:
        self.renderer = Renderer()
        self.stop = stop

    def close(self) -> None:
        """Free the renderer's buffer."""
        self.renderer.close()

    def film_scene(self, job: Job) -> Done:
        """Render the clips of a scene that are not complete yet.

        Raises:
            PathError: no variant of the scene has room for a path.
            DiskFullError: no space left.
            StoppedError: asked to stop.
        """
        missing = [k for k in range(job.clip_count) if not is_complete(job.clips / clip_name(job.scene, k))]
        start = time.monotonic()
        stage = self.stage(job, 0)
        for k in missing:
            for variant in range(VARIANTS):
                rng = scene_rng(job.seed, job.scene, 100 + k + 10_000 * variant)
                if stage.variant != variant:
                    stage = self.stage(job, variant)
                try:
                    planned = stage.planner.plan(rng, job.frames)
                except PathError:
                    if variant == VARIANTS - 1:
                        raise
                    continue
                with clip_folder(job.clips / clip_name(job.scene, k)) as draft:
                    self._film(job, stage, planned, rng, draft)
                break
        return Done(scene=job.scene, frames=len(missing) * job.frames, seconds=time.monotonic() - start)

    def stage(self, job: Job, variant: int) -> Stage:
        """Build, light and expose a variant of the job's scene, and load it into the renderer."""
        scene = build_scene(job.seed, job.scene, variant)
        planner = PathPlanner(scene, ViewProbe(scene))
        self.renderer.load(scene, bake(scene))
        expose(self.renderer, scene, planner, scene_rng(job.seed, job.scene, 1))
        return Stage(scene=scene, planner=planner, variant=variant)

    def _film(self, job: Job, stage: Stage, planned: PlannedPath, rng: Rng, draft: Path) -> None:
        world = planned.world
        frames = np.empty((job.frames, HEIGHT, WIDTH, 3), np.uint8)
        depth = np.empty((job.frames, HEIGHT, WIDTH), np.float16)
        for t in range(job.frames):
            if self.stop():
                raise StoppedError(f"stopped in clip {draft.name}")
            frames[t], depth[t] = self.renderer.render(world.rotations_w2c[t], world.positions[t])
        captions, named = describe(stage, world, rng)
        path = planned.clip_path()
        k = Intrinsics.from_fov(FOV, WIDTH, HEIGHT)
        np.savez(
            draft / "poses.npz",
            rotations_w2c=path.rotations_w2c,
            positions=path.positions,
            intrinsics=np.array([k.fx, k.fy, k.cx, k.cy]),
        )
        np.save(draft / "frames.npy", frames)
        np.save(draft / "depth.npy", depth)
        np.save(draft / "actions.npy", actions_from_poses(path).astype(np.float32))
        content = {
            "captions": captions,
            "split": split_of(job.scene),
            "scene": job.scene,
            "seed": job.seed,
            "path_kind": list(planned.kinds),
            "rooms": [r.kind for r in stage.scene.rooms],
            "objects": named,
            "credits": [*sorted({o.credit for o in stage.scene.objects if o.credit}), TEXTURE_CREDIT],
        }
        write_text(draft / "clip.json", json.dumps(content, indent=1))


def describe(stage: Stage, world: CameraPath, rng: Rng) -> tuple[list[str], list[str]]:
    """A caption for each 5 seconds of a path, and the phrases of the objects they are about."""
    captions, named = [], []
    step = SEGMENT_SECONDS * FPS
    for low in range(0, max(1, len(world) - 1), step):
        pick = np.arange(low, min(low + step, len(world)), 8)
        views = stage.planner.probe.looks(world.rotations_w2c[pick], world.positions[pick])
        room = room_at(stage.scene, np.median(world.positions[pick], axis=0).tolist())
        captions.append(caption(stage.scene, rng, room, views))
        named += visible(stage.scene, views)
    return captions, [stage.scene.objects[i].phrase for i in dict.fromkeys(named)]


def expose(renderer: Renderer, scene: Scene, planner: PathPlanner, rng: Rng) -> None:
    """Set the exposure so that pictures from possible start poses have the scene's median luminance."""
    poses = [p for p in (planner.start(rng) for _ in range(PROBES)) if p is not None]
    gain = 1.0
    for _ in range(4 if poses else 0):
        renderer.exposure(gain, scene.balance)
        pictures = [renderer.render(p.rotation_w2c, p.position)[0] for p in poses]
        level = float(np.median(np.stack(pictures) @ np.array([0.3, 0.59, 0.11]))) / 255
        gain = float(np.clip(gain * (scene.brightness / max(level, 0.02)) ** 1.8, 0.05, 20.0))
    renderer.exposure(gain, scene.balance)


@contextlib.contextmanager
def clip_folder(folder: Path) -> Iterator[Path]:
    """A draft folder that becomes ``folder`` when the block ends well, and vanishes when it does not.

    Raises:
        DiskFullError: the block or the renaming ran out of space.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        yield draft
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no space left for {folder}: free some and run the same command again; complete clips are kept"
            ) from error
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sweep_drafts(clips: Path) -> None:
    """Remove the drafts in the folder ``clips`` that killed processes left behind."""
    for draft in clips.glob(".*.*"):
        owner = draft.name.rsplit(".", 1)[-1]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(draft, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and put it in place at once."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
