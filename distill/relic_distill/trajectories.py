"""The teacher's ODE paths, sampled where the student will stand (paper, section 4.4).

Each path is one file: the states of a whole video at the student's noise levels and the clean video at the end.
Files are written whole or not at all, so a stopped run goes on.

Axes: K noise levels, B batch, C latent channels, T latent frames, h, w latent cells, S text tokens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from relic.checkpoint import digest_of, load_checkpoint, read_metadata, save_checkpoint, sha256_of
from relic.config import SamplerConfig
from relic.failures import DamagedFileError
from relic.flow_matching import add_noise, sampling_sigmas
from relic.json_files import write_json
from relic.model.conditioning import CameraConditioning
from relic_distill.bidirectional import sample_video
from relic_distill.causal_loss import ClipBatch
from relic_distill.clip_sampler import join
from relic_distill.devices import moved, on_processor
from relic_distill.loop import step_generator, torch_generator
from relic_distill.world_stage import WorldStage

MANIFEST = "trajectories.json"
_DIGEST = "digest"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryConfig:
    """What is sampled.

    Attributes:
        count: paths.
        frames: latent frames of each video, the start picture's included.
        batch: videos drawn together.
        steps: Euler steps of the teacher; a multiple of `student_steps`.
        student_steps: denoising steps of the student.
        shift: of the noise schedule, the same for both.
        guidance: classifier-free guidance.
        seed: of clips and noise.
    """

    count: int
    frames: int
    batch: int = 4
    steps: int = 24
    student_steps: int = 4
    shift: float = 3.0
    guidance: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.frames < 2 or self.batch < 1 or self.student_steps < 1:
            raise ValueError(
                f"count {self.count}, batch {self.batch}, student_steps {self.student_steps} must be at least 1 and "
                f"frames {self.frames} at least 2"
            )
        if self.steps < 1 or self.steps % self.student_steps:
            raise ValueError(
                f"the teacher's steps {self.steps} must be a multiple of the student's {self.student_steps}"
            )

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Steps of the teacher that begin at a noise level of the student."""
        return tuple(range(0, self.steps, self.steps // self.student_steps))


@dataclass(frozen=True, kw_only=True)
class TrajectoryBatch:
    """Paths side by side.

    Attributes:
        clip: latents are the clean ends; camera and text as they were drawn.
        states: `(K, B, C, T, h, w)` at the student's noise levels, falling.
    """

    clip: ClipBatch
    states: Tensor


def sample_trajectories(
    config: TrajectoryConfig, stage: WorldStage, teacher: Path, trained_frames: int, out: Path, *, progress: bool = True
) -> None:
    """Sample paths of the stage's network from training clips' start pictures and cameras.

    Args:
        config: what to sample.
        stage: whose network is the teacher, and whose data and guides are used.
        teacher: the network's checkpoint, for the record.
        trained_frames: see `BidirectionalContext`.
        out: `out/paths/<number>.safetensors` and `out/trajectories.json`.
        progress: show a bar.

    Raises:
        ValueError: when `out` holds paths of another teacher or configuration.
    """
    stage.train_clips.require(config.frames)
    record = {**asdict(config), "teacher": sha256_of(teacher)}
    manifest = out / MANIFEST
    if manifest.is_file():
        before = json.loads(manifest.read_text(encoding="utf-8"))
        if {**before, "count": config.count} != record:
            raise ValueError(f"{out} holds paths of another teacher or configuration: choose an empty folder")
    paths = out / "paths"
    paths.mkdir(parents=True, exist_ok=True)
    write_json(manifest, record)
    for begin in tqdm(range(0, config.count, config.batch), desc="trajectories", disable=not progress):
        numbers = range(begin, min(begin + config.batch, config.count))
        if all(_path(paths, number).exists() for number in numbers):
            continue
        with on_processor():
            clips = [stage.train_clips.draw(1, config.frames, step_generator(config.seed, n, 5)) for n in numbers]
        batch = moved(join(clips), stage.device)
        generator = torch_generator(config.seed, begin, 6)
        states = sample_video(
            stage.model,
            batch,
            stage.start_guide(batch, generator),
            generator,
            steps=config.steps,
            shift=config.shift,
            keep=config.kept_steps,
            null_text=stage.null_text,
            guidance=config.guidance,
            trained_frames=trained_frames,
        )
        for row, number in enumerate(numbers):
            _write(_path(paths, number), states[:, row], batch, row)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


def _write(target: Path, states: Tensor, batch: ClipBatch, row: int) -> None:
    tensors = {
        "states": states.half(),
        "actions": batch.camera.actions[row],
        "rotations_w2c": batch.camera.rotations_w2c[row],
        "positions": batch.camera.positions[row],
        "text": batch.text[row],
    }
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    save_checkpoint(target, tensors, {"frames": states.shape[2], _DIGEST: digest_of(tensors)})


class TrajectoryDataset:
    """Reader of sampled paths.

    Args:
        root: folder written by `sample_trajectories`.

    Raises:
        FileNotFoundError: when the folder holds none.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = sorted((root / "paths").glob("*.safetensors"))
        if not self.paths:
            raise FileNotFoundError(f"no trajectories in {root}: run `relic distill trajectories --out {root}` first")
        self.frames = int(read_metadata(self.paths[0])["config"]["frames"])
        record = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        self.student_steps, self.shift = int(record["student_steps"]), float(record["shift"])

    def __len__(self) -> int:
        return len(self.paths)

    def draw(self, batch: int, random: np.random.Generator) -> TrajectoryBatch:
        """Random paths.

        Raises:
            DamagedFileError: when a file is damaged; it is named.
        """
        return join_paths([self.get(int(random.integers(len(self.paths)))) for _ in range(batch)])

    def get(self, number: int) -> TrajectoryBatch:
        """One path, as a batch of one; raises as `draw`."""
        path = self.paths[number]
        tensors, values = load_checkpoint(path)
        digest = values.get(_DIGEST)
        if digest is not None and digest != digest_of(tensors):
            raise DamagedFileError(f"{path} does not hold what was written: delete it and sample it again")
        states = tensors["states"].float().unsqueeze(1)
        camera = CameraConditioning(
            actions=tensors["actions"][None],
            rotations_w2c=tensors["rotations_w2c"][None],
            positions=tensors["positions"][None],
        )
        return TrajectoryBatch(
            clip=ClipBatch(latents=states[-1], camera=camera, text=tensors["text"][None]), states=states[:-1]
        )


def join_paths(paths: list[TrajectoryBatch]) -> TrajectoryBatch:
    """Paths of one length as one batch."""
    return TrajectoryBatch(
        clip=join([path.clip for path in paths]), states=torch.cat([path.states for path in paths], dim=1)
    )


def straight_paths(batch: ClipBatch, sampler: SamplerConfig, generator: torch.Generator) -> TrajectoryBatch:
    """Real clips as straight paths from noise, at the student's noise levels: held-out figures need no teacher."""
    eps = torch.randn(batch.latents.shape, generator=generator)
    states = [add_noise(batch.latents, eps, sigma) for sigma in sampling_sigmas(sampler.steps, sampler.shift)[:-1]]
    return TrajectoryBatch(clip=batch, states=torch.stack(states))
