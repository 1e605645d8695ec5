import numpy as np
import pytest

from relic.camera import actions_from_poses, integrate
from relic_data import motions

pytestmark = pytest.mark.render


@pytest.fixture(scope="module")
def planned(planner):
    return [planner.plan(np.random.default_rng(k), 81) for k in range(6)]


def test_a_path_starts_level_inside_the_room_and_looks_at_something(planned, planner):
    for plan in planned:
        first = plan.world[0]
        np.testing.assert_allclose(first.rotation_w2c[2, 2], 0, atol=1e-9)
        np.testing.assert_allclose(first.rotation_w2c[0, 2], 0, atol=1e-9)
        assert planner.free.can_be_at(first.position[None])[0]
        view = planner.probe.looks(first.rotation_w2c[None], first.position[None])[0]
        assert view.median_depth > 1.5


def test_a_saved_path_begins_at_the_identity_and_its_actions_give_it_back(planned):
    for plan in planned:
        path = plan.clip_path()
        assert len(path) == 81
        np.testing.assert_allclose(path.rotations_w2c[0], np.eye(3), atol=1e-12)
        again = integrate(actions_from_poses(path))
        np.testing.assert_allclose(again.positions, path.positions, atol=1e-9)
        np.testing.assert_allclose(again.rotations_w2c, path.rotations_w2c, atol=1e-9)


def test_paths_keep_away_from_every_surface(planned, planner, furnished):
    from relic_data.collision import _samples

    points = np.concatenate([_samples(p) for p in furnished.pieces if p.solid])
    for plan in planned:
        low, high = plan.world.positions.min(0) - 0.3, plan.world.positions.max(0) + 0.3
        near = points[((points > low) & (points < high)).all(1)]
        for position in plan.world.positions[::4]:
            if len(near):
                assert np.linalg.norm(near - position, axis=1).min() > 0.15
        assert planner.sweeper.free(plan.world.positions)


def test_a_sphere_cannot_pass_a_wall_or_a_window(planner):
    x0, y0, x1, y1 = planner.scene.rooms[0].rects[0]
    outside = np.array([[x, y, 1.5] for x, y in ((x0 - 1, (y0 + y1) / 2), ((x0 + x1) / 2, y1 + 1))])
    start = planner.start(np.random.default_rng(0)).position
    for point in outside:
        way = start + np.linspace(0, 1, 60)[:, None] * (point - start)
        assert not planner.sweeper.free(way)
        assert planner.free.distance(point[None])[0] == 0


def test_speeds_are_a_persons(planned):
    for plan in planned:
        actions = actions_from_poses(plan.clip_path())
        metres = np.abs(actions[:, :6]).max() * motions.FPS
        degrees = np.degrees(np.abs(actions[:, 6:12]).max()) * motions.FPS
        assert metres <= 1.4
        assert degrees <= 95


def test_heights_and_tilts_stay_in_bounds(planned):
    for plan in planned:
        assert plan.world.positions[:, 2].min() >= 0.5
        assert plan.world.positions[:, 2].max() <= 2.2
        assert np.degrees(np.arcsin(np.abs(plan.world.rotations_w2c[:, 2, 2]).max())) <= 32.1
        assert np.degrees(np.arcsin(np.abs(plan.world.rotations_w2c[:, 0, 2]).max())) <= 22.1


def test_views_are_never_with_the_nose_on_a_wall(planned, planner):
    for plan in planned:
        views = planner.probe.looks(plan.world.rotations_w2c[::5], plan.world.positions[::5])
        assert min(v.median_depth for v in views) > 0.6


def test_all_twelve_motions_and_their_mixtures_occur(planner):
    plan = planner.plan(np.random.default_rng(77), 641)
    moving = actions_from_poses(plan.clip_path())[:, :12] > 1e-6
    assert moving.any(0).all()
    together = moving.sum(1)
    assert (together == 1).mean() > 0.2
    assert (together > 1).mean() > 0.2


def test_revisits_return_exactly(planner):
    from relic_data.paths import _Walk

    rng = np.random.default_rng(4)
    walk = _Walk(planner, rng, planner.start(rng))
    assert walk.explore(30)
    walk.turn_back(29)
    assert len(walk.poses) == 59
    for out, back in zip(walk.poses[:30], walk.poses[:28:-1], strict=True):
        np.testing.assert_array_equal(out.position, back.position)
        np.testing.assert_array_equal(out.rotation_w2c, back.rotation_w2c)
    kinds = [planner.plan(np.random.default_rng(k), 81).kinds for k in range(12)]
    assert any("back" in k for k in kinds)


def test_a_scene_without_room_is_refused(planner, monkeypatch):
    from relic_data.paths import PathError

    monkeypatch.setattr(planner.free, "reachable", np.zeros_like(planner.free.reachable))
    with pytest.raises(PathError, match="no collision-free path of 81 frames"):
        planner.plan(np.random.default_rng(0), 81, attempts=2)
