import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from relic.actions import Speeds, action_from_keys
from relic.camera import Intrinsics
from relic.config import ModelConfig, RelicConfig, mini
from relic.engine import WorldEngine
from relic.intrinsics import pixel_rays
from relic.model.attention import BidirectionalContext
from relic.model.conditioning import CameraConditioning
from relic.reprojection.config import DepthConfig, ReprojectionConfig
from relic.reprojection.depth import FARTHEST_M, DepthNet
from relic.reprojection.view_memory import View, ViewFinder, ViewMemory
from relic.reprojection.warp import Camera, Views, splat_depth, warp_views, warp_with_shares_of_views
from relic.rotations import rotations_from_angles
from relic.vae.config import VaeConfig
from relic.vae.tiny_vae import TinyVae
from relic.world import World
from relic_kernels.dispatch import force
from relic_kernels.warp import warps_natively
from tests.tiny_networks import TINY, lively_model, random_camera

INTRINSICS = Intrinsics.from_fov(60.0, 160, 96)
CAMERA = Camera(INTRINSICS)
FINDER = ViewFinder(INTRINSICS)


def turned(pan: float = 0.0, tilt: float = 0.0) -> Tensor:
    """World-to-camera rotation of a camera panned and tilted from the identity."""
    return torch.from_numpy(rotations_from_angles(np.array([[pan, tilt, 0.0]]))[0].T).float()


def wall_picture(rotation: Tensor, position: Tensor, wall_z: float = 4.0) -> tuple[Tensor, Tensor]:
    """A camera's picture `(3, H, W)` and depth of a wall at z = `wall_z` with a smooth pattern."""
    rays = torch.from_numpy(pixel_rays(INTRINSICS)).float() @ rotation
    scale = (wall_z - position[2]) / rays[..., 2]
    point = position + rays * scale[..., None]
    x, y = point[..., 0], point[..., 1]
    picture = torch.stack([(1.5 * x).sin(), (2.0 * y).cos(), (x + y).sin()]) * 0.8
    return picture, scale


def view_at(rotation: Tensor, position: Tensor, time: int = 0) -> View:
    picture, depth = wall_picture(rotation, position)
    return FINDER.view(picture, depth, rotation, position, time)


def views_of(*views: View) -> Views:
    return Views(
        pictures=torch.stack([view.picture for view in views])[None],
        depth=torch.stack([view.depth for view in views])[None],
        rotations_w2c=torch.stack([view.rotation_w2c for view in views])[None],
        positions=torch.stack([view.position for view in views])[None],
    )


@pytest.fixture(params=["by C++", "by torch"])
def way(request: pytest.FixtureRequest, require: Callable[..., None]) -> Iterator[str]:
    """Both ways of warping."""
    if request.param == "by C++":
        require("compiler")
    with torch.no_grad(), force("reference") if request.param == "by torch" else nullcontext():
        assert warps_natively(torch.zeros(1)) is (request.param == "by C++")
        yield request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("pan", "tilt", "position"),
    [(0.0, 0.0, (0.0, 0.0, 1.0)), (0.2, 0.0, (0.0, 0.0, 0.0)), (-0.1, 0.1, (0.3, -0.2, 0.5)), (0.0, 0.0, (0, 0, -1.0))],
)
def test_a_textured_wall_is_painted_where_it_stands(pan: float, tilt: float, position: tuple[float, ...]) -> None:
    start = view_at(torch.eye(3), torch.zeros(3))
    rotation, place = turned(pan, tilt), torch.tensor(position, dtype=torch.float32)
    truth, depth = wall_picture(rotation, place)
    warped = warp_views(CAMERA, views_of(start), rotation[None, None], place[None, None])
    known = warped.view[0, 0] == 0
    rays = torch.from_numpy(pixel_rays(INTRINSICS)).float() @ rotation
    points = place + rays * depth[..., None]
    x, y, _ = CAMERA.project(points.flatten(0, 1).T, torch.eye(3), torch.zeros(3))
    inside = ((x > 2) & (x < 158) & (y > 2) & (y < 94)).view(96, 160)
    outside = ((x < -2) | (x > 162) | (y < -2) | (y > 98)).view(96, 160)
    assert known[inside].float().mean() > 0.99
    assert not known[outside].any()
    assert (warped.pictures[0, 0] - truth).abs()[:, known].max() < 0.06
    assert not warped.pictures[0, 0][:, ~known].any()


@pytest.mark.usefixtures("way")
def test_what_stands_in_front_hides_what_is_behind() -> None:
    """A near square moves over the far wall as the camera steps aside; the wall it uncovers is not known."""
    picture, depth = torch.full((3, 96, 160), -0.5), torch.full((96, 160), 4.0)
    picture[:, 32:64, 64:96], depth[32:64, 64:96] = 0.5, 2.0
    view = FINDER.view(picture, depth, torch.eye(3), torch.zeros(3), 0)
    aside = torch.tensor([0.3, 0.0, 0.0])
    warped = warp_views(CAMERA, views_of(view), torch.eye(3)[None, None], aside[None, None])
    moved = round(INTRINSICS.fx * 0.3 / 2.0)
    middle = warped.pictures[0, 0, 0, 48]
    assert (middle[64 - moved + 3 : 96 - moved - 3] == 0.5).all()
    uncovered = warped.view[0, 0, 48, 96 - moved + 3 : 96 - moved // 2 - 3]
    assert (uncovered == -1).all()
    assert (middle[96 : 160 - moved] == -0.5).all()
    seen = splat_depth(CAMERA, views_of(view), torch.eye(3)[None, None], aside[None, None])[0, 0]
    assert seen[48, 80 - moved] == 2.0


@pytest.mark.usefixtures("way")
def test_views_paint_in_the_order_given_and_fill_each_others_gaps() -> None:
    left, right = view_at(turned(0.4), torch.zeros(3)), view_at(turned(-0.4), torch.zeros(3))
    both = views_of(left, right)
    straight = (torch.eye(3)[None, None], torch.zeros(1, 1, 3))
    forward = warp_views(CAMERA, both, *straight)
    swapped = warp_views(CAMERA, both, *straight, order=torch.tensor([[1, 0]]))
    assert torch.equal(forward.view >= 0, swapped.view >= 0)
    assert (forward.view >= 0).float().mean() > 0.97
    shared = (forward.view == 0) & (swapped.view == 1)
    assert 0.1 < shared.float().mean() < 0.7
    truth, _ = wall_picture(torch.eye(3), torch.zeros(3))
    assert (forward.pictures[0, 0] - truth).abs()[:, forward.view[0, 0] >= 0].max() < 0.05


@pytest.mark.native
@pytest.mark.parametrize("threads", [1, 3])
def test_both_ways_paint_the_same_pictures(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    known = [view_at(turned(pan), torch.tensor([pan, 0.1, 0.0])) for pan in (0.3, -0.3, 0.0)]
    views = views_of(*known)
    rough = 3 * torch.rand(2, 3, 12, 20).repeat_interleave(8, 2).repeat_interleave(8, 3) + 1
    views = Views(
        pictures=torch.cat([views.pictures, torch.rand(1, 3, 3, 96, 160)]),
        depth=torch.cat([views.depth, rough[:1]]),
        rotations_w2c=views.rotations_w2c.expand(2, -1, -1, -1),
        positions=views.positions.expand(2, -1, -1),
    )
    wanted = torch.stack([turned(0.1 * k, 0.05) for k in range(8)]).view(2, 4, 3, 3), 0.2 * torch.randn(2, 4, 3)
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])
    with torch.no_grad():
        got = warp_views(CAMERA, views, *wanted, order=order)
        with force("reference"):
            expected = warp_views(CAMERA, views, *wanted, order=order)
    same = got.view == expected.view
    assert same.float().mean() > 0.999
    assert set(expected.view.unique().tolist()) == {-1, 0, 1, 2}
    assert (got.pictures - expected.pictures).abs().amax(2)[same].max() < 1e-3
    film = wanted[0].unflatten(1, (2, 2)), wanted[1].unflatten(1, (2, 2))
    with torch.no_grad():
        painted, shares = warp_with_shares_of_views(CAMERA, views, *film, cell=8, order=order)
        with force("reference"):
            by_torch, expected_shares = warp_with_shares_of_views(CAMERA, views, *film, cell=8, order=order)
    assert torch.equal(painted, got.pictures)
    assert torch.equal(by_torch, expected.pictures)
    assert shares.shape == (2, 4, 2, 12, 20)
    assert (shares - expected_shares).abs().max() <= 2 / 64
    assert (shares - expected_shares).abs().mean() < 1e-3
    still = torch.eye(3).expand(2, 4, 3, 3)
    with torch.no_grad(), pytest.raises(ValueError, match="the order of 3 views names others"):
        warp_views(CAMERA, views, still, wanted[1], order=torch.tensor([[0, 1, 3], [0, 1, 2]]))


def test_memory_keeps_apart_views_and_finds_the_one_that_shows_most() -> None:
    config = ReprojectionConfig(apart_m=0.2, apart_deg=10.0, max_views=4)
    memory = ViewMemory(config, FINDER)
    pans = [0.0, 0.05, 0.3, 0.32, 0.6, 0.9, 1.2]
    for time, pan in enumerate(pans):
        memory = memory.seeing(view_at(turned(pan), torch.zeros(3), time))
    assert [view.time for view in memory.views] == [0, 4, 5, 6]
    assert memory.latest is not None
    assert memory.latest.time == 6
    found = memory.find(turned(0.65), torch.zeros(3), 2)
    assert [view.time for view in found] == [4, 5]
    assert [view.time for view in memory.find(turned(-0.1), torch.zeros(3), 1)] == [0]
    assert memory.find(turned(0.0), torch.zeros(3), 0) == []
    assert [view.time for view in memory.seeing(view_at(turned(2.0), torch.zeros(3), 7), oldest=5).views] == [5, 6, 7]
    assert memory.nbytes == 4 * (3 + 1) * 96 * 160 * 4


@pytest.mark.native
@pytest.mark.parametrize("size", [(160, 96), (64, 32), (352, 224)])
def test_both_ways_score_views_alike(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    intrinsics = Intrinsics.from_fov(60.0, *size)
    finder = ViewFinder(intrinsics)
    views = []
    for time in range(9):
        depth, place = 0.2 + 4 * torch.rand(intrinsics.height, intrinsics.width), 0.5 * torch.randn(3)
        views.append(finder.view(torch.zeros(3, *depth.shape), depth, turned(0.8 * time), place, time))
    for pan in (0.0, 0.9, 3.0):
        pose = turned(pan, 0.1), 0.3 * torch.randn(3)
        with torch.no_grad():
            got = finder.scores(views, *pose)
            with force("reference"):
                expected = finder.scores(views, *pose)
        assert max(expected) > 0.2
        assert min(expected) < 0.1
        assert got == pytest.approx(expected, abs=1e-5)


def test_a_close_look_is_worth_more_than_one_from_afar() -> None:
    near, far = view_at(torch.eye(3), torch.zeros(3)), view_at(torch.eye(3), torch.tensor([0.0, 0.0, -4.0]))
    views = views_of(near, far)
    points = FINDER.points(views.depth[0], views.rotations_w2c[0], views.positions[0])
    wanted = torch.tensor([0.0, 0.0, 1.0]).expand(2, 3)
    scores = FINDER.coverage(points, views.positions[0], torch.eye(3).expand(2, 3, 3), wanted)
    assert scores[0] > scores[1] > 0
    away = FINDER.coverage(points, views.positions[0], turned(3.0).expand(2, 3, 3), wanted)
    assert (away < 0.1).all()


def still_camera(frames: int) -> CameraConditioning:
    return CameraConditioning(
        actions=torch.zeros(1, frames, 4, 13),
        rotations_w2c=torch.eye(3).expand(1, frames, 4, 3, 3),
        positions=torch.zeros(1, frames, 4, 3),
    )


@torch.inference_mode()
def test_the_guide_of_a_still_camera_is_the_latest_picture() -> None:
    world = World.tiny(seed=1)
    screen = world.screen()
    assert screen.guide(still_camera(1)) is None
    picture, _ = wall_picture(torch.eye(3), torch.zeros(3))
    latent = world.vae.encode(picture[None, :, None])
    shown = screen.show(latent, still_camera(1))[:, :, -1].clamp(-1, 1)
    guide = screen.guide(still_camera(2))
    assert guide is not None
    assert guide.shape == (1, 24, 2, 12, 20)
    expected = world.vae.encode(shown.unsqueeze(2).repeat(1, 1, 9, 1, 1))[:, :, 1:]
    torch.testing.assert_close(guide[:, :16], expected, atol=1e-3, rtol=1e-3)
    assert (guide[:, 16:20] == 1).all()
    assert (guide[:, 20:] == 0).all()


def test_the_guide_reaches_the_frames_and_snapshots_hold_the_views() -> None:
    world = World.tiny(seed=2)
    walk = action_from_keys(("ArrowLeft",), Speeds())
    start = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    engine = WorldEngine(world)
    engine.start(start, "", 0)
    engine.step(walk)
    moment = engine.snapshot()
    after = engine.step(walk).frames
    for _ in range(3):
        engine.step(walk)
    engine.restore(moment)
    assert np.array_equal(engine.step(walk).frames, after)
    with torch.no_grad():
        world.model.guide_embedding.weight.zero_()
    engine.restore(moment)
    assert not np.array_equal(engine.step(walk).frames, after)


def test_what_a_guide_knows_reaches_the_velocity_without_passing_the_blocks() -> None:
    model = lively_model()
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    torch.nn.init.eye_(model.guide_skip.weight)
    guide = torch.randn(1, 12, 2, 6, 10)
    guide[:, 4:8] = 0.25
    guide[:, 8:] = 0.5
    sigma = torch.tensor([[0.8, 0.0]])
    control = model.encode_control(random_camera(1, 2), guide)
    text = model.encode_text(torch.randn(1, 3, 8))
    velocity = model(torch.randn(1, 4, 2, 6, 10), sigma, control, text, BidirectionalContext(TINY, 2))
    torch.testing.assert_close(velocity[:, :, 0], -0.8 * 0.75 * guide[:, :4, 0])
    assert not velocity[:, :, 1].any()


def test_a_checkpoint_from_before_the_guide_starts_it_silent() -> None:
    model = lively_model()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("guide_")}
    other = lively_model(seed=1)
    other.load_weights(state, Path("old.safetensors"))
    assert not other.guide_embedding.weight.any()
    assert not other.guide_skip.weight.any()
    assert torch.equal(other.proj_out.weight, model.proj_out.weight)
    with pytest.raises(ValueError, match=r"old\.safetensors does not fit its configuration"):
        other.load_weights({}, Path("old.safetensors"))


def test_a_windowed_world_forgets_its_views() -> None:
    world = World.tiny()
    config = world.config
    windowed = world.with_config(
        dataclasses.replace(config, memory=dataclasses.replace(config.memory, policy="window", window=2))
    )
    spin = action_from_keys(("ArrowLeft",), Speeds())
    kept = []
    for one in (world, windowed):
        engine = WorldEngine(one)
        engine.start(np.zeros((96, 160, 3), np.uint8), "", 0)
        for _ in range(8):
            engine.step(spin)
        kept.append([view.time for view in engine.snapshot().screen.memories[0].views])
    assert kept[0][0] == 0
    assert min(kept[1]) >= 9 - 2


def test_depth_is_within_its_range_and_odd_pictures_are_refused() -> None:
    torch.manual_seed(0)
    network = DepthNet(DepthConfig.tiny())
    assert torch.allclose(network.depth(torch.zeros(2, 3, 96, 160)), torch.tensor(1.0).exp())
    torch.nn.init.normal_(network.head.weight, std=50.0)
    depth = network.depth(torch.randn(1, 3, 32, 48))
    assert depth.shape == (1, 32, 48)
    assert 0.1 <= depth.min() < depth.max() <= FARTHEST_M
    with pytest.raises(ValueError, match="100x160 needs sides that are multiples of 16"):
        network(torch.zeros(1, 3, 100, 160))


@pytest.mark.native
@pytest.mark.parametrize("size", [(32, 48), (16, 16), (96, 160)])
def test_cpp_sees_the_depth_that_torch_sees(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = DepthNet(DepthConfig(channels=(8, 12, 16), blocks=(1, 2, 2)))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    pictures = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        got = network(pictures)
        with force("reference"):
            expected = network(pictures)
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, atol=3e-5, rtol=1e-5)


def test_depth_may_depend_on_the_place_in_the_picture_alone() -> None:
    network = DepthNet(DepthConfig.tiny())
    with torch.no_grad():
        network.stem.weight.zero_()
        network.unfold_1.weight.zero_()
        network.stem.weight[0, -1] = 1.0
        network.head.weight[:, 0] = 1.0
    log_depth = network(torch.randn(2, 3, 32, 48))
    rows = torch.tensor([-7, -5, -3, -1, 1, 3, 5, 7]).repeat_interleave(4) / 8 + 1
    assert torch.allclose(log_depth, rows[:, None].expand(2, 32, 48), atol=1e-6)


def test_settings_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="prefer 'newest' is not one of"):
        ReprojectionConfig(prefer="newest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="apart_m 0 must be positive"):
        ReprojectionConfig(apart_m=0)
    with pytest.raises(ValueError, match="guide_channels 0 must be 24 with reprojection"):
        RelicConfig(reprojection=ReprojectionConfig())
    with pytest.raises(ValueError, match="guide_channels 24 must be 0 without reprojection"):
        dataclasses.replace(mini(), reprojection=None)
    plain = RelicConfig(model=ModelConfig(), vae=VaeConfig())
    with pytest.raises(ValueError, match="name the weights of a depth network"):
        World(mini(), World.tiny().model, TinyVae(VaeConfig()), World.tiny().text_encoder)
    model = World.tiny(config=dataclasses.replace(plain, model=ModelConfig(dim=48, num_layers=1, num_heads=2))).model
    with pytest.raises(ValueError, match="its guide_channels are 0"):
        model.encode_control(still_camera(1), torch.zeros(1, 24, 1, 12, 20))
