"""Batches of encoded clips, addressed by step number."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from relic.actions import static_actions
from relic.model.conditioning import camera_conditioning, stack_conditioning
from relic.reprojection.warp import Views
from relic.text import TextEncoder
from relic_data.encode import LatentDataset
from relic_distill.causal_loss import ClipBatch

_CACHED_CLIPS = 4096

Shower = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Still latents `(L, C, h, w)` -> their pictures, uint8 `(L, 3, H, W)`, and z-depth, float16 `(L, H, W)`."""


class ClipSampler:
    """Draws runs of latent frames from encoded clips; each run is a rollout of its own, begun by a picture.

    Args:
        dataset: encoded clips of one split.
        text_encoder: encodes captions.
        frames_per_latent: pixel frames of a latent frame.
        shower: shows latent frames, for a world with a guide; see `relic_distill.seen_views`.
        extra_views: views of a run taken from anywhere in its clip.

    Raises:
        ValueError: when the split is empty.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        text_encoder: TextEncoder,
        frames_per_latent: int,
        shower: Shower | None = None,
        extra_views: int = 0,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError(f"no encoded clips in {dataset.root}: run `relic data encode` first")
        self.dataset = dataset
        self._text_encoder = text_encoder
        self._pixel = frames_per_latent
        self._shower, self._extra = shower, extra_views
        self._seen = lru_cache(maxsize=_CACHED_CLIPS)(self._see)
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
            index = int(random.choice(fitting))
            start = int(random.integers(self._clip(index).num_frames - num_frames + 1))
            runs.append(self.run(index, start, num_frames, random))
        return join(runs)

    def run(self, index: int, start: int, num_frames: int, random: np.random.Generator) -> ClipBatch:
        """The run of clip `index` from latent frame `start` on; its first latent is that of the picture alone."""
        clip = self._clip(index)
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
            views=None if self._shower is None else self._views(index, start, num_frames, random),
        )

    def _views(self, index: int, start: int, num_frames: int, random: np.random.Generator) -> Views:
        """Views at the end of the run's latent frames, then some from anywhere in the clip, in the run's world."""
        clip = self._clip(index)
        others = random.integers(clip.num_frames, size=self._extra)
        chosen = np.concatenate([np.arange(start, start + num_frames), others])
        path = clip.path.rebased(start * self._pixel)[:: self._pixel]
        pictures, depth = self._seen(index)
        return Views(
            pictures=pictures[chosen][None].float().div(127.5).sub(1.0),
            depth=depth[chosen][None].float(),
            rotations_w2c=torch.from_numpy(path.rotations_w2c[chosen]).float()[None],
            positions=torch.from_numpy(path.positions[chosen]).float()[None],
        )

    def _see(self, index: int) -> tuple[Tensor, Tensor]:
        """Every latent frame's picture and depth."""
        assert self._shower is not None
        return self._shower(self._clip(index).pictures)

    def see_all(self) -> None:
        """Make or read pictures and depth of every clip; nothing for a world without a guide."""
        if self._shower is not None:
            for index in range(len(self.dataset)):
                self._seen(index)

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
        views=_join_views([run.views for run in runs if run.views is not None]),
    )


def _join_views(views: list[Views]) -> Views | None:
    if not views:
        return None
    return Views(
        pictures=torch.cat([view.pictures for view in views]),
        depth=torch.cat([view.depth for view in views]),
        rotations_w2c=torch.cat([view.rotations_w2c for view in views]),
        positions=torch.cat([view.positions for view in views]),
    )
