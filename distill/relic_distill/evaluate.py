"""How well a world shows what is really there: rollouts on held-out scenes against their true renders.

From one picture and the true actions the world is rolled out, and compared with the render over the pixels that
earlier frames had seen (co-visible PSNR), on the clip's own path and on an out-and-back path. Beside it stand the
frozen first picture and what the VAE alone can show; for 8-bit memory also the rollouts of the same noise with memory
kept as it is.

Axes: B cases of a batch, T pixel frames, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from relic.camera import actions_from_poses
from relic.config import MemoryPolicy, MemoryStorage
from relic.json_files import write_json
from relic.memory.backends import POLICIES, make_memory
from relic.model.conditioning import camera_conditioning, stack_conditioning
from relic.pictures import frames_to_tensor, tensor_to_frames
from relic.precision import Precision
from relic.rollout import rollout
from relic.world import World
from relic_data.clips import FPS, ClipDataset, clip_frames
from relic_distill.covisible import covisible_mask, earlier_frames, psnr
from relic_distill.held_out import Case, Frames, forward_case, out_and_back_case
from relic_distill.images import contact_sheet, save_picture

PSNR_CAP = 60.0
"""dB given to pictures that are the same, so that a mean stays finite."""
_SHEET_CASES, _SHEET_COLUMNS = 6, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """What `relic eval` measures.

    Attributes:
        split: scenes to score on.
        clips: clips at most.
        seconds: length of the rollouts.
        moments: when to score, seconds, none after the end.
        policies: memory policies to compare.
        storage: how keys and values outside the window are kept; None for the world's own way. For `fp8` the rollouts
            are also compared with those of the same noise under `float`.
        steps: denoising steps; None for the world's own number.
        batch: clips rolled out together.
        seed: of the noise.
        precision: of the networks; by default, that in which the world is played here.
    """

    split: str = "test"
    clips: int = 64
    seconds: float = 5.0
    moments: tuple[float, ...] = (1.0, 2.0, 5.0)
    policies: tuple[MemoryPolicy, ...] = ("compressed", "window")
    storage: MemoryStorage | None = None
    steps: int | None = None
    batch: int = 8
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.clips < 1 or self.batch < 1:
            raise ValueError(f"clips {self.clips} and batch {self.batch} must be at least 1")
        if not self.moments or min(self.moments) < 0.25 or round(max(self.moments) * FPS) >= clip_frames(self.seconds):
            raise ValueError(f"moments {self.moments} must lie between 0.25 and {self.seconds} seconds")
        unknown = set(self.policies) - set(POLICIES)
        if unknown:
            raise ValueError(f"unknown memory policies {sorted(unknown)}: choose from {sorted(POLICIES)}")
        if self.storage is not None and self.storage not in typing.get_args(MemoryStorage):
            raise ValueError(f"storage {self.storage!r} is not one of {typing.get_args(MemoryStorage)}")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Co-visible PSNR at chosen moments, averaged over cases.

    Attributes:
        label: what was shown.
        seconds: the moments.
        psnr: dB over the pixels whose surface the start picture had shown: what a world can know. Between two rollouts,
            over all pixels.
        psnr_walk: dB over the pixels whose surface any earlier true frame had shown; the world had to invent some.
            Between two rollouts, over all pixels.
        sharpness: root mean square difference of neighbouring pixels, as a share of the true frames'.
        contrast: standard deviation of the pixels, as a share of the true frames'; it grows where colours drift.
        cases: cases with such pixels, at each moment.
    """

    label: str
    seconds: tuple[float, ...]
    psnr: tuple[float, ...]
    psnr_walk: tuple[float, ...]
    sharpness: tuple[float, ...]
    contrast: tuple[float, ...]
    cases: tuple[int, ...]


Onlooker = Callable[[Case, Frames], None]


class _Sheet:
    """The first rollouts that it sees, each below its truth."""

    def __init__(self) -> None:
        self._rows: list[list[NDArray[np.uint8]]] = []

    def __call__(self, case: Case, shown: Frames) -> None:
        step = max(1, (len(shown) - 1) // _SHEET_COLUMNS)
        if len(self._rows) < 2 * _SHEET_CASES:
            self._rows += [list(case.frames[::step]), list(shown[::step])]

    def save(self, path: Path) -> None:
        """Write the sheet as PNG."""
        save_picture(path, contact_sheet(self._rows))


def with_memory(world: World, policy: MemoryPolicy, storage: MemoryStorage | None = None) -> World:
    """The same networks under another memory policy; stored in the world's own way where none is named."""
    kept = storage or world.config.memory.storage
    memory = dataclasses.replace(world.config.memory, policy=policy, storage=kept)
    return world.with_config(dataclasses.replace(world.config, memory=memory))


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
    screen, film = world.screen(len(cases)), _Film()
    for _ in rollout(world.model, memory, latent, camera, text, config.sampler, generator, screen, spectator=film):
        pass
    return tensor_to_frames(torch.cat(film.pixels, dim=2))


class _Film:
    """The rollout's spectator that keeps what the screen shows."""

    def __init__(self) -> None:
        self.pixels: list[Tensor] = []

    def passed(self, step: int, sigma: Tensor, latents: Tensor) -> Tensor:
        """See `relic.rollout.Spectator.passed`."""
        return latents

    def shown(self, pixels: Tensor) -> None:
        """See `relic.rollout.Spectator.shown`."""
        self.pixels.append(pixels)


@torch.inference_mode()
def reconstruct(world: World, cases: Sequence[Case]) -> Frames:
    """What the VAE makes of the true frames: the best any rollout could show."""
    return tensor_to_frames(
        world.vae.decode(world.vae.encode(torch.stack([frames_to_tensor(case.frames) for case in cases])))
    )


def score_case(case: Case, shown: Frames, world: World, moments: Sequence[float], *, walk: bool) -> list[float]:
    """Co-visible PSNR in dB of one case at each moment (seconds), over the four frames that end there.

    Args:
        case: the truth.
        shown: `(T, H, W, 3)` frames to judge.
        world: whose camera and frame rate count.
        moments: seconds after the start.
        walk: count surfaces that any earlier true frame had shown, else those of the start picture only.

    Returns:
        One figure a moment, at most 60 dB; NaN where no pixel had been seen before.
    """
    values = []
    pixel = world.config.model.frames_per_latent
    for group in _frames_at(world, moments):
        earlier = earlier_frames(group[0], pixel) if walk else (0,)
        masks = [covisible_mask(case.depth, case.path, world.intrinsics, frame, earlier) for frame in group]
        values.append(min(PSNR_CAP, psnr(shown[list(group)], case.frames[list(group)], np.stack(masks))))
    return values


def look_of_case(case: Case, shown: Frames, world: World, moments: Sequence[float]) -> tuple[list[float], list[float]]:
    """Sharpness and contrast of one case at each moment, as shares of the truth's; arguments as `score_case`'s."""
    sharpness, contrast = [], []
    for group in _frames_at(world, moments):
        told, true = (film[list(group)].astype(np.float32) for film in (shown, case.frames))
        sharpness.append(_edges(told) / max(_edges(true), 1e-3))
        contrast.append(float(told.std()) / max(float(true.std()), 1e-3))
    return sharpness, contrast


def likeness(shown: Frames, other: Frames, world: World, moments: Sequence[float]) -> list[float]:
    """PSNR in dB between two films `(T, H, W, 3)` over all pixels, at each moment as in `score_case`; at most 60 dB."""
    return [min(PSNR_CAP, psnr(shown[list(group)], other[list(group)])) for group in _frames_at(world, moments)]


def _edges(frames: NDArray[np.float32]) -> float:
    """Root mean square difference of neighbouring pixels of `(T, H, W, 3)`; a mean would not notice a blurred step."""
    across, down = np.diff(frames, axis=2), np.diff(frames, axis=1)
    return float(np.sqrt(np.square(across).mean() + np.square(down).mean()))


def _frames_at(world: World, moments: Sequence[float]) -> list[range]:
    """For each moment (seconds), the four pixel frames that end there."""
    pixel, fps = world.config.model.frames_per_latent, world.config.fps
    return [range(round(moment * fps) - pixel + 1, round(moment * fps) + 1) for moment in moments]


def evaluate(
    world: World,
    cases: Sequence[Case],
    moments: Sequence[float],
    *,
    batch: int = 8,
    seed: int = 0,
    reference: World | None = None,
    onlooker: Onlooker | None = None,
) -> list[Score]:
    """Score a world, its VAE and the frozen first picture on the same cases.

    Args:
        world: the world with its memory policy.
        cases: of one length, at least the last moment long.
        moments: seconds after the start.
        batch: cases rolled out together.
        seed: of the noise.
        reference: a world whose rollouts of the same noise the world's are compared with.
        onlooker: sees every case and the world's rollout of it, in their order.

    Returns:
        One score each for the world, the world beside the reference where there is one, the VAE's reconstruction and
        the frozen picture.
    """
    name = _name(world)
    beside: tuple[str, ...] = () if reference is None else (f"{name} beside {_name(reference)}",)
    rows: dict[str, list[list[list[float]]]] = {label: [] for label in (name, *beside, "vae", "frozen")}
    for group in tqdm(list(_batches(cases, batch)), desc=f"evaluate {world.config.memory.policy}"):
        frozen = np.stack([np.repeat(case.frames[:1], len(case.frames), axis=0) for case in group])
        shown = roll_out(world, group, seed)
        if onlooker is not None:
            for case, frames in zip(group, shown, strict=True):
                onlooker(case, frames)
        for label, film in ((name, shown), ("vae", reconstruct(world, group)), ("frozen", frozen)):
            rows[label] += [
                [
                    *(score_case(case, frames, world, moments, walk=walk) for walk in (False, True)),
                    *look_of_case(case, frames, world, moments),
                ]
                for case, frames in zip(group, film, strict=True)
            ]
        if reference is not None:
            for case, frames, other in zip(group, shown, roll_out(reference, group, seed), strict=True):
                look = look_of_case(dataclasses.replace(case, frames=other), frames, world, moments)
                rows[beside[0]].append([*[likeness(frames, other, world, moments)] * 2, *look])
    return [_mean_score(label, moments, np.array(scores)) for label, scores in rows.items()]


def _name(world: World) -> str:
    memory = world.config.memory
    return f"world ({memory.policy}{', fp8' if memory.storage == 'fp8' else ''})"


def _mean_score(label: str, moments: Sequence[float], values: NDArray[np.float64]) -> Score:
    """Means over cases of `(cases, 4, moments)` figures; a moment nobody could be scored at is NaN."""
    known = np.isfinite(values)
    means = np.where(known, values, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return Score(
        label=label,
        seconds=tuple(moments),
        psnr=tuple(means[0].tolist()),
        psnr_walk=tuple(means[1].tolist()),
        sharpness=tuple(means[2].tolist()),
        contrast=tuple(means[3].tolist()),
        cases=tuple(known[:, 0].sum(axis=0).tolist()),
    )


def evaluate_world(config: EvalConfig, data: Path, weights: Path | None, out: Path | None) -> str:
    """Score a weights folder on held-out clips, on their own paths and out and back.

    Args:
        config: what to measure.
        data: folder written by `relic data render`.
        weights: weights folder; None for the shipped one.
        out: JSON file for the scores; a contact sheet of the first cases, under the first policy, goes beside it.

    Returns:
        A table in Markdown.

    Raises:
        ValueError: when the split is empty or its clips are too short.
        FileNotFoundError: when the folder of `out` does not exist.
    """
    if out is not None and not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} for the scores: make it first")
    world = World.load(weights, precision=config.precision).with_steps(config.steps)
    clips = list(ClipDataset(data, config.split, validate=False))[: config.clips]
    if not clips:
        raise ValueError(f"{data} has no clips of split {config.split!r}: render scenes up to a multiple of 20")
    frames = clip_frames(config.seconds)
    lines = [f"| path | shown | {' | '.join(f'{moment:g} s' for moment in config.moments)} | clips |"]
    lines.append("|---" * (3 + len(config.moments)) + "|")
    results = []
    for kind, make in (("forward", forward_case), ("out and back", out_and_back_case)):
        cases = [make(clip, frames) for clip in clips]
        sheet = _Sheet()
        for number, policy in enumerate(config.policies):
            judged = with_memory(world, policy, config.storage)
            scores = evaluate(
                judged,
                cases,
                config.moments,
                batch=config.batch,
                seed=config.seed,
                reference=with_memory(world, policy, "float") if config.storage == "fp8" else None,
                onlooker=sheet if number == 0 else None,
            )
            for score in scores if number == 0 else scores[:-2]:
                lines.append(f"| {kind} | {score.label} | {_row(score)} | {min(score.cases)} |")
                results.append({"path": kind, **dataclasses.asdict(score)})
        if out is not None:
            sheet.save(out.with_name(f"{out.stem}-{kind.replace(' ', '-')}.png"))
    if out is not None:
        write_json(out, {"config": dataclasses.asdict(config), "scores": results})
    lines += [
        "",
        "dB over pixels that the start picture had shown (in brackets: that any earlier frame had shown); then "
        "sharpness and contrast as shares of the truth's. Beside another rollout of the same noise: dB over all "
        "pixels, shares of the other's.",
    ]
    return "\n".join(lines)


def _row(score: Score) -> str:
    columns = zip(score.psnr, score.psnr_walk, score.sharpness, score.contrast, strict=True)
    return " | ".join(
        f"{start:.2f} ({walk:.2f}), {sharpness:.2f}, {contrast:.2f}" for start, walk, sharpness, contrast in columns
    )


def _batches(cases: Sequence[Case], size: int) -> Iterator[Sequence[Case]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]
