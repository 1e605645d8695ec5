"""Captions of static content, written from the scene's own list of rooms, materials and visible objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relic_data.palette import Rng
from relic_data.scene import Room, Scene
from relic_data.views import View

SKIP = frozenset({"shell", "sky", "wall", "ceiling_lamp"})
_OPENINGS = (
    "A {room} with {walls} and {floor}.",
    "The {room} has {walls} and {floor}.",
    "Inside a {room}: {walls}, {floor}.",
    "A furnished {room}, {walls}, {floor} underfoot.",
    "This {room} has {floor} and {walls}.",
    "{floor} and {walls} in a {room}.",
)
_GARDEN = (
    "A garden with {floor} and {walls}.",
    "Outdoors, {floor} enclosed by {walls}.",
    "A small garden under an open sky: {floor}, {walls}.",
    "An outdoor terrace with {floor}, bounded by {walls}.",
)
_LISTS = ("There are {things}.", "One sees {things}.", "In view: {things}.", "It holds {things}.", "With {things}.")


def article(phrase: str) -> str:
    """``phrase`` with its indefinite article, or bare where it is a plural."""
    if phrase.endswith(("curtains", "apples", "logs", "shelves", "clothes")):
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def join(phrases: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def visible(scene: Scene, views: Sequence[View], limit: int = 6) -> list[int]:
    """Indices of the most visible named objects over ``views``, largest share first."""
    total: dict[int, float] = {}
    for view in views:
        for index, share in view.shares.items():
            total[index] = total.get(index, 0.0) + share / len(views)
    named = [(share, i) for i, share in total.items() if scene.objects[i].role not in SKIP and share > 0.004]
    return [i for _, i in sorted(named, key=lambda pair: (-pair[0], pair[1]))[:limit]]


def room_at(scene: Scene, point: Sequence[float]) -> Room:
    """The room that contains ``point``, or the nearest."""

    def gap(room: Room) -> float:
        gaps = []
        for x0, y0, x1, y1 in room.rects:
            dx = max(x0 - point[0], 0.0, point[0] - x1)
            dy = max(y0 - point[1], 0.0, point[1] - y1)
            gaps.append(float(np.hypot(dx, dy)))
        return min(gaps)

    return min(scene.rooms, key=gap)


def caption(scene: Scene, rng: Rng, room: Room, views: Sequence[View]) -> str:
    """One or two sentences on what ``views`` show: the room, its finishes, and the objects in the picture."""
    walls = room.wall_phrase
    seen = {scene.objects[i].phrase for view in views for i, share in view.shares.items() if share > 0.03}
    if room.accent_phrase and room.accent_phrase in seen:
        phrase = room.accent_phrase
        walls += f" and {phrase}" if phrase.startswith(("a ", "an ")) else f", one with {phrase}"
    templates = _GARDEN if scene.outdoor else _OPENINGS
    text = templates[int(rng.integers(len(templates)))].format(room=room.kind, walls=walls, floor=_floor(room))
    things = _counted([scene.objects[i].phrase for i in visible(scene, views)])
    if things:
        text += " " + _LISTS[int(rng.integers(len(_LISTS)))].format(things=join(things))
    text = text[0].upper() + text[1:]
    return text.replace(" a old", " an old").replace(" a open", " an open")


def _floor(room: Room) -> str:
    phrase = room.floor_phrase
    if phrase.startswith(("a ", "an ")) or phrase.endswith(("tiles", "boards", "paving", "marble")):
        return phrase
    return f"a floor of {phrase}" if "carpet" not in phrase else article(phrase)


def _counted(phrases: Sequence[str]) -> list[str]:
    numbers = ("", "", "two", "three", "four", "five", "six")
    out = []
    for phrase in dict.fromkeys(phrases):
        count = phrases.count(phrase)
        if count == 1 or phrase.endswith("s"):
            out.append(article(phrase))
        else:
            plural = (
                phrase[:-1] + "ves" if phrase.endswith("shelf") else phrase + ("es" if phrase[-1] in "shx" else "s")
            )
            out.append(f"{numbers[min(count, 6)]} {plural}")
    return out
