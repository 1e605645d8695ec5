"""Which catalogue models furnish which rooms: hand-picked, the odd, the ugly and the too heavy left out."""

from __future__ import annotations

from types import MappingProxyType


def _keys(library: str, names: str) -> tuple[str, ...]:
    return tuple(f"{library}/{name}" for name in names.split())


_C0, _CB, _K, _S = "BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Scopia"

ROLES = MappingProxyType(
    {
        "sofa": _keys(_C0, "couch2 sofa2") + _keys(_CB, "sofa2")
        + _keys(_K, "futon-couch mid-century-sofa mid-century-bench-sofa")
        + _keys(_S, "clear_sofa burlap_sofa simple_sofa sofa_white_beige convertible-sofa-BZ-closed"),
        "armchair": _keys(_C0, "armchair2 modernArmchair winchesterArmchair")
        + _keys(_CB, "armchair1 fotel leaf_chair armChair2") + _keys(_K, "mid-century-chair chair-ottoman")
        + _keys(_S, "armchair1 armchair2 armchair3 armchair modern_armchair puff"),
        "chair": _keys(_C0, "chair2 osakaChair sillaBlanca antiqueChair chairWithCushion chair plasticChair thonet")
        + _keys(_CB, "chair3 kitchenChair plaidChair cafe_set_mota_chair ella_chair_f chair4")
        + _keys(_K, "dining-chair")
        + _keys(_S, "chair chair3 chair4 tubular_chair white_kitchen_chair plastic_chair"),
        "dining_table": _keys(_C0, "oakTable table tableWithTablecloth") + _keys(_CB, "table")
        + _keys(_S, "table4 black_table round-table table-on-trestles table-with-leaning-feet")
        + _keys(_S, "table3 wooden_table_office"),
        "coffee_table": _keys(_CB, "coffeeTable")
        + _keys(_S, "coffee-table2 coffee_table living_room_table saloon_table table_wood_and_iron"),
        "shelf": _keys(_C0, "verticalShelves") + _keys(_CB, "bookcase") + _keys(_K, "full-bookcase")
        + _keys(_S, "dining_room kids_shelves office_box office_furniture1"),
        "cabinet": _keys(_C0, "cupboard shelves") + _keys(_CB, "dresserWithDrawers chest")
        + _keys(_S, "box_room changing-table"),
        "bed": _keys(_C0, "bed1 bed2 bedWithTexture bed3") + _keys(_CB, "juniorBed")
        + _keys(_S, "bed1 day_bed_frame captains-bed futon"),
        "bedside": _keys(_C0, "bedsideTable2") + _keys(_CB, "bedsideTable"),
        "wardrobe": _keys(_C0, "wardrobeWithSlidingDoors cupboard") + _keys(_CB, "wardrobe2 wardrobe")
        + _keys(_S, "wardrobe1"),
        "dresser": _keys(_S, "dressing-table") + _keys(_CB, "dresserWithDrawers chest"),
        "desk": _keys(_C0, "desk lbDesk") + _keys(_CB, "officeTable simpleDesk biurko3")
        + _keys(_S, "wooden_office_alder_table kids_desk_table kids_wooden_desk wooden_office_pear_table_rect"),
        "office_chair": _keys(_C0, "armchair") + _keys(_S, "office_chair modern_armchair"),
        "computer": _keys(_K, "apple-imac-1998") + _keys(_S, "apple_pc") + _keys(_CB, "laptop"),
        "tv": _keys(_S, "tv") + _keys(_C0, "led_tv"),
        "tv_stand": _keys(_CB, "tvStand") + _keys(_C0, "shelves"),
        "plant": _keys(_C0, "plant decorativePlant augalas") + _keys(_S, "maceta christmas_tree"),
        "small_plant": _keys(_C0, "littlePlant orchids cactus") + _keys(_S, "bonsai-tree"),
        "vase": _keys(_S, "jar vase1 vase3 vase2"),
        "table_lamp": _keys(_C0, "desklamp JapaneseLantern") + _keys(_CB, "lamp") + _keys(_K, "pedestal-vase-lamp")
        + _keys(_S, "little_lamp2 livingroom_lamp1 desk_lamp2 candle little_lamp1"),
        "floor_lamp": _keys(_S, "living_lamp"),
        "hanging_lamp": _keys(_CB, "hangingLight") + _keys(_C0, "lamp2") + _keys(_K, "hanging-restaurant-light"),
        "fireplace": _keys(_S, "fireplace1"),
        "piano": _keys(_C0, "pianoAQueue"),
        "kitchen_low": _keys(_C0, "lowerCabinet drawersCabinet"),
        "kitchen_sink": _keys(_C0, "sinkCabinet"),
        "kitchen_upper": _keys(_C0, "upperCabinet glassDoorCabinet"),
        "kitchen_low_b": _keys(_CB, "kitchenLowerCabinet kitchenSmallLowerCabinet kitchenDrawersCabinet"),
        "kitchen_sink_b": _keys(_CB, "kitchenSink"),
        "kitchen_upper_b": _keys(_CB, "kitchenUpperCabinet kitchenSmallUpperCabinet"),
        "fridge": _keys(_C0, "largeFridge refrigerator") + _keys(_K, "fridge"),
        "washer": _keys(_S, "clothes_washing_machine dryer_machine") + _keys(_CB, "washing_machine"),
        "island": _keys(_CB, "kitchenIsland") + _keys(_C0, "islandExtension"),
        "bar_stool": _keys(_C0, "stool silla2 stool2") + _keys(_S, "bar_chair kitchen_stool") + _keys(_K, "bar-stool"),
        "kitchen_small": _keys(
            _S, "bowlWithFruits bowlWithSalad toaster cooker small-oven spiceTower old_jar apples bowl")
        + _keys(_CB, "breadBox kitchenScale") + _keys(_K, "coffee-maker bowl"),
        "table_small": _keys(_S, "bowlWithFruits apples bonsai-tree vase1 vase3 jar candle bowl")
        + _keys(_C0, "littlePlant orchids"),
        "workshop_bench": _keys(_CB, "workbench") + _keys(_C0, "technicalTable1"),
        "workshop": _keys(_C0, "barrel crate ammoBox box")
        + _keys(_S, "cardboard-box open-cardboard-box step-ladder-metal wood_logs step-ladder-wood mower"),
        "hobby": _keys(_S, "indoor-bike punching-ball flipper aquarium doll-house")
        + _keys(_C0, "basketball caballito teddyBear electricGuitar"),
        "bench": _keys(_K, "bench painted-bench") + _keys(_C0, "bench"),
        "screen": _keys(_S, "japanese_style_screen clothes-rack"),
        "garden_seat": _keys(_C0, "deckChair bench") + _keys(_CB, "chair_deck poolLounge")
        + _keys(_K, "painted-bench")
        + _keys(_S, "rattanArmchair rattanSofa silla_teca wood_bank beach_chair ext_chair"),
        "garden_table": _keys(_S, "rattanTable ext_table round-table") + _keys(_K, "cafe-table"),
        "garden_thing": _keys(_C0, "lantern stoneLantern rock1 rock3 barrel flowerBox")
        + _keys(_CB, "fountain rowboat") + _keys(_K, "classic-lamppost")
        + _keys(_S, "dog-house sandpit maceta"),
        "garden_big": _keys(
            _S, "garden-hut campingTent trampoline jacuzzi round-swimming-pool child_swing parque barnum")
        + _keys(_C0, "childSwing umbrella childHut"),
        "hedge": _keys(_S, "hedgeTextured"),
    }
)  # fmt: skip
"""Role -> keys of catalogue models that can play it."""

UPHOLSTERED = frozenset({"sofa", "armchair", "bed", "office_chair", "chair"})
PAINTABLE = frozenset(
    {"cabinet", "wardrobe", "dresser", "bar_stool", "vase", "coffee_table", "desk", "shelf", "tv_stand"}
)
"""Roles whose plain parts may be recoloured."""

TRIANGLE_LIMITS = MappingProxyType(
    {"sofa": 2200, "bed": 2600, "armchair": 1600, "chair": 1000, "plant": 2600, "garden_big": 3500, "garden_seat": 1700,
     "piano": 2600, "shelf": 2200, "hedge": 2200}
)  # fmt: skip
DEFAULT_LIMIT = 1300

PHRASES = MappingProxyType(
    {"couch": "sofa", "tv 16:9": "television", "tv": "television", "box": "storage box", "wood bank": "wooden bench",
     "little lamp": "table lamp", "puff": "pouffe", "small oven": "small oven", "children game": "play frame",
     "convertible sofa bz": "sofa bed", "winchester armchair": "leather armchair", "teck chair": "teak chair",
     "barnum": "garden pavilion", "flipper": "pinball machine", "screen": "folding screen", "cupboard": "cupboard",
     "technical table": "workbench", "apple imac 1998": "computer", "apple imac 2004": "computer",
     "clothes washing machine": "washing machine", "littlebank": "low bench", "armchair ottoman": "lounge chair",
     "clear sofa": "sofa", "wooden alder table": "wooden desk", "wooden table": "wooden desk",
     "augalas": "potted plant", "plant": "potted plant", "little plant": "small potted plant",
     "large fridge": "large fridge", "refrigerator": "fridge", "modern armchair": "modern armchair",
     "drawers cabinet": "kitchen cabinet", "lower cabinet": "kitchen cabinet", "small lower cabinet": "kitchen cabinet",
     "upper cabinet": "wall cabinet", "small upper cabinet": "wall cabinet", "sink": "kitchen sink",
     "sink cabinet": "kitchen sink", "islandextension": "kitchen island", "island extension": "kitchen island",
     "island": "kitchen island", "glass door cabinet": "wall cabinet", "mower": "lawn mower"}
)  # fmt: skip


def phrase_of(name: str) -> str:
    """What a caption calls a model of this catalogue name, without an article."""
    return PHRASES.get(name.lower(), name.lower())
