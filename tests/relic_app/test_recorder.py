import imageio.v3 as iio
import numpy as np
import pytest

from relic.camera import CameraPath, CameraPose
from relic_app import recorder as recorder_module
from relic_app.recorder import Recorder
from relic_app.video import VideoWriter

FRAMES = [np.full((96, 160, 3), shade, np.uint8) for shade in range(10, 250, 20)]


def pose(z: float) -> CameraPose:
    return CameraPose(np.eye(3), np.array([0.0, 0.0, z]))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_video_plays_with_every_frame_at_its_shade(tmp_path):
    writer = VideoWriter(tmp_path / "v.mp4", width=160, height=96, fps=16)
    for frame in FRAMES:
        writer.add(frame)
    assert names(tmp_path) != ["v.mp4"]
    assert writer.close() == tmp_path / "v.mp4"
    assert names(tmp_path) == ["v.mp4"]
    shown = iio.imread(tmp_path / "v.mp4")
    assert shown.shape == (len(FRAMES), 384, 640, 3)
    np.testing.assert_allclose(shown.mean(axis=(1, 2, 3)), [frame.mean() for frame in FRAMES], atol=4)
    meta = iio.immeta(tmp_path / "v.mp4")
    assert meta["fps"] == 16
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")


def test_an_abandoned_video_leaves_nothing(tmp_path):
    writer = VideoWriter(tmp_path / "v.mp4", width=160, height=96, fps=16)
    writer.add(FRAMES[0])
    writer.abandon()
    assert names(tmp_path) == []


def test_a_video_refuses_wrong_names_and_frames(tmp_path):
    with pytest.raises(ValueError, match=r"v.avi.* ends in neither .mp4 nor .gif"):
        VideoWriter(tmp_path / "v.avi", width=160, height=96, fps=16)
    writer = VideoWriter(tmp_path / "v.mp4", width=160, height=96, fps=16)
    with pytest.raises(ValueError, match="does not fit"):
        writer.add(np.zeros((10, 10, 3), np.uint8))
    writer.abandon()


def test_a_recording_is_a_video_and_the_poses_of_its_frames(tmp_path):
    recorder = Recorder(tmp_path, "walk", width=160, height=96, fps=16)
    for index, frame in enumerate(FRAMES):
        recorder.add(frame, pose(index / 10))
    assert recorder.seconds == len(FRAMES) / 16
    files = recorder.finish()
    assert names(tmp_path) == ["walk.mp4", "walk.poses.json"]
    assert files.frames == len(FRAMES)
    assert len(iio.imread(files.video)) == len(FRAMES)
    poses = CameraPath.load(files.poses)
    np.testing.assert_allclose(poses.positions[:, 2], np.arange(len(FRAMES)) / 10)


def test_a_recording_of_nothing_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="nothing was shown"):
        Recorder(tmp_path, "walk", width=160, height=96, fps=16).finish()
    assert names(tmp_path) == []


def test_an_abandoned_recording_leaves_nothing(tmp_path):
    recorder = Recorder(tmp_path, "walk", width=160, height=96, fps=16)
    recorder.add(FRAMES[0], pose(0))
    recorder.abandon()
    recorder._thread.join(20)
    assert names(tmp_path) == []


def test_a_recording_ends_at_its_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "MAX_SECONDS", 4 / 16)
    recorder = Recorder(tmp_path, "walk", width=160, height=96, fps=16)
    for frame in FRAMES:
        recorder.add(frame, pose(0))
    assert recorder.finish().frames == 4


def test_an_encoder_that_fails_is_told(tmp_path):
    recorder = Recorder(tmp_path / "no such folder", "walk", width=160, height=96, fps=16)
    recorder.add(FRAMES[0], pose(0))
    with pytest.raises(OSError, match="could not be encoded"):
        recorder.finish()
