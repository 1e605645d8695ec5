"""One furnished room, lit and ready to be filmed, shared by the tests of this folder."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from relic.camera import CameraPose

SEED, SCENE = 1, 8


@dataclass(frozen=True)
class LitRoom:
    scene: object
    planner: object
    renderer: object
    start: CameraPose


@pytest.fixture(scope="session")
def furnished(require):
    require("furniture")
    from relic_data.rooms import build_scene

    return build_scene(SEED, SCENE)


@pytest.fixture(scope="session")
def planner(furnished, require):
    require("panda3d")
    from relic_data.paths import PathPlanner
    from relic_data.views import ViewProbe

    return PathPlanner(furnished, ViewProbe(furnished))


@pytest.fixture(scope="session")
def lit_room(furnished, planner) -> Iterator[LitRoom]:
    from relic_data.bake import bake
    from relic_data.film import expose
    from relic_data.renderer import Renderer

    renderer = Renderer()
    renderer.load(furnished, bake(furnished))
    expose(renderer, furnished, planner, np.random.default_rng(0))
    start = planner.start(np.random.default_rng(3))
    assert start is not None
    yield LitRoom(furnished, planner, renderer, start)
    renderer.close()
