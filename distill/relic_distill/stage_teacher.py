"""Training of the bidirectional teacher: whole videos at one noise level, growing in length (paper, section 4.1).

Contexts longer than the first phase's are read through YaRN, so that what was learned of time stays true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from relic.checkpoint import read_metadata, save_checkpoint
from relic.config import to_json
from relic_distill.bidirectional import DropConfig, drop_conditions, sample_video, video_loss
from relic_distill.causal_loss import ClipBatch
from relic_distill.world_stage import Ingredients, WorldStage, WorldTrainConfig, new_network

TRAINED_FRAMES = "trained_frames"
"""Name in a teacher's metadata of the context that its rotary frequencies are meant for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherTrainConfig(WorldTrainConfig):
    """A complete run of the teacher.

    Attributes:
        drop: conditions left out.
        sample_steps: passes of a held-out video.
        guidance: classifier-free guidance of held-out videos.
    """

    drop: DropConfig = field(default_factory=DropConfig)
    sample_steps: int = 12
    guidance: float = 1.5

    def __post_init__(self) -> None:
        WorldTrainConfig.__post_init__(self)
        if self.sample_steps < 1:
            raise ValueError(f"sample_steps {self.sample_steps} must be at least 1")

    @property
    def trained_frames(self) -> int:
        """Latent frames of the first phase: the context that rotary frequencies are meant for."""
        return self.phases[0].frames


class TeacherStage(WorldStage):
    """The bidirectional teacher's training for the harness."""

    def __init__(self, config: TeacherTrainConfig, given: Ingredients, init: Path | None) -> None:
        super().__init__(config, given, new_network(config, init))
        self.teacher = config

    def loss(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Flow matching of whole videos, some without prompt or actions."""
        dropped = drop_conditions(batch, self.teacher.drop, self.null_text, generator)
        guide = self.start_guide(batch, generator)
        return video_loss(self.model, dropped, self.config.noise, generator, guide, self.teacher.trained_frames)

    def show(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Held-out videos with guidance."""
        config = self.teacher
        return sample_video(
            self.model,
            batch,
            self.start_guide(batch, generator),
            generator,
            steps=config.sample_steps,
            shift=config.world.sampler.shift,
            null_text=self.null_text,
            guidance=config.guidance,
            trained_frames=config.trained_frames,
        )[-1]

    def export(self, path: Path) -> None:
        """The averaged weights, and the context their rotary frequencies are meant for."""
        extra = {"vae": self.vae_digest, TRAINED_FRAMES: str(self.teacher.trained_frames)}
        save_checkpoint(path, self.averages["model"].state_dict(), to_json(self.config.world), extra)


def is_bidirectional(checkpoint: Path) -> bool:
    """Whether exported weights are a bidirectional teacher's; every other export plays block by block.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no checkpoint of ours.
    """
    return TRAINED_FRAMES in read_metadata(checkpoint)


def trained_frames_of(checkpoint: Path) -> int:
    """The context that a teacher's rotary frequencies are meant for.

    Raises:
        ValueError: when the checkpoint is no teacher's.
    """
    found = read_metadata(checkpoint).get(TRAINED_FRAMES)
    if found is None:
        raise ValueError(f"{checkpoint} is no teacher: name the export of `relic distill teacher`")
    return int(found)
