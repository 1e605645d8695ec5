import json

import pytest
from PIL import Image

from relic_app.gallery import Gallery


def make(tmp_path, entries, files=("a.jpg", "b.jpg")):
    folder = tmp_path / "gallery"
    folder.mkdir()
    for name in files:
        Image.new("RGB", (32, 32), "red").save(folder / name)
    (folder / "gallery.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return tmp_path


def entry(file):
    return {"file": file, "title": file.upper(), "prompt": "a room"}


def test_pictures_keep_their_order_and_are_found_by_id(tmp_path):
    gallery = Gallery.load(make(tmp_path, [entry("b.jpg"), entry("a.jpg")]))
    assert [picture.id for picture in gallery.pictures] == ["b", "a"]
    assert gallery.get("a").title == "A.JPG"
    assert gallery.open("a").size == (32, 32)
    with pytest.raises(ValueError, match="no picture 'c'"):
        gallery.get("c")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("{", "no JSON"),
        ({"file": "a.jpg"}, "must hold a list"),
        ([{"file": "a.jpg"}], "no entry with the texts file, title, prompt"),
        (["a.jpg"], "no entry"),
        ([entry("c.jpg")], "'c.jpg', which is no file"),
        ([entry("../gallery/a.jpg")], "which is no file beside it"),
        ([entry("a.jpg"), entry("a.jpg")], "same file name"),
    ],
)
def test_a_bad_gallery_is_refused_with_its_fault(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message):
        Gallery.load(make(tmp_path, entries))


def test_no_gallery_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Gallery.load(tmp_path)
