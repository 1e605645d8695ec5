import numpy as np
import pytest

from relic_data import furniture
from relic_data.assets import (
    AssetError,
    catalogue,
    credit,
    furniture_archives,
    load_model,
    portrait,
    portrait_names,
    texture,
)


def test_missing_furniture_names_the_command(tmp_path):
    with pytest.raises(AssetError, match="apt-get install sweethome3d-furniture"):
        furniture_archives(tmp_path)


def test_every_hand_picked_model_is_in_the_catalogue(require):
    require("furniture")
    wanted = {key for keys in furniture.ROLES.values() for key in keys}
    assert len(wanted) > 150
    assert wanted <= set(catalogue())


@pytest.mark.parametrize("key", ["BlendSwap-CC-BY/coffeeTable", "Scopia/table4", "BlendSwap-CC-0/deckChair"])
def test_a_model_has_its_catalogue_size_and_stands_on_the_floor(require, key):
    require("furniture")
    model = load_model(key)
    points = np.concatenate([p.positions for p in model.parts])
    np.testing.assert_allclose(points.max(0) - points.min(0), model.item.size, atol=1e-4)
    np.testing.assert_allclose(points.min(0)[2], 0, atol=1e-5)
    np.testing.assert_allclose((points.max(0) + points.min(0))[:2], 0, atol=1e-4)


def test_an_unknown_model_is_named(require):
    require("furniture")
    with pytest.raises(ValueError, match="nowhere/sofa"):
        load_model("nowhere/sofa")


def test_a_credit_names_the_creator_and_the_licence(require):
    require("furniture")
    line = credit(catalogue()["BlendSwap-CC-0/deckChair"])
    assert "Deck chair" in line
    assert line.endswith("CC0")
    assert "CC-BY 3.0" in credit(catalogue()["Scopia/table4"])


def test_textures_and_portraits_are_small_pictures(require):
    require("furniture")
    assert texture("wood_1").shape == (256, 256, 3)
    image, aspect = portrait(portrait_names()[0])
    assert image.shape == (128, 128, 3)
    assert 0.3 < aspect < 2
    with pytest.raises(AssetError, match="no_such_wood"):
        texture("no_such_wood")
