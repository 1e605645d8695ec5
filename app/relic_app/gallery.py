"""The start pictures that come with the weights: `gallery/gallery.json` and its JPEGs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from relic_app.uploads import decode_picture


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryPicture:
    """One start picture.

    Attributes:
        id: its file's name without the suffix.
        path: the file.
        title: what the player reads.
        prompt: the prompt to begin with.
    """

    id: str
    path: Path
    title: str
    prompt: str


class Gallery:
    """The start pictures, in their order.

    Args:
        pictures: the pictures; their ids must differ.

    Raises:
        ValueError: an id appears twice.
    """

    def __init__(self, pictures: list[GalleryPicture]) -> None:
        self.pictures = pictures
        self._by_id = {picture.id: picture for picture in pictures}
        if len(self._by_id) != len(pictures):
            raise ValueError("two gallery pictures have the same file name: rename one")

    @classmethod
    def load(cls, weights_dir: Path) -> Gallery:
        """Read `weights_dir/gallery/gallery.json`: a list of {"file", "title", "prompt"}.

        Raises:
            ValueError: the file is no such list, or names a picture that is not there.
            FileNotFoundError: no gallery.json.
        """
        folder = weights_dir / "gallery"
        source = folder / "gallery.json"
        try:
            entries = json.loads(source.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{source} is no JSON: {error}") from None
        if not isinstance(entries, list):
            raise ValueError(f'{source} must hold a list of {{"file", "title", "prompt"}}')
        return cls([_read_entry(folder, source, entry) for entry in entries])

    def get(self, identifier: str) -> GalleryPicture:
        """Return the picture of an id.

        Raises:
            ValueError: no such picture.
        """
        if identifier not in self._by_id:
            raise ValueError(f"the gallery has no picture {identifier!r}: reload the page")
        return self._by_id[identifier]

    def open(self, identifier: str) -> Image.Image:
        """Return the RGB picture of an id.

        Raises:
            ValueError: no such picture, or a damaged one.
        """
        picture = self.get(identifier)
        return decode_picture(picture.path.read_bytes(), picture.path.name)


def _read_entry(folder: Path, source: Path, entry: Any) -> GalleryPicture:
    wanted = ("file", "title", "prompt")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in wanted):
        raise ValueError(f"{source}: {entry!r} is no entry with the texts {', '.join(wanted)}")
    name = entry["file"]
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise ValueError(f"{source} names {name!r}, which is no file beside it")
    return GalleryPicture(id=path.stem, path=path, title=entry["title"], prompt=entry["prompt"])
