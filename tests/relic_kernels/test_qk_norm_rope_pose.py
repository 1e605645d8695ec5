import pytest
import torch
from torch import Tensor

from relic.model.layers import RMSNorm
from relic.model.rope import grid_positions, rotate, rotation
from relic_kernels import force, qk_norm_rope_pose
from relic_kernels.qk_norm_rope_pose import reference
from tests.relic_kernels.closeness import TOLERANCE, assert_close, gradients

pytestmark = pytest.mark.usefixtures("poisoned_memory")
SHAPES = [(1, 1, 1, 16), (2, 7, 3, 10), (3, 17, 2, 64), (2, 33, 1, 64), (1, 65, 1, 128)]
"""Groups, tokens, heads, head width."""


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype, pose_rows: int) -> tuple[list[Tensor], Tensor]:
    groups, rows, heads, width = shape
    full = heads * width
    drawn = [
        torch.randn(groups, rows, full), torch.randn(groups, rows, full), torch.randn(groups, pose_rows, full),
        1 + 0.2 * torch.randn(full), 1 + 0.2 * torch.randn(full),
    ]  # fmt: skip
    angle = torch.randn(groups * rows, width // 2) * 3
    turns = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return [tensor.to(dtype).requires_grad_() for tensor in drawn], turns


@pytest.mark.parametrize(
    ("shape", "one_pose", "dtype"),
    [
        *((shape, True, torch.float32) for shape in SHAPES),
        *((shape, False, torch.float32) for shape in SHAPES[1:3]),
        (SHAPES[2], True, torch.float16),
        (SHAPES[2], False, torch.float16),
    ],
    ids=str,
)
def test_outputs_and_gradients_are_the_references(
    shape: tuple[int, int, int, int], one_pose: bool, dtype: torch.dtype
) -> None:
    given, turns = inputs(shape, dtype, 1 if one_pose else shape[1])
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    truth = reference.qk_norm_rope_pose(*exact, turns.double(), 1e-6)  # type: ignore[misc]
    with force("triton"):
        out = qk_norm_rope_pose(*given, turns, 1e-6)  # type: ignore[misc]
        found = gradients(out, given)
    for name, one, other in zip(("q", "k"), out, truth, strict=True):
        assert_close(name, one, other, TOLERANCE[dtype])
    names = ("dq", "dk", "dpose", "dweight_q", "dweight_k")
    for name, one, other in zip(names, found, gradients(truth, exact), strict=True):
        assert_close(name, one, other, 4 * TOLERANCE[dtype])


def test_the_reference_is_what_the_network_does() -> None:
    heads, width, grid, frames = 2, 16, (3, 5), 2
    tokens = grid[0] * grid[1]
    given, _ = inputs((2 * frames, tokens, heads, width), torch.float32, 1)
    q, k, pose, weight_q, weight_k = (tensor.detach() for tensor in given)
    space = grid_positions(grid).repeat(frames, 1)
    turn = rotation(torch.arange(frames).repeat_interleave(tokens), space, width, 100.0)
    norm_q, norm_k = RMSNorm(heads * width, 1e-6), RMSNorm(heads * width, 1e-6)
    with torch.no_grad():
        norm_q.weight.copy_(weight_q)
        norm_k.weight.copy_(weight_k)
        expected_q = rotate(norm_q(q + pose).view(2, frames * tokens, heads, width), turn).view_as(q)
        expected_k = norm_k(k + pose)
    found_q, found_k = qk_norm_rope_pose(q, k, pose, weight_q, weight_k, torch.view_as_real(turn), 1e-6)
    torch.testing.assert_close(found_q, expected_q)
    torch.testing.assert_close(found_k, expected_k)


def test_the_operator_is_registered_soundly() -> None:
    given, turns = inputs((2, 3, 2, 8), torch.float32, 3)
    torch.library.opcheck(torch.ops.relic.qk_norm_rope_pose.default, (*given, turns, 1e-6))


def test_shapes_that_do_not_fit_are_named() -> None:
    given, turns = inputs((2, 6, 2, 8), torch.float32, 1)
    q, k, pose, weight_q, weight_k = given
    with pytest.raises(ValueError, match=r"pose \(2, 1, 8\) must be one of"):
        qk_norm_rope_pose(q, k, pose[..., :8], weight_q, weight_k, turns, 1e-6)
    with pytest.raises(ValueError, match="rotation of 7 tokens does not fill 2 groups of 6"):
        qk_norm_rope_pose(q, k, pose, weight_q, weight_k, turns[:7], 1e-6)
    with pytest.raises(ValueError, match=r"weight_k \(8,\) must be \(16,\)"):
        qk_norm_rope_pose(q, k, pose, weight_q, weight_k[:8], turns, 1e-6)
