"""Views a session remembers: which are kept, and which one shows most of a wanted picture.

Axes: K views, P points of a view, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relic.intrinsics import Intrinsics
from relic.reprojection.config import ReprojectionConfig
from relic.reprojection.warp import NEAREST_M, Camera
from relic_kernels.native import may_run
from relic_kernels.view_coverage import CoarsePinhole, view_coverage

_CELL = 16
_CLOSEST_M = 1e-3


@dataclass(frozen=True, kw_only=True)
class View:
    """One remembered picture.

    Attributes:
        picture: `(3, H, W)` in [-1, 1].
        depth: `(H, W)` z-depth, metres.
        rotation_w2c: `(3, 3)`.
        position: `(3,)`, metres.
        points: `(3, P)` a coarse grid of the world points it shows.
        time: latent frame it was shown at.
    """

    picture: Tensor
    depth: Tensor
    rotation_w2c: Tensor
    position: Tensor
    points: Tensor
    time: int


class ViewFinder:
    """Scores how much of a wanted picture views show, by a coarse grid of their points.

    Args:
        intrinsics: of every picture; sides are multiples of 16.
    """

    def __init__(self, intrinsics: Intrinsics) -> None:
        self._size = (intrinsics.height // _CELL, intrinsics.width // _CELL)
        self._coarse = Camera(intrinsics.scaled(*reversed(self._size)))
        of, (rows, columns) = self._coarse.intrinsics, self._size
        lengths = {"fx": of.fx, "fy": of.fy, "cx": of.cx, "cy": of.cy, "nearest": NEAREST_M, "closest": _CLOSEST_M}
        self._pinhole = CoarsePinhole(rows=rows, columns=columns, **lengths)

    def view(self, picture: Tensor, depth: Tensor, rotation_w2c: Tensor, position: Tensor, time: int) -> View:
        """A view with its points; arguments as `View`'s."""
        return View(
            picture=picture,
            depth=depth,
            rotation_w2c=rotation_w2c,
            position=position,
            points=self.points(depth[None], rotation_w2c[None], position[None])[0],
            time=time,
        )

    def points(self, depth: Tensor, rotations_w2c: Tensor, positions: Tensor) -> Tensor:
        """World points `(K, 3, P)` at the cell centres of views with depth `(K, H, W)`."""
        half = _CELL // 2
        centres = depth[:, half::_CELL, half::_CELL].flatten(1)
        return self._coarse.points(centres, rotations_w2c, positions)

    def scores(self, views: Sequence[View], rotation_w2c: Tensor, position: Tensor) -> list[float]:
        """`coverage` of each of some views, at least one, for the pose `(3, 3)`, `(3,)` of one wanted picture."""
        points, positions = [view.points for view in views], [view.position for view in views]
        if may_run(torch.float32, points[0]) and points[0].dtype == positions[0].dtype == torch.float32:
            return view_coverage(self._pinhole, points, positions, rotation_w2c, position)
        many = len(views)
        wanted = rotation_w2c.expand(many, 3, 3), position.expand(many, 3)
        return self.coverage(torch.stack(points), torch.stack(positions), *wanted).tolist()

    def coverage(self, points: Tensor, view_positions: Tensor, rotations_w2c: Tensor, positions: Tensor) -> Tensor:
        """Share of a wanted picture's cells that each view's points fall into, less where they were seen from afar.

        Args:
            points: `(K, 3, P)`.
            view_positions: `(K, 3)`, where the views were taken.
            rotations_w2c: `(K, 3, 3)` wanted, one a view.
            positions: `(K, 3)` wanted, metres.

        Returns:
            `(K,)` in [0, 1].
        """
        rows, columns = self._size
        x, y, z = self._coarse.project(points, rotations_w2c, positions)
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows) & (z > 0)
        cell = torch.where(inside, y.floor().long() * columns + x.floor().long(), rows * columns)
        wanted = _distance(points, positions)
        taken = _distance(points, view_positions).clamp(min=_CLOSEST_M)
        quality = (wanted / taken).clamp(max=1.0)
        hits = points.new_zeros((len(points), rows * columns + 1))
        hits.scatter_reduce_(1, cell, quality, "amax")
        return hits[:, :-1].mean(dim=1)


class ViewMemory:
    """The views of one session; immutable, so that a snapshot is the object itself.

    Args:
        config: when a view is remembered, and how many.
        finder: of the world's camera.
        views: remembered, oldest first.
        latest: shown last.
    """

    def __init__(
        self,
        config: ReprojectionConfig,
        finder: ViewFinder,
        views: tuple[View, ...] = (),
        latest: View | None = None,
    ) -> None:
        self._config, self._finder = config, finder
        self.views, self.latest = views, latest

    def seeing(self, view: View, oldest: int = 0) -> ViewMemory:
        """The memory after `view` was shown; views older than latent frame `oldest` are forgotten."""
        kept = tuple(old for old in self.views if old.time >= oldest)
        if all(self._apart(old, view) for old in kept):
            kept = (*kept, view)
            if len(kept) > self._config.max_views:
                kept = (kept[0], *kept[2:])
        return ViewMemory(self._config, self._finder, kept, view)

    def find(self, rotation_w2c: Tensor, position: Tensor, count: int) -> Sequence[View]:
        """The `count` remembered views, or fewer, that show most of the picture at a pose, best first."""
        candidates = [view for view in self.views if self.latest is None or view.time != self.latest.time]
        if not candidates or not count:
            return []
        scores = self._finder.scores(candidates, rotation_w2c, position)
        best = sorted(range(len(candidates)), key=scores.__getitem__, reverse=True)
        return [candidates[index] for index in best[:count]]

    @property
    def nbytes(self) -> int:
        """Bytes of the remembered pictures and depths."""
        held = {id(view): view for view in (*self.views, *([self.latest] if self.latest else []))}
        return sum(view.picture.nbytes + view.depth.nbytes for view in held.values())

    def _apart(self, one: View, other: View) -> bool:
        if math.dist(one.position.tolist(), other.position.tolist()) >= self._config.apart_m:
            return True
        cosine = (float(one.rotation_w2c.flatten().dot(other.rotation_w2c.flatten())) - 1) / 2
        return math.degrees(math.acos(min(1.0, max(-1.0, cosine)))) >= self._config.apart_deg


def _distance(points: Tensor, positions: Tensor) -> Tensor:
    """From `(K, 3)` to `(K, 3, P)`; torch's own norm is slow along an axis that is not the last."""
    x, y, z = (points - positions.unsqueeze(-1)).square_().unbind(-2)
    return (x + y).add_(z).sqrt_()
