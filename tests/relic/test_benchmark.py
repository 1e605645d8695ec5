import pytest

from relic.benchmark import block_times, format_block_times
from relic.world import World


def test_histories_are_counted_in_tokens_and_bytes() -> None:
    world = World.tiny()
    rows = [block_times(world, policy, (0.5, 2.0), repeats=1) for policy in ("compressed", "full")]
    compressed, full = rows
    assert full.tokens == (3 * 60, 9 * 60)
    assert compressed.tokens[1] < full.tokens[1]
    assert full.megabytes[1] == pytest.approx(9 * 60 * 2 * 48 * 2 * 4 / 1e6)
    assert min(compressed.milliseconds) > 0
    table = format_block_times(rows).splitlines()
    assert table[0] == "| memory | 0.5 s | 2 s | last / first | tokens | MB |"
    assert len(table) == 4


def test_a_history_beyond_the_memorys_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seconds \(99.0,\) lie in"):
        block_times(World.tiny(), "full", (99.0,), repeats=1)
