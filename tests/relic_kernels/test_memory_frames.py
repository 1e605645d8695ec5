"""A frame is written where it belongs, turned as complex numbers would, and nowhere else."""

import pytest
import torch
from torch import Tensor

from relic_kernels.dispatch import force
from relic_kernels.memory_frames import write_frame, writes_natively

pytestmark = pytest.mark.native

Frame = tuple[Tensor, Tensor, Tensor]


def frame_of(shape: tuple[int, ...], dtype: torch.dtype) -> Frame:
    """Keys and values `(N, B, L, H, D)`, and turns."""
    torch.manual_seed(sum(shape))
    k, v = torch.randn(2, *shape).to(dtype).unbind(0)
    angle = torch.randn(shape[2], shape[4] // 2) * 9
    return k, v, torch.polar(torch.ones_like(angle), angle)


def turned(k: Tensor, turns: Tensor) -> Tensor:
    """In float32, every product and every sum rounded, and the end rounded to the keys' dtype."""
    a, b = k.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = turns.real[:, None], turns.imag[:, None]
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(-2).to(k.dtype)


def room_for(k: Tensor, tokens: int) -> Tensor:
    return k.new_full((*k.shape[:2], tokens, *k.shape[3:]), torch.nan)


def check_written(frame: Frame, begin: int, room: int, threads: int) -> None:
    """What is written, to the bit, and that all else stays as it was."""
    k, v, turns = frame
    keys, values = room_for(k, room), room_for(v, room)
    write_frame(k, v, turns, keys, values, begin, threads)
    for got, wanted in ((keys, turned(k, turns)), (values, v)):
        end = begin + k.shape[2]
        assert torch.equal(got[:, :, begin:end], wanted)
        assert bool(got[:, :, :begin].isnan().all())
        assert bool(got[:, :, end:].isnan().all())


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "shape",
    [
        (7, 1, 1000, 2, 64),
        (8, 1, 60, 5, 64),
        (3, 2, 63, 5, 64),
        (2, 3, 65, 3, 24),
        (1, 1, 1, 1, 8),
        (5, 1, 7, 3, 20),
        (2, 2, 7, 2, 2),
    ],
    ids=str,
)
def test_a_frame_lies_turned_in_its_slots_alone(dtype: torch.dtype, shape: tuple[int, ...], threads: int) -> None:
    tokens = shape[2]
    for begin, room in ((0, tokens), (5, tokens + 5), (3, tokens + 9)):
        check_written(frame_of(shape, dtype), begin, room, threads)


def test_layers_and_cases_may_lie_apart(dtype: torch.dtype) -> None:
    k, v, turns = frame_of((3, 2, 12, 2, 16), dtype)
    keys, values = room_for(k, 20), room_for(v, 20)
    write_frame(k[:, :, 4:9], v[:, :, 4:9], turns[4:9], keys[:, :, 2:], values[:, :, 2:], 1, 1)
    assert torch.equal(keys[:, :, 3:8], turned(k, turns)[:, :, 4:9])
    assert torch.equal(values[:, :, 3:8], v[:, :, 4:9])
    assert int(keys.isnan().logical_not().sum()) == int(values.isnan().logical_not().sum()) == 3 * 2 * 5 * 2 * 16


def test_what_does_not_fit_is_refused_before_anything_is_written() -> None:
    k, v, turns = frame_of((2, 1, 6, 3, 8), torch.float32)
    keys, values = room_for(k, 10), room_for(v, 10)
    odd = frame_of((2, 1, 6, 3, 7), torch.float32)
    refused = [
        ((k, v, turns, keys, values, 5), "6 tokens from 5 on do not fit the 10"),
        ((k, v, turns, keys, values, -1), "6 tokens from -1 on do not fit"),
        ((k, v[:, :, :5], turns, keys, values, 0), r"v is \(2, 1, 5, 3, 8\)"),
        ((k, v, turns[:5], keys, values, 0), r"turns is \(5, 4\)"),
        ((k, v, turns.real, keys, values, 0), "must be .* of torch.complex64"),
        ((k, v, turns, keys[:1], values, 0), r"keys is \(1, 1, 10, 3, 8\)"),
        ((k, v, turns, keys, values.bfloat16(), 0), "values is .* of torch.bfloat16"),
        ((k, v, turns, keys, values[:, :, :8], 0), "values is"),
        ((k[..., ::2], v, turns, keys, values, 0), "turns is|k is"),
        ((k.transpose(2, 3).contiguous().transpose(2, 3), v, turns, keys, values, 0), "k is .* not contiguous"),
        ((*odd, keys[..., :7], values[..., :7], 0), "the head width must be even"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message):
            write_frame(*given, threads=1)
    with pytest.raises(ValueError, match=r"not in torch\.float16"):
        write_frame(k.half(), v.half(), turns, keys.half(), values.half(), 0, 1)
    assert bool(keys.isnan().all() and values.isnan().all())


def test_it_runs_without_gradients_for_tensors_of_one_format() -> None:
    k, v, _ = frame_of((1, 1, 2, 1, 4), torch.float32)
    assert not writes_natively(k, v, k, v)
    with torch.no_grad():
        assert writes_natively(k, v, k, v)
        assert not writes_natively(k, v, k.bfloat16(), v)
        assert not writes_natively(k.half(), v.half(), k.half(), v.half())
        with force("reference"):
            assert not writes_natively(k, v, k, v)
