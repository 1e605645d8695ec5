import json

import numpy as np
import pytest

from relic.actions import static_actions
from relic.camera import CameraPath
from relic_data.clips import Clip, ClipDataset, ClipError, clip_frames, clip_name, is_complete, scene_numbers, split_of
from relic_data.contact_sheet import contact_sheet, main


def write_clip(root, scene=2, frames=5):
    folder = root / "clips" / clip_name(scene, 0)
    folder.mkdir(parents=True)
    np.save(folder / "frames.npy", np.full((frames, 96, 160, 3), scene, np.uint8))
    np.save(folder / "depth.npy", np.ones((frames, 96, 160), np.float16))
    np.save(folder / "actions.npy", static_actions(frames).astype(np.float32))
    path = CameraPath.identity(frames)
    np.savez(
        folder / "poses.npz",
        rotations_w2c=path.rotations_w2c,
        positions=path.positions,
        intrinsics=np.array([83.138, 83.138, 80, 48]),
    )
    info = {"captions": ["A room."], "split": split_of(scene), "scene": scene, "seed": 0, "path_kind": []}
    (folder / "clip.json").write_text(json.dumps(info | {"objects": [], "credits": []}))
    return folder


def test_splits_are_by_scene_and_one_in_twenty():
    splits = [split_of(k) for k in range(200)]
    assert (splits.count("test"), splits.count("validation")) == (10, 10)
    assert splits[:3] == ["test", "validation", "train"]
    assert clip_name(20, 3) == "test-s00020-c03"


def test_scenes_of_one_split_are_counted_alone():
    assert scene_numbers(3) == [0, 1, 2]
    assert scene_numbers(3, 5, "test") == [20, 40, 60]
    assert scene_numbers(3, 0, "train") == [2, 3, 4]
    with pytest.raises(ValueError, match="split='rest': give one of"):
        scene_numbers(1, split="rest")


@pytest.mark.parametrize(("seconds", "frames"), [(5, 81), (20, 321), (0.25, 5), (10, 161), (1.1, 17)])
def test_lengths_are_one_and_a_multiple_of_four(seconds, frames):
    assert clip_frames(seconds) == frames


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_bad_length_is_named(seconds):
    with pytest.raises(ValueError, match="seconds="):
        clip_frames(seconds)


def test_a_data_set_lists_its_splits(tmp_path):
    for scene in (0, 1, 2, 3):
        write_clip(tmp_path, scene)
    assert [c.name for c in ClipDataset(tmp_path, "train")] == ["train-s00002-c00", "train-s00003-c00"]
    data = ClipDataset(tmp_path)
    assert len(data) == 4
    assert data.by_name("test-s00000-c00").info["scene"] == 0
    assert [c.info["split"] for c in data[:1]] == ["test"]
    clip = data[3]
    assert len(clip) == 5
    assert clip.frames.shape == (5, 96, 160, 3)
    assert isinstance(clip.frames, np.memmap)
    assert clip.captions == ["A room."]
    assert clip.intrinsics.fx == pytest.approx(83.138)
    with pytest.raises(ValueError, match="holiday"):
        ClipDataset(tmp_path, "holiday")
    with pytest.raises(ClipError, match="nobody"):
        data.by_name("nobody")


def test_a_half_written_folder_is_no_clip(tmp_path):
    folder = write_clip(tmp_path)
    assert is_complete(folder)
    (folder / "clip.json").unlink()
    assert not is_complete(folder)
    (tmp_path / "clips" / ".train-s00004-c00.123").mkdir()
    assert len(ClipDataset(tmp_path, validate=False)) == 1


@pytest.mark.parametrize("file", ["frames.npy", "depth.npy", "actions.npy", "poses.npz", "clip.json"])
def test_a_broken_clip_is_named(tmp_path, file):
    folder = write_clip(tmp_path)
    (folder / file).write_bytes(b"\x93NUMPY")
    with pytest.raises(ClipError, match=r"train-s00002-c00.*render it again"):
        ClipDataset(tmp_path)


def test_lengths_that_differ_are_named(tmp_path):
    folder = write_clip(tmp_path)
    np.save(folder / "depth.npy", np.ones((4, 96, 160), np.float16))
    with pytest.raises(ClipError, match="lengths differ"):
        Clip(folder).validate()
    np.save(folder / "depth.npy", np.ones((5, 96, 100), np.float16))
    with pytest.raises(ClipError, match="expected float16"):
        Clip(folder).validate()


def test_no_data_set_says_how_to_make_one(tmp_path):
    with pytest.raises(ClipError, match="relic data render"):
        ClipDataset(tmp_path)


def test_a_contact_sheet_shows_a_row_a_clip(tmp_path):
    from PIL import Image

    for scene in (2, 3):
        write_clip(tmp_path, scene)
    assert main([str(tmp_path), "--columns", "3"]) == 0
    assert Image.open(tmp_path / "contact_sheet.png").size == (480, 192)
    with pytest.raises(ValueError, match="0 clips"):
        contact_sheet([], tmp_path / "x.png")
