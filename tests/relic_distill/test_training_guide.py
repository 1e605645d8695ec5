import numpy as np
import pytest
import torch

from relic.actions import ACTION_NAMES
from relic.camera import integrate
from relic.model.conditioning import camera_conditioning
from relic.reprojection.view_memory import ViewFinder
from relic.reprojection.warp import Views
from relic.world import World
from relic_distill.training_guide import GuideConfig, TrainingGuide

FRAMES = 6
CALM = GuideConfig(extra_chance=0.0, memory_chance=0.0, swap_chance=0.0, drop_chance=0.0, spoil=0.0)


@pytest.fixture(scope="module")
def world() -> World:
    return World.tiny(seed=4)


def walk(pixel_frames: int, name: str, amount: float):  # type: ignore[no-untyped-def]
    actions = np.zeros((pixel_frames, 13))
    actions[1:, ACTION_NAMES.index(name)] = amount
    return actions, integrate(actions)


def run_of(world: World, name: str = "pan_left", amount: float = 0.03, extra: int = 0):  # type: ignore[no-untyped-def]
    """Control of a run and random pictures for its views; extra views repeat the run's last picture."""
    actions, path = walk(1 + 4 * (FRAMES - 1), name, amount)
    camera = camera_conditioning(actions, path)
    known = [*range(FRAMES), *[FRAMES - 1] * extra]
    torch.manual_seed(0)
    coarse = torch.rand(FRAMES, 3, 12, 20) * 1.6 - 0.8
    pictures = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)[known]
    return camera, Views(
        pictures=pictures[None],
        depth=world.depth.depth(pictures)[None],
        rotations_w2c=camera.rotations_w2c[:, known, -1],
        positions=camera.positions[:, known, -1],
    )


def only(views: Views, index: int) -> Views:
    return Views(
        pictures=views.pictures[:, [index]],
        depth=views.depth[:, [index]],
        rotations_w2c=views.rotations_w2c[:, [index]],
        positions=views.positions[:, [index]],
    )


def make(world: World, config: GuideConfig, block: int = 1) -> TrainingGuide:
    return TrainingGuide(world.reprojector, ViewFinder(world.intrinsics), config, block)


@torch.no_grad()
def test_training_guides_as_play_does(world: World) -> None:
    """Pictures shown on a screen guide its next block as the same pictures guide a training run's."""
    camera, views = run_of(world)
    guide = make(world, CALM)(views, camera, torch.Generator().manual_seed(0))
    assert guide.shape == (1, 24, FRAMES - 1, 12, 20)
    for block in range(1, FRAMES):
        latest = only(views, block - 1)
        played = world.reprojector.guide(
            latest, camera.rotations_w2c[:, block : block + 1], camera.positions[:, block : block + 1]
        )
        torch.testing.assert_close(guide[:, :, block - 1 : block], played)


@torch.no_grad()
def test_remembered_views_come_from_before_the_block_or_from_the_extras(world: World) -> None:
    generator = torch.Generator().manual_seed(0)
    always = {"memory_chance": 1.0, "swap_chance": 1.0, "drop_chance": 0.0, "spoil": 0.0}
    camera, views = run_of(world, extra=2)
    own = make(world, GuideConfig(extra_views=2, extra_chance=0.0, **always))(views, camera, generator)
    assert not own[:, 20:24, 0].any(), "before the second block there is nothing to remember but the latest picture"
    assert own[:, 20:24, 3].mean() > 0.3
    foreign = make(world, GuideConfig(extra_views=2, extra_chance=1.0, **always))(views, camera, generator)
    seen = foreign[0, 23, -1] == 1
    assert seen.float().mean() > 0.8, "the extra view is the very picture the last block ends at"


@torch.no_grad()
def test_dropped_runs_have_no_guide_and_blocks_of_several_frames_share_views(world: World) -> None:
    camera, views = run_of(world)
    dropped = make(world, GuideConfig(drop_chance=1.0))(views, camera, torch.Generator().manual_seed(0))
    assert not dropped.any()
    whole = make(world, CALM, block=5)(views, camera, torch.Generator().manual_seed(0))
    expected = world.reprojector.guide(only(views, 0), camera.rotations_w2c[:, 1:], camera.positions[:, 1:])
    torch.testing.assert_close(whole, expected)


def test_bad_chances_are_named() -> None:
    with pytest.raises(ValueError, match=r"swap_chance 1.5 must lie in \[0, 1\]"):
        GuideConfig(swap_chance=1.5)
    with pytest.raises(ValueError, match=r"extra_views -1 and spoil 0.4 must not be negative"):
        GuideConfig(extra_views=-1)
