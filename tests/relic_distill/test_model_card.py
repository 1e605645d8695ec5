from pathlib import Path

import pytest

from relic.weights import read_manifest
from relic.world import World
from relic_distill.model_card import BEGIN, CARD, END, write_card


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    World.tiny().save(tmp_path, {"recipe": "tiny", "minutes": {"vae": 1.5, "dmd": 2.0}})
    return tmp_path


def test_a_new_card_tells_files_and_provenance(weights: Path) -> None:
    manifest = read_manifest(weights)
    write_card(weights, manifest)
    text = (weights / CARD).read_text()
    parameters = sum(parameter.numel() for parameter in World.load(weights).model.parameters())
    assert f"| `world.safetensors` | {parameters / 1e6:.1f} million | float32 |" in text
    assert manifest.sha256["vae.safetensors"][:12] in text
    assert "* recipe: tiny\n* minutes: vae 1.5, dmd 2.0\n" in text


def test_what_people_wrote_stays(weights: Path) -> None:
    manifest = read_manifest(weights)
    (weights / CARD).write_text(f"# Ours\n\nabove\n\n{BEGIN}\nold facts\n{END}\n\nbelow\n")
    write_card(weights, manifest)
    write_card(weights, manifest)
    text = (weights / CARD).read_text()
    assert text.startswith("# Ours\n\nabove\n\n" + BEGIN)
    assert text.endswith(END + "\n\nbelow\n")
    assert "old facts" not in text
    assert text.count("* recipe: tiny") == 1
    (weights / CARD).write_text("# Without marks\n")
    write_card(weights, manifest)
    assert (weights / CARD).read_text().startswith("# Without marks\n\n" + BEGIN)


def test_half_a_frame_is_refused_and_nothing_is_lost(weights: Path) -> None:
    (weights / CARD).write_text(f"# Ours\n{BEGIN}\n")
    with pytest.raises(ValueError, match="has lost one of the marks"):
        write_card(weights, read_manifest(weights))
    assert (weights / CARD).read_text() == f"# Ours\n{BEGIN}\n"
