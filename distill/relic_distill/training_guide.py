"""Guides for training: what a run's earlier pictures, and some others of its clip, show of each of its blocks.

Play guides a block by the picture before it and by a remembered one (see `relic.screen`). A short run has little to
remember, so pictures from anywhere in the clip stand in for a longer past; and as a world paints less cleanly than
the renderer, views are spoiled by random blur, noise and fading.

Axes: B runs, K known views of a run, N cases (blocks of all runs), S views of a case, G guide channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relic.model.conditioning import CameraConditioning
from relic.precision import full_precision
from relic.reprojection.guide import Reprojector
from relic.reprojection.view_memory import ViewFinder
from relic.reprojection.warp import Views
from relic_distill.spoiling import spoil_pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class GuideConfig:
    """What training makes of guides.

    Attributes:
        extra_views: pictures from anywhere in the clip that a run may remember.
        extra_chance: chance of a block to be allowed to.
        memory_chance: chance of a block to have a remembered view at all.
        swap_chance: chance that the remembered view paints first.
        drop_chance: chance of a run to be trained without guide.
        spoil: strength of blur, noise and fading put on views, see `spoil_pictures`.
    """

    extra_views: int = 8
    extra_chance: float = 0.5
    memory_chance: float = 0.75
    swap_chance: float = 0.5
    drop_chance: float = 0.05
    spoil: float = 0.4

    def __post_init__(self) -> None:
        if self.extra_views < 0 or self.spoil < 0:
            raise ValueError(f"extra_views {self.extra_views} and spoil {self.spoil} must not be negative")
        for name in ("extra_chance", "memory_chance", "swap_chance", "drop_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1]")


class TrainingGuide:
    """Makes the guides of whole batches.

    Args:
        reprojector: networks, camera and tolerance.
        finder: chooses the remembered view, as in play.
        config: chances.
        block_frames: latent frames of a block.
    """

    def __init__(self, reprojector: Reprojector, finder: ViewFinder, config: GuideConfig, block_frames: int) -> None:
        self._reprojector, self._finder = reprojector, finder
        self._config, self._block = config, block_frames

    @torch.no_grad()
    @full_precision()
    def __call__(self, views: Views, camera: CameraConditioning, generator: torch.Generator) -> Tensor:
        """Guides of every latent frame after the first, from each block's own past.

        Args:
            views: `(B, K)` known views: first those at the end of the run's own latent frames, then others.
            camera: control of the run's T latent frames.
            generator: of all chances.

        Returns:
            `(B, G, T - 1, h, w)`; all zero for a run without guide.
        """
        config = self._config
        run, start = self._cases(camera)

        def toss(chance: float) -> Tensor:
            return torch.rand(len(run), generator=generator) < chance

        remembered = self._remembered(views, camera, run, start, toss(config.extra_chance))
        remembered = torch.where(toss(config.memory_chance), remembered, start - 1)
        case_views = self._pick(views, run, torch.stack([start - 1, remembered], dim=1), generator)
        first = (toss(config.swap_chance) & (remembered != start - 1)).long()
        order = torch.stack([first, 1 - first], dim=1)
        return self._drop(self._guides(case_views, camera, run, start, order), generator)

    @torch.no_grad()
    @full_precision()
    def from_start(self, views: Views, camera: CameraConditioning, generator: torch.Generator) -> Tensor:
        """Guides of every latent frame after the first, from the start picture alone; arguments as `__call__`'s."""
        run, start = self._cases(camera)
        case_views = self._pick(views, run, torch.zeros_like(start).unsqueeze(1), generator)
        return self._drop(self._guides(case_views, camera, run, start, None), generator)

    def _cases(self, camera: CameraConditioning) -> tuple[Tensor, Tensor]:
        """Run and first latent frame of every block after the first latent frame."""
        runs, frames = camera.positions.shape[:2]
        starts = torch.arange(1, frames, self._block)
        return torch.arange(runs).repeat_interleave(len(starts)), starts.repeat(runs)

    def _guides(
        self, case_views: Views, camera: CameraConditioning, run: Tensor, start: Tensor, order: Tensor | None
    ) -> Tensor:
        frame = start.unsqueeze(1) + torch.arange(self._block)
        row = run.unsqueeze(1)
        guide = self._reprojector.guide(
            case_views, camera.rotations_w2c[row, frame], camera.positions[row, frame], order
        )
        runs = camera.positions.shape[0]
        return guide.unflatten(0, (runs, -1)).transpose(1, 2).flatten(2, 3)

    def _drop(self, guide: Tensor, generator: torch.Generator) -> Tensor:
        kept = torch.rand(len(guide), generator=generator) >= self._config.drop_chance
        return guide * kept[:, None, None, None, None]

    def _remembered(
        self, views: Views, camera: CameraConditioning, run: Tensor, start: Tensor, extra: Tensor
    ) -> Tensor:
        """For each case, which known view but the latest shows most of the block's last frame; the latest for none."""
        known, frames = views.positions.shape[1], camera.positions.shape[1]
        points = self._finder.points(
            views.depth.flatten(0, 1), views.rotations_w2c.flatten(0, 1), views.positions.flatten(0, 1)
        ).unflatten(0, (-1, known))
        last = start + self._block - 1
        cases = len(run)
        scores = self._finder.coverage(
            points[run].flatten(0, 1),
            views.positions[run].flatten(0, 1),
            camera.rotations_w2c[run, last, -1].repeat_interleave(known, 0),
            camera.positions[run, last, -1].repeat_interleave(known, 0),
        ).unflatten(0, (cases, known))
        index = torch.arange(known)
        allowed = (index < (start - 1).unsqueeze(1)) | ((index >= frames) & extra.unsqueeze(1))
        best = scores.masked_fill(~allowed, -1.0).argmax(dim=1)
        return torch.where(allowed.any(dim=1), best, start - 1)

    def _pick(self, views: Views, run: Tensor, chosen: Tensor, generator: torch.Generator) -> Views:
        """Views `(N, S)` of each case, numbered by `chosen` `(N, S)` among its run's; pictures spoiled."""
        rows = run.unsqueeze(1)
        pictures = views.pictures[rows, chosen]
        spoiled = spoil_pictures(pictures.flatten(0, 1), self._config.spoil, generator)
        return Views(
            pictures=spoiled.view_as(pictures),
            depth=views.depth[rows, chosen],
            rotations_w2c=views.rotations_w2c[rows, chosen],
            positions=views.positions[rows, chosen],
        )
