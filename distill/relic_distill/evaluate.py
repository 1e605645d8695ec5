"""How well a world shows what is really there: rollouts on held-out scenes against their true renders.

From one picture and the true actions the world is rolled out, and compared with the render over the pixels that
earlier frames had seen (co-visible PSNR), on the clip's own path and on an out-and-back path. Beside it stand the
frozen first picture and what the VAE alone can show.

Axes: B cases of a batch, T pixel frames, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from relic_data.clips import Clip
from tqdm import tqdm

from relic.camera import CameraPath, actions_from_poses
from relic.config import MemoryPolicy
from relic.memory.backends import make_memory
from relic.model.conditioning import camera_conditioning, stack_conditioning
from relic.pictures import frames_to_tensor, tensor_to_frames
from relic.rollout import rollout
from relic.world import World
from relic_distill.covisible import covisible_mask, psnr

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


@dataclass(frozen=True, kw_only=True)
class Score:
    """Co-visible PSNR in dB at chosen moments, averaged over cases; `cases` were counted."""

    label: str
    seconds: tuple[float, ...]
    psnr: tuple[float, ...]
    cases: int


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


def with_memory(world: World, policy: MemoryPolicy) -> World:
    """The same networks under another memory policy."""
    memory = dataclasses.replace(world.config.memory, policy=policy)
    return World(dataclasses.replace(world.config, memory=memory), world.model, world.vae, world.text_encoder)


@torch.inference_mode()
def roll_out(world: World, cases: Sequence[Case], seed: int) -> Frames:
    """Frames of the world along each case's path: `(B, T, H, W, 3)`; all cases have one length."""
    config = world.config
    camera = stack_conditioning(
        [
            camera_conditioning(actions_from_poses(case.path), case.path, config.model.frames_per_latent)
            for case in cases
        ]
    )
    first = torch.stack([frames_to_tensor(case.frames[:1]) for case in cases])
    latent = world.vae.encode(first)
    text = world.model.encode_text(world.text_encoder.encode([case.prompt for case in cases]))
    memory = make_memory(config.memory, config.model)
    generator = torch.Generator().manual_seed(seed)
    blocks = rollout(world.model, memory, latent, camera, text, config.sampler, generator)
    return tensor_to_frames(world.vae.decode(torch.cat([latent, *blocks], dim=2)))


@torch.inference_mode()
def reconstruct(world: World, cases: Sequence[Case]) -> Frames:
    """What the VAE makes of the true frames: the best any rollout could show."""
    return tensor_to_frames(
        world.vae.decode(world.vae.encode(torch.stack([frames_to_tensor(case.frames) for case in cases])))
    )


def score_case(case: Case, shown: Frames, world: World, moments: Sequence[float]) -> list[float]:
    """Co-visible PSNR in dB of one case at each moment (seconds), over the four frames that end there.

    NaN where no pixel had been seen before.
    """
    pixel, fps = world.config.model.frames_per_latent, world.config.fps
    values = []
    for moment in moments:
        last = round(moment * fps)
        group = range(last - pixel + 1, last + 1)
        masks = [
            covisible_mask(case.depth, case.path, world.intrinsics, frame, range(0, group[0], pixel)) for frame in group
        ]
        values.append(psnr(shown[list(group)], case.frames[list(group)], np.stack(masks)))
    return values


def evaluate(
    world: World, cases: Sequence[Case], moments: Sequence[float], *, batch: int = 8, seed: int = 0
) -> list[Score]:
    """Score a world, its VAE and the frozen first picture on the same cases.

    Args:
        world: the world with its memory policy.
        cases: of one length, at least the last moment long.
        moments: seconds after the start.
        batch: cases rolled out together.
        seed: of the noise.

    Returns:
        One score each for the world, the VAE's reconstruction and the frozen picture.
    """
    rows: dict[str, list[list[float]]] = {f"world ({world.config.memory.policy})": [], "vae": [], "frozen": []}
    for group in tqdm(list(_batches(cases, batch)), desc=f"evaluate {world.config.memory.policy}"):
        frozen = np.stack([np.repeat(case.frames[:1], len(case.frames), axis=0) for case in group])
        films = (roll_out(world, group, seed), reconstruct(world, group), frozen)
        for scores, film in zip(rows.values(), films, strict=True):
            scores += [score_case(case, shown, world, moments) for case, shown in zip(group, film, strict=True)]
    return [
        Score(
            label=label,
            seconds=tuple(moments),
            psnr=tuple(float(value) for value in np.nanmean(np.array(scores), axis=0)),
            cases=len(scores),
        )
        for label, scores in rows.items()
    ]


def _batches(cases: Sequence[Case], size: int) -> Iterator[Sequence[Case]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]
