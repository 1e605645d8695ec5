import json
import os

import numpy as np
import pytest

from relic.actions import actions_from_motions
from relic.camera import (
    CameraPath,
    CameraPose,
    Intrinsics,
    actions_from_poses,
    continue_path,
    nearest_rotations,
    world_to_camera,
)

VIEW = Intrinsics.from_fov(60, 160, 96)


def random_path(seed: int, frames: int) -> CameraPath:
    motions = np.random.default_rng(seed).normal(size=(frames, 6))
    return continue_path(CameraPose.identity(), actions_from_motions(motions[:, :3], motions[:, 3:]))


def assert_same_path(actual: CameraPath, expected: CameraPath, atol: float) -> None:
    np.testing.assert_allclose(actual.positions, expected.positions, rtol=0, atol=atol)
    np.testing.assert_allclose(actual.rotations_w2c, expected.rotations_w2c, rtol=0, atol=atol)


def test_slices_and_poses():
    path = random_path(1, frames=10)
    assert len(path[2:7]) == 5
    assert_same_path(path[2:7], CameraPath(path.rotations_w2c[2:7], path.positions[2:7]), atol=0)
    np.testing.assert_array_equal(path[-1].position, path.positions[9])
    assert_same_path(path.reversed().reversed(), path, atol=0)
    with pytest.raises(ValueError, match="read-only"):
        path.positions[0, 0] = 1.0


def test_rebasing_makes_a_pose_the_identity_and_keeps_relative_motion():
    path = random_path(2, frames=30)
    rebased = path.rebased(7)
    np.testing.assert_array_equal(rebased.rotations_w2c[7], np.eye(3))
    np.testing.assert_array_equal(rebased.positions[7], np.zeros(3))
    np.testing.assert_allclose(actions_from_poses(rebased), actions_from_poses(path), atol=1e-13)
    point = np.array([[1.0, 2.0, 3.0]])
    seen = world_to_camera(point, path[12])
    in_camera_7 = world_to_camera(point, path[7])
    np.testing.assert_allclose(world_to_camera(in_camera_7, rebased[12]), seen, atol=1e-13)


def test_camera_to_world_matrices_are_the_inverse():
    path = random_path(4, frames=6)
    matrices = path.matrices_c2w()
    for t in range(6):
        w2c = np.eye(4)
        w2c[:3, :3] = path.rotations_w2c[t]
        w2c[:3, 3] = -path.rotations_w2c[t] @ path.positions[t]
        np.testing.assert_allclose(w2c @ matrices[t], np.eye(4), atol=1e-13)
    assert_same_path(CameraPath.from_c2w(matrices), path, atol=0)
    assert_same_path(CameraPath.from_c2w(matrices[:, :3]), path, atol=0)
    with pytest.raises(ValueError, match=r"matrices_c2w have shape \(4, 4\)"):
        CameraPath.from_c2w(matrices[0])


@pytest.mark.parametrize("name", ["path.npz", "path.json"])
def test_save_and_load_lose_nothing_and_leave_one_file(tmp_path, name):
    path = random_path(6, frames=20)
    file = tmp_path / name
    file.write_text("an older file")
    path.save(file, VIEW)
    assert_same_path(CameraPath.load(str(file)), path, atol=0)
    assert os.listdir(tmp_path) == [name]
    first = file.read_bytes()
    path.save(file, VIEW)
    assert file.read_bytes() == first
    stored = np.load(file)["intrinsics"] if name.endswith("npz") else json.loads(first)["intrinsics"]
    np.testing.assert_array_equal(stored, [VIEW.fx, VIEW.fy, VIEW.cx, VIEW.cy])


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "path.npz"
    random_path(6, frames=3).save(file)
    before = file.read_bytes()

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="disk full"):
        random_path(7, frames=3).save(file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["path.npz"]


def test_load_snaps_rounded_rotations(tmp_path):
    path = random_path(8, frames=4)
    rounded = {"rotations_w2c": path.rotations_w2c.round(4).tolist(), "positions": path.positions.tolist()}
    (tmp_path / "p.json").write_text(json.dumps(rounded))
    loaded = CameraPath.load(tmp_path / "p.json")
    assert_same_path(loaded, path, atol=1e-4)
    products = loaded.rotations_w2c @ loaded.rotations_w2c.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-14)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "p.json is no pose file"),
        ('{"rotations_w2c": []}', "p.json is no pose file"),
        ("not json", r"p.json is no \.json file"),
        ('{"rotations_w2c": [[1, 0]], "positions": [[0, 0, 0]]}', r"p.json: rotations_w2c are \(1, 2\)"),
        ('{"rotations_w2c": "x", "positions": []}', "p.json: could not convert"),
    ],
)
def test_load_names_what_is_wrong(tmp_path, content, message):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        CameraPath.load(tmp_path / "p.json")


def test_save_and_load_refuse_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.txt'"):
        CameraPath.identity().save(tmp_path / "p.txt")
    with pytest.raises(FileNotFoundError):
        CameraPath.load(tmp_path / "missing.npz")
    np.save(tmp_path / "p.npy", np.zeros(3))
    (tmp_path / "p.npy").rename(tmp_path / "p.npz")
    with pytest.raises(ValueError, match=r"p.npz is no \.npz file"):
        CameraPath.load(tmp_path / "p.npz")


def test_bad_poses_are_named_by_frame():
    rotations, positions = np.tile(np.eye(3), (3, 1, 1)), np.zeros((3, 3))
    mirrored = rotations * [1, 1, -1]
    with pytest.raises(ValueError, match="rotations_w2c of frame 0 are no rotation"):
        CameraPath(mirrored, positions)
    stretched = rotations.copy()
    stretched[2] *= 1.001
    with pytest.raises(ValueError, match="rotations_w2c of frame 2 are no rotation to 1e-06"):
        CameraPath(stretched, positions)
    positions[1, 0] = np.nan
    with pytest.raises(ValueError, match="positions of frame 1 are not finite"):
        CameraPath(rotations, positions)
    with pytest.raises(ValueError, match=r"rotations_w2c are \(3, 3, 3\), positions \(2, 3\)"):
        CameraPath(rotations, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="are no rotation"):
        CameraPose(np.zeros((3, 3)), np.zeros(3))


def test_nearest_rotation_is_a_rotation_even_of_a_mirror():
    rng = np.random.default_rng(1)
    found = nearest_rotations(rng.normal(size=(50, 3, 3)))
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-12)
    np.testing.assert_allclose(nearest_rotations(np.diag([1.1, 0.9, 1.0])), np.eye(3), atol=1e-15)
