import numpy as np
import pytest

from relic_data.captions import article, caption, join, room_at
from relic_data.rooms import build_scene
from relic_data.scene import Floorplan


@pytest.fixture(scope="module")
def scenes(require):
    require("furniture")
    return {k: build_scene(1, k) for k in (8, 12, 13)}


def test_the_same_number_is_the_same_scene(scenes):
    again = build_scene(1, 8)
    assert [o.phrase for o in again.objects] == [o.phrase for o in scenes[8].objects]
    for a, b in zip(again.pieces, scenes[8].pieces, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.tint, b.tint)
    assert [o.phrase for o in build_scene(1, 8, 1).objects] != [o.phrase for o in again.objects]


def test_scenes_differ(scenes):
    materials = {(s.rooms[0].wall_phrase, s.rooms[0].floor_phrase) for s in scenes.values()}
    assert len(materials) == len(scenes)


def test_furniture_stands_inside_its_room(scenes):
    for scene in scenes.values():
        rects = np.array([r for room in scene.rooms for r in room.rects])
        for thing in scene.objects:
            if thing.credit:
                middle = (np.array(thing.low) + thing.high) / 2
                inside = (rects[:, 0] < middle[0]) & (middle[0] < rects[:, 2])
                inside &= (rects[:, 1] < middle[1]) & (middle[1] < rects[:, 3])
                assert inside.any(), thing
                assert thing.low[2] > -0.01, thing


def test_a_room_is_furnished_and_not_too_heavy(scenes):
    for scene in scenes.values():
        assert sum(bool(o.credit) for o in scene.objects) >= 8
        assert sum(len(p.triangles) for p in scene.pieces) < 60_000


def test_every_normal_has_unit_length_and_every_texture_exists(scenes):
    for scene in scenes.values():
        for piece in scene.pieces:
            assert piece.texture == "white" or piece.texture in scene.textures
            if not piece.two_sided:
                np.testing.assert_allclose(np.linalg.norm(piece.normals, axis=1), 1, atol=1e-3)


def test_a_floor_plan_knows_what_is_taken(scenes):
    plan = Floorplan(scenes[8].rooms)
    x0, y0, x1, y1 = scenes[8].rooms[0].rects[0]
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    assert plan.fits(middle - 0.3, middle + 0.3)
    plan.occupy(middle - 0.1, middle + 0.1)
    assert not plan.fits(middle - 0.3, middle + 0.3)
    assert not plan.fits(np.array([x0 - 0.3, y0]), np.array([x0 + 0.3, y0 + 0.5]))


def test_captions_name_the_room_its_materials_and_objects_that_exist(scenes):
    from relic_data.views import View

    for scene in scenes.values():
        named = [k for k, o in enumerate(scene.objects) if o.credit][:4]
        shares = dict.fromkeys(named, 0.05)
        view = View(median_depth=2, near_depth=1, interest=0.5, sky=0, shares=shares)
        texts = {caption(scene, np.random.default_rng(k), scene.rooms[0], [view]) for k in range(8)}
        assert len(texts) > 3
        for text in texts:
            assert scene.rooms[0].floor_phrase.lower() in text.lower()
            assert sum(scene.objects[k].phrase.lower() in text.lower() for k in named) >= 1
            assert text[0].isupper()
            assert text.endswith(".")


def test_small_words():
    assert article("orange sofa") == "an orange sofa"
    assert article("navy curtains") == "navy curtains"
    assert join(["a", "b", "c"]) == "a, b and c"


def test_the_room_at_a_point(scenes):
    for scene in scenes.values():
        for room in scene.rooms:
            x0, y0, x1, y1 = room.rects[0]
            assert room_at(scene, [(x0 + x1) / 2, (y0 + y1) / 2, 1.5]) is room
