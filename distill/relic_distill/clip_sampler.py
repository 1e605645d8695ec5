"""Batches of encoded clips, addressed by step number."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from relic.actions import static_actions
from relic.model.conditioning import camera_conditioning, stack_conditioning
from relic.text import TextEncoder
from relic_data.encode import LatentClip, LatentDataset
from relic_distill.causal_loss import ClipBatch

_CACHED_CLIPS = 4096


class ClipSampler:
    """Draws runs of latent frames from encoded clips; each run is a rollout of its own, begun by a picture.

    Args:
        dataset: encoded clips of one split.
        text_encoder: encodes captions.
        frames_per_latent: pixel frames of a latent frame.

    Raises:
        ValueError: when the split is empty.
    """

    def __init__(self, dataset: LatentDataset, text_encoder: TextEncoder, frames_per_latent: int) -> None:
        if len(dataset) == 0:
            raise ValueError(f"no encoded clips in {dataset.root}: run `relic data encode` first")
        self.dataset = dataset
        self._text_encoder = text_encoder
        self._pixel = frames_per_latent
        self._clip = lru_cache(maxsize=_CACHED_CLIPS)(dataset.get)
        self._text = lru_cache(maxsize=_CACHED_CLIPS)(self._encode_text)

    def draw(self, batch: int, num_frames: int, random: np.random.Generator) -> ClipBatch:
        """`batch` runs of `num_frames` latent frames from random clips and places.

        Raises:
            ValueError: when no clip is that long.
        """
        fitting = self._long_enough(num_frames)
        runs = []
        for _ in range(batch):
            clip = self._clip(int(random.choice(fitting)))
            runs.append(self.run(clip, int(random.integers(clip.num_frames - num_frames + 1)), num_frames))
        return join(runs)

    def run(self, clip: LatentClip, start: int, num_frames: int) -> ClipBatch:
        """The run that begins at latent frame `start`: its first latent is that of the picture alone."""
        first = start * self._pixel
        frames = slice(first, first + 1 + self._pixel * (num_frames - 1))
        path = clip.path[frames].rebased()
        actions = np.array(clip.actions[frames])
        actions[0] = static_actions(1)
        latents = torch.cat([clip.pictures[start : start + 1], clip.latents[start + 1 : start + num_frames]])
        caption = clip.captions[min(len(clip.captions) - 1, clip.caption_index[start])]
        return ClipBatch(
            latents=latents.float().transpose(0, 1)[None],
            camera=camera_conditioning(actions, path, self._pixel),
            text=self._text(caption)[None],
        )

    def require(self, num_frames: int) -> None:
        """Check that some clip has `num_frames` latent frames.

        Raises:
            ValueError: when none has; it says how long they are.
        """
        self._long_enough(num_frames)

    @lru_cache(maxsize=16)  # noqa: B019 - samplers live as long as the process
    def _long_enough(self, num_frames: int) -> tuple[int, ...]:
        lengths = self.dataset.lengths
        fitting = tuple(index for index, length in enumerate(lengths) if length >= num_frames)
        if not fitting:
            raise ValueError(f"no clip has {num_frames} latent frames; the longest has {max(lengths)}: render longer")
        return fitting

    def _encode_text(self, caption: str) -> Tensor:
        return self._text_encoder.encode([caption])[0]


def join(runs: list[ClipBatch]) -> ClipBatch:
    """Runs of one length as one batch."""
    return ClipBatch(
        latents=torch.cat([run.latents for run in runs]),
        camera=stack_conditioning([run.camera for run in runs]),
        text=torch.cat([run.text for run in runs]),
    )
