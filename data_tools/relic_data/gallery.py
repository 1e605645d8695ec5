"""Start pictures for the page: first frames of held-out clips, with their captions and credits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from relic.json_files import write_json
from relic_data.clips import ClipDataset

TITLE_LENGTH = 18


def make_gallery(data: Path, picks: Mapping[str, str], out: Path) -> None:
    """Write a gallery folder: PNG pictures, `gallery.json` and `CREDITS.md`.

    Args:
        data: folder written by `relic data render`.
        picks: title by clip name, in the order of the gallery.
        out: folder; created if absent, its own files are replaced.

    Raises:
        ValueError: for a clip of another split than test, which the world may have been trained on, an unknown clip,
            or a title that is empty or too long for its tile.
    """
    for name, title in picks.items():
        if not name.startswith("test-"):
            raise ValueError(f"{name} is no test clip: a gallery shows places the world was not trained on")
        if not 0 < len(title) <= TITLE_LENGTH:
            raise ValueError(f"title {title!r} of {name} must have 1 to {TITLE_LENGTH} characters")
    clips = ClipDataset(data, "test", validate=False)
    chosen = [(clips.by_name(name), title) for name, title in picks.items()]
    out.mkdir(parents=True, exist_ok=True)
    entries, credits = [], set()
    for clip, title in chosen:
        file = f"{clip.name}.png"
        partial = out / f".{file}.partial-{os.getpid()}"
        Image.fromarray(clip.frames[0]).save(partial, format="PNG", optimize=True)
        os.replace(partial, out / file)
        entries.append({"file": file, "title": title, "prompt": clip.captions[0]})
        credits.update(clip.info["credits"])
    lines = [
        "# Credits",
        "",
        "The pictures show 3-D models and textures by:",
        "",
        *(f"* {one}" for one in sorted(credits)),
    ]
    partial = out / f".CREDITS.partial-{os.getpid()}"
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, out / "CREDITS.md")
    write_json(out / "gallery.json", entries)
