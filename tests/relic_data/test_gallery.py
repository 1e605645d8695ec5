import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relic.camera import CameraPath
from relic_data.gallery import make_gallery


@pytest.fixture
def data(tmp_path: Path, write_clip: Callable[..., None]) -> Path:
    frames = np.arange(2 * 96 * 160 * 3, dtype=np.int64).reshape(2, 96, 160, 3).astype(np.uint8)
    for name in ("test-s00000-c00", "test-s00020-c00", "train-s00002-c00"):
        write_clip(tmp_path, name, frames, CameraPath.identity(2), [f"the room of {name}"])
        info = tmp_path / "clips" / name / "clip.json"
        info.write_text(json.dumps({**json.loads(info.read_text()), "credits": ["Chair by Ann", f"Lamp of {name}"]}))
    return tmp_path


def test_pictures_prompts_and_credits_are_written_in_order(data: Path, tmp_path: Path) -> None:
    make_gallery(data, {"test-s00020-c00": "Blue room", "test-s00000-c00": "Hall"}, tmp_path / "gallery")
    entries = json.loads((tmp_path / "gallery" / "gallery.json").read_text())
    assert [entry["title"] for entry in entries] == ["Blue room", "Hall"]
    assert entries[0]["prompt"] == "the room of test-s00020-c00"
    first = np.load(data / "clips" / "test-s00020-c00" / "frames.npy")[0]
    assert np.array_equal(np.array(Image.open(tmp_path / "gallery" / entries[0]["file"])), first)
    credits = (tmp_path / "gallery" / "CREDITS.md").read_text()
    assert credits.count("Chair by Ann") == 1
    assert "Lamp of test-s00000-c00" in credits


@pytest.mark.parametrize(
    ("picks", "said"),
    [
        ({"train-s00002-c00": "Room"}, "train-s00002-c00 is no test clip"),
        ({"test-s00000-c00": ""}, "must have 1 to 18 characters"),
        ({"test-s00000-c00": "A title that is far too long"}, "must have 1 to 18 characters"),
        ({"test-s00060-c00": "Room"}, "no clip 'test-s00060-c00'"),
    ],
)
def test_bad_picks_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, picks: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make_gallery(data, picks, tmp_path / "gallery")
    assert not (tmp_path / "gallery").exists()
