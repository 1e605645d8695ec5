import pytest

from relic_kernels.configurations import heads_together
from relic_kernels.roofline import Count, Machine, Program, Shape, count, memory_bytes
from relic_kernels.tables import request_table, traffic_table

MACHINE = Machine(title="H100", target="sm_90", flops=989e12, bandwidth=3.35e12, l2_bytes=50e6, multiprocessors=132)
SHAPE = Shape(
    title="wan-1.3b", heads=12, head_width=128, grid=(30, 52), block_frames=3, window_frames=6, pooled_tokens=18928,
    pooled_places=(71, 53, 91),
)  # fmt: skip


@pytest.fixture(scope="module")
def counts() -> dict[tuple[str, str], Count]:
    return {(one.operator, one.kernel): one for one in count(SHAPE, MACHINE)}


def test_a_wave_reads_once_and_the_next_keeps_what_fits() -> None:
    programs = [Program((("shared", 10.0), (f"own {index}", 1.0))) for index in range(6)]
    assert memory_bytes(programs, side_by_side=6, l2_bytes=0.0) == 16
    assert memory_bytes(programs, side_by_side=2, l2_bytes=100.0) == 16
    assert memory_bytes(programs, side_by_side=2, l2_bytes=11.0) == 36


def test_what_leaves_the_cache_first_takes_no_room_and_launches_end_waves() -> None:
    programs = [Program(((f"own {index}", 5.0), ("shared", 10.0)), passing=1) for index in range(6)]
    assert memory_bytes(programs, side_by_side=2, l2_bytes=10.0) == 6 * 5 + 10
    assert memory_bytes(programs, side_by_side=2, l2_bytes=9.0) == 6 * 5 + 3 * 10
    heads = [Program(((f"head {index // 3}", 1.0),)) for index in range(6)]
    assert memory_bytes(heads, side_by_side=4, l2_bytes=0.0) == 3
    assert memory_bytes(heads, side_by_side=4, l2_bytes=0.0, of_launch=3) == 2


def test_heads_of_a_launch_cost_no_wave() -> None:
    assert heads_together(37, 40, 132) == 7
    assert heads_together(37, 12, 132) == 3
    assert heads_together(37, 40, 148) == 4
    assert heads_together(37, 40, 1) == 1
    assert heads_together(1, 2, 132) == 2


def test_the_least_is_every_tensor_once(counts: dict[tuple[str, str], Count]) -> None:
    tokens, width, heads = 4680, 1536, 12
    block, vector = tokens * width * 2, 3 * width * 2
    assert counts["modulated_norm", "forward"].least_bytes == 2 * block + 2 * vector
    assert counts["gated_residual", "backward"].least_bytes == 3 * block + 2 * vector
    table = tokens * 128 * 4
    assert counts["qk_norm_rope_pose", "forward"].least_bytes == 4 * block + vector + table + 2 * 2 * width
    cells = 3 * 8 * 13
    assert counts["memory_commit", "factor 4"].least_bytes == 2 * block + 2 * cells * heads * (128 + 4)
    window = 6 * 1560
    places = sum(22 * time + 21 * row + 21 * column for time, row, column in ((71, 53, 91), (6, 30, 52), (3, 30, 52)))
    turns = 8 * places + 12 * (18928 + window + tokens)
    memory = 18928 * (2 * width + 2 * heads * 4) + window * 4 * width + turns
    copy = 2 * (18928 + window + tokens) * width * 2
    assert counts["memory_attention", "unpack"].least_bytes == memory + 2 * tokens * width * 2 + copy
    assert counts["memory_attention", "forward"].least_bytes == 4 * block + memory + tokens * heads * 4


def test_operations_are_attentions_and_ragged_tiles(counts: dict[tuple[str, str], Count]) -> None:
    forward = counts["memory_attention", "forward"]
    assert forward.least_flops == 4 * 4680 * (18928 + 9360 + 4680) * 1536
    blocks, tiles = 37, 296 + 147 + 74
    assert forward.flops == 4 * blocks * 128 * tiles * 64 * 128 * 12
    assert forward.compute_bound
    assert forward.seconds == forward.flops / MACHINE.flops


def test_what_holds_rows_moves_at_most_a_tenth_more_than_the_least(counts: dict[tuple[str, str], Count]) -> None:
    for (operator, kernel), one in counts.items():
        if operator != "memory_attention" or kernel == "unpack":
            assert 1.0 <= one.memory_bytes / one.least_bytes <= 1.1
            assert not one.compute_bound


A100 = Machine(title="A100", target="sm_80", flops=312e12, bandwidth=2.04e12, l2_bytes=40e6, multiprocessors=108)
B200 = Machine(title="B200", target="sm_100", flops=2.25e15, bandwidth=7.7e12, l2_bytes=126e6, multiprocessors=148)


@pytest.mark.parametrize("machine", [A100, MACHINE, B200], ids=lambda machine: machine.title)
@pytest.mark.parametrize("turn_bytes", [4, 2])
def test_everything_moves_at_most_a_tenth_more_than_the_least(turn_bytes: int, machine: Machine) -> None:
    shape = Shape(
        title="wan-14b", heads=40, head_width=128, grid=(30, 52), block_frames=3, window_frames=6, pooled_tokens=18928,
        pooled_places=(71, 53, 91), turn_bytes=turn_bytes,
    )  # fmt: skip
    for one in count(shape, machine):
        assert one.memory_bytes / one.least_bytes <= 1.1
        assert one.requested_bytes >= one.memory_bytes


def test_the_tables_say_what_binds(counts: dict[tuple[str, str], Count]) -> None:
    text = traffic_table(SHAPE, {MACHINE: list(counts.values())})
    assert "4680 tokens of the block, 32968 read" in text
    assert "(compute)" in text
    assert "(memory)" in text
    assert request_table(MACHINE, list(counts.values())).count("gradient of") == 2
