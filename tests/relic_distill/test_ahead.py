import threading

import pytest

from relic_distill.ahead import Ahead


def test_the_next_is_made_while_the_first_is_used() -> None:
    made: list[tuple[int, ...]] = []
    begun = threading.Event()

    def make(key: tuple[int, ...]) -> int:
        made.append(key)
        if key == (1, 0):
            begun.set()
        return 10 * key[0] + key[1]

    ahead = Ahead(make)
    assert ahead.get((0, 0), (1, 0)) == 0
    assert begun.wait(10), "nobody has asked for it yet"
    assert ahead.get((1, 0), (2, 0)) == 10
    assert made[:2] == [(0, 0), (1, 0)], "made once each"


def test_several_parts_of_a_step_are_each_made_once() -> None:
    made: list[tuple[int, ...]] = []
    ahead = Ahead(lambda key: made.append(key) or key)  # type: ignore[func-returns-value]
    asked = [(step, part) for step in range(3) for part in range(2)]
    assert [ahead.get((step, part), (step + 1, part)) for step, part in asked] == asked
    assert sorted(made)[: len(asked)] == asked
    assert len(set(made)) == len(made)


def test_what_was_not_foreseen_is_made_when_asked_for() -> None:
    ahead = Ahead(lambda key: key)
    assert ahead.get((0, 0), (1, 0)) == (0, 0)
    assert ahead.get((7, 2), (8, 2)) == (7, 2)


def test_an_error_belongs_to_who_asks_for_its_key() -> None:
    def make(key: tuple[int, ...]) -> int:
        if key == (1,):
            raise ValueError("clip 1 is damaged")
        return key[0]

    ahead = Ahead(make)
    assert ahead.get((0,), (1,)) == 0
    with pytest.raises(ValueError, match="clip 1 is damaged"):
        ahead.get((1,), (2,))
    assert ahead.get((2,), (3,)) == 2
