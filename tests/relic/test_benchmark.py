import pytest

from relic.benchmark import block_times, format_block_times, format_part_times, part_times
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


def test_parts_of_a_block_are_timed_and_named() -> None:
    times = part_times(World.tiny(), seconds=0.5, repeats=2)
    assert min(times.guide, times.denoise, times.commit, times.show, times.decode_fps, times.encode_fps) > 0
    head, _, row = format_part_times(times).splitlines()
    assert head.count("|") == row.count("|") == 8
    with pytest.raises(ValueError, match="repeats 0 must be at least 1"):
        part_times(World.tiny(), seconds=1.0, repeats=0)
