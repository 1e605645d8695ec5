"""The facts of a release in its `MODEL_CARD.md`: what the files are and how they came to be.

Facts stand between two marks and are replaced at each release; what people wrote around them stays.
"""

from __future__ import annotations

import os
from pathlib import Path

from relic.checkpoint import load_checkpoint
from relic.weights import Manifest

CARD = "MODEL_CARD.md"
BEGIN, END = "<!-- facts of the release: begin -->", "<!-- facts of the release: end -->"

_NEW_CARD = """# A RELIC world

A causal video-diffusion transformer that shows what a camera sees as it moves from one start picture, with the
auto-encoder of its latents and the network that sees depth. Trained with RELIC; `relic play --weights FOLDER` plays it.

{facts}

**Meant for** pictures like those it was trained on. Nothing in its world moves by itself. What the start picture did
not show is invented.

The training pictures show models of the Sweet Home 3D libraries (CC0 and CC-BY 3.0) and textures of MiniWorld; a data
set's credits are in its clips' `clip.json`.
"""


def facts_of(folder: Path, manifest: Manifest) -> str:
    """A table of the files, and the manifest's provenance as a list.

    Args:
        folder: of the release.
        manifest: its manifest, written already.
    """
    lines = ["| file | parameters | stored as | MB | sha256 |", "|---|---|---|---|---|"]
    for name in manifest.files:
        tensors = load_checkpoint(folder / name)[0].values()
        count = sum(tensor.numel() for tensor in tensors)
        kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        size = (folder / name).stat().st_size / 1e6
        cells = (f"`{name}`", f"{count / 1e6:.1f} million", ", ".join(kinds), f"{size:.1f}")
        lines.append(f"| {' | '.join(cells)} | `{manifest.sha256[name][:12]}` |")
    told = [f"* {key.replace('_', ' ')}: {_told(value)}" for key, value in manifest.provenance.items()]
    return "\n".join([BEGIN, *lines, "", *told, END])


def write_card(folder: Path, manifest: Manifest) -> None:
    """Put the facts into the folder's card, or write a card where there is none; atomically.

    Raises:
        ValueError: when the card there has one mark and not the other.
    """
    path, facts = folder / CARD, facts_of(folder, manifest)
    text = path.read_text(encoding="utf-8") if path.is_file() else _NEW_CARD.format(facts=f"{BEGIN}{END}")
    if (BEGIN in text) != (END in text):
        raise ValueError(f"{path} has lost one of the marks {BEGIN} and {END}: write both again, or remove the card")
    if BEGIN in text:
        before, _, rest = text.partition(BEGIN)
        text = before + facts + rest.partition(END)[2]
    else:
        text = f"{text.rstrip()}\n\n{facts}\n"
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)
