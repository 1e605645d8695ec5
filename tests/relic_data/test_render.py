import errno
import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from relic.camera import actions_from_poses
from relic_data.assets import AssetError
from relic_data.clips import ClipDataset, ClipError, clip_name

pytestmark = pytest.mark.render
SEED, FIRST, SECONDS = 1, 7, 0.5


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, require):
    from relic_data.render import render_dataset

    require("panda3d", "furniture")
    out = tmp_path_factory.mktemp("rendered")
    render_dataset(out, 2, SECONDS, SEED, workers=1, clips_per_scene=2, first_scene=FIRST, progress=False)
    return out


def digests(out):
    files = sorted(p for p in (out / "clips").rglob("*") if p.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_data_set_is_complete_and_reads_back(rendered):
    data = ClipDataset(rendered)
    assert [c.name for c in data] == [clip_name(s, k) for s in (7, 8) for k in (0, 1)]
    for clip in data:
        assert len(clip) == 9
        assert len(clip.captions) == 1
        info = clip.info
        assert info["seed"] == SEED
        assert info["split"] == "train"
        assert info["path_kind"]
        assert any("Sweet Home 3D" in line for line in info["credits"])
        assert any("MiniWorld" in line for line in info["credits"])
        np.testing.assert_allclose(clip.actions, actions_from_poses(clip.path).astype(np.float32))
        np.testing.assert_allclose(clip.path.rotations_w2c[0], np.eye(3), atol=1e-12)
        assert float(clip.depth.min()) > 0
        assert float(clip.depth.max()) <= 100
    index = json.loads((rendered / "dataset.json").read_text())
    assert [c["name"] for c in index["clips"]] == [c.name for c in data]
    assert {c["frames"] for c in index["clips"]} == {9}
    assert index["fps"] == 16
    assert index["intrinsics"] == pytest.approx([83.138, 83.138, 80, 48], abs=1e-3)


def test_captions_and_objects_are_of_the_scene(rendered, furnished):
    phrases = {o.phrase for o in furnished.objects}
    clips = [c for c in ClipDataset(rendered) if c.info["scene"] == 8]
    assert len(clips) == 2
    for clip in clips:
        assert set(clip.info["objects"]) <= phrases
        assert sum(p.lower() in clip.captions[0].lower() for p in clip.info["objects"]) >= 1
        assert clip.info["rooms"][0] in {r.kind for r in furnished.rooms}


def test_workers_order_and_restarts_do_not_change_a_byte(rendered, tmp_path):
    from relic_data.render import render_dataset

    before = digests(rendered)
    render_dataset(tmp_path, 2, SECONDS, SEED, workers=2, clips_per_scene=1, first_scene=FIRST, progress=False)
    other = digests(tmp_path)
    assert len(other) == 10
    assert other == {name: before[name] for name in other}
    kept = tmp_path / "clips" / clip_name(7, 0) / "frames.npy"
    stamp = kept.stat().st_mtime_ns
    for file in (tmp_path / "clips" / clip_name(8, 0)).iterdir():
        file.unlink()
    (tmp_path / "clips" / clip_name(8, 0)).rmdir()
    (tmp_path / "clips" / ".train-s00008-c00.99999999").mkdir()
    render_dataset(tmp_path, 2, SECONDS, SEED, workers=1, first_scene=FIRST, progress=False)
    assert digests(tmp_path) == other
    assert kept.stat().st_mtime_ns == stamp
    assert not list((tmp_path / "clips").glob(".*"))


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_interruption_leaves_no_half_clip(rendered, tmp_path, monkeypatch, stop):
    from relic_data import film
    from relic_data.render import DiskFullError, render_dataset

    real, calls = film.write_text, []

    def failing(path, text):
        calls.append(path)
        if len(calls) == 2:
            raise stop
        real(path, text)

    monkeypatch.setattr(film, "write_text", failing)
    expected = DiskFullError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        render_dataset(tmp_path, 1, SECONDS, SEED, workers=1, clips_per_scene=2, first_scene=8, progress=False)
    assert [p.name for p in (tmp_path / "clips").iterdir()] == [clip_name(8, 0)]
    assert len(ClipDataset(tmp_path)) == 1
    index = json.loads((tmp_path / "dataset.json").read_text())
    assert [c["name"] for c in index["clips"]] == [clip_name(8, 0)]


def test_workers_end_with_a_parent_that_is_killed(rendered, tmp_path):
    command = [sys.executable, "-m", "relic_data.render", "--out", str(tmp_path), "--scenes", "40", "--workers", "2"]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("clips/.*")):
            assert parent.poll() is None
            time.sleep(0.05)
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
    finally:
        parent.kill()
        parent.wait()
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_bad_numbers_are_named(tmp_path):
    from relic_data.render import render_dataset

    for name in ("scenes", "workers", "clips_per_scene", "first_scene", "seed"):
        numbers = {"scenes": 1, "workers": 1, "clips_per_scene": 1, "first_scene": 0, "seed": 0} | {name: -1}
        with pytest.raises(ValueError, match=f"{name}=-1"):
            render_dataset(tmp_path, seconds=1, progress=False, **numbers)
    with pytest.raises(ValueError, match="seconds=0"):
        render_dataset(tmp_path, 1, 0, 0, 1)
    assert not list(tmp_path.iterdir())


def test_two_data_sets_do_not_mix_in_one_folder(rendered, tmp_path):
    from relic_data.render import render_dataset

    with pytest.raises(ValueError, match="choose another folder"):
        render_dataset(rendered, 2, SECONDS, SEED + 1, workers=1, progress=False)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ClipError, match="damaged"):
        render_dataset(tmp_path, 1, SECONDS, SEED, workers=1, progress=False)


def test_missing_assets_are_reported_before_anything_is_written(tmp_path, monkeypatch):
    from relic_data import render

    def missing():
        raise AssetError("apt-get install sweethome3d-furniture")

    monkeypatch.setattr(render, "furniture_archives", missing)
    with pytest.raises(AssetError, match="apt-get install"):
        render.render_dataset(tmp_path / "new", 1, SECONDS, SEED, workers=1)
    assert not (tmp_path / "new").exists()


def test_a_cramped_scene_is_furnished_anew(tmp_path, monkeypatch):
    from relic_data import film
    from relic_data.paths import PathError, PathPlanner
    from relic_data.render import render_dataset

    real, built = PathPlanner.plan, []

    def cramped_at_first(self, rng, frames, **options):
        if not built:
            built.append(1)
            raise PathError("cramped")
        return real(self, rng, frames, **options)

    seen, build = [], film.build_scene

    def watched(seed, scene, variant=0):
        seen.append(variant)
        return build(seed, scene, variant)

    monkeypatch.setattr(PathPlanner, "plan", cramped_at_first)
    monkeypatch.setattr(film, "build_scene", watched)
    render_dataset(tmp_path, 1, 0.25, SEED, workers=1, first_scene=8, progress=False)
    assert seen == [0, 1]
    assert len(ClipDataset(tmp_path)) == 1


def test_the_command_line(rendered):
    from relic_data.render import main

    arguments = ["--scenes", "2", "--first-scene", "7", "--clips-per-scene", "2", "--seconds", "0.5", "--seed", "1"]
    before = digests(rendered)
    assert main(["--out", str(rendered), *arguments]) == 0
    assert digests(rendered) == before
