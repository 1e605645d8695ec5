"""What a camera would see, probed with a few rays: depth, interest, and which objects are in the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relic.intrinsics import Intrinsics, pixel_rays
from relic_data.bake import Tracer, make_tracer
from relic_data.mesh import F64
from relic_data.scene import Scene

PROBE_WIDTH, PROBE_HEIGHT = 20, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Median z-depth (metres), the tenth percentile of it, interest (0 to 1), share of sky, objects' shares."""

    median_depth: float
    near_depth: float
    interest: float
    sky: float
    shares: dict[int, float]


class ViewProbe:
    """Casts 20x12 rays from camera poses into a scene."""

    def __init__(self, scene: Scene, tracer: Tracer | None = None) -> None:
        self.scene = scene
        self.tracer = tracer or make_tracer(scene, everything=True)
        self._rays = pixel_rays(Intrinsics.from_fov(60.0, PROBE_WIDTH, PROBE_HEIGHT)).reshape(-1, 3)
        self._length = np.linalg.norm(self._rays, axis=1)
        self._interest = np.array([o.interest for o in scene.objects])
        self._sky = np.array([o.role == "sky" for o in scene.objects])

    def looks(self, rotations_w2c: F64, positions: F64) -> list[View]:
        """Views from poses: rotations (n, 3, 3) and camera centres (n, 3) in the scene's world."""
        count = len(positions)
        rays = np.einsum("nji,kj->nki", rotations_w2c, self._rays / self._length[:, None]).reshape(-1, 3)
        origins = np.repeat(positions, len(self._rays), 0)
        triangle, distance, _ = self.tracer.first(origins, rays)
        depth = (distance.reshape(count, -1)) / self._length
        owner = np.where(triangle >= 0, self.tracer.owners[np.maximum(triangle, 0)], 0).reshape(count, -1)
        views = []
        for d, o in zip(depth, owner, strict=True):
            ids, counts = np.unique(o, return_counts=True)
            shares = {int(i): float(c) / o.size for i, c in zip(ids, counts, strict=True)}
            views.append(
                View(
                    median_depth=float(np.median(d)),
                    near_depth=float(np.quantile(d, 0.1)),
                    interest=float(self._interest[o].mean()),
                    sky=float(self._sky[o].mean()),
                    shares=shares,
                )
            )
        return views
