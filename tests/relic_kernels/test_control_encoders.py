"""The C++ encoders of control compute what the reference does in float64, for every size, precision and threads."""

import copy
import dataclasses

import pytest
import torch

from relic_kernels.control_encoders import ControlEncoders
from tests.relic_kernels.closeness import assert_close
from tests.relic_kernels.control_problems import CASES, POSE_SCALE, TOLERANCE, Problem

pytestmark = pytest.mark.native


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_control_is_the_reference_s_in_float64(name: str, dtype: torch.dtype, threads: int) -> None:
    problem = Problem(CASES[name], dtype)
    problem.check(problem.run(threads))


def test_results_do_not_depend_on_the_threads(dtype: torch.dtype) -> None:
    for name in ("mini", "odd sizes"):
        problem = Problem(CASES[name], dtype)
        alone = vars(problem.run(1))
        for threads in (2, 3, 7):
            for found, expected in zip(vars(problem.run(threads)).values(), alone.values(), strict=True):
                assert torch.equal(found, expected)


def test_a_frame_without_a_guide_is_encoded_by_weights_that_take_one(dtype: torch.dtype) -> None:
    problem = Problem(CASES["lanes that end between vectors"], dtype)
    with_guide, problem.inputs = problem.run(), dataclasses.replace(problem.inputs, guide=None)
    got = problem.run()
    assert got.guide is None
    assert got.skip is None
    assert torch.equal(got.poses, with_guide.poses)
    assert torch.equal(got.actions, with_guide.actions)


@pytest.mark.parametrize("metres", [0.0, 30.0, 1000.0])
def test_far_from_the_origin_waves_are_as_exact_as_their_arguments(metres: float) -> None:
    problem = Problem(CASES["lanes that end between vectors"], torch.float32)
    problem.inputs.positions.copy_(torch.tensor([metres, 0.0, -metres / 2]))
    rounded = 2**-24 * max(1.0, metres / POSE_SCALE * 2**problem.case.octaves)
    assert_close("poses", problem.run().poses, problem.exactly().poses, TOLERANCE[torch.float32] + rounded)


def test_weights_are_read_where_they_lie_and_missed_when_they_move() -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    encoders = problem.encoders()
    problem.weights.pose[2][0].zero_()
    got = encoders(problem.inputs, 1)
    assert torch.equal(got.poses[0], problem.weights.pose[2][1].expand_as(got.poses[0]))
    problem.check(got)
    for moved in (problem.weights.action[0][0], problem.weights.rays, problem.weights.skip):
        assert moved is not None
        assert problem.encoders().holds()
        encoders = problem.encoders()
        moved.data = moved.clone()
        assert not encoders.holds()
    assert copy.deepcopy(encoders) is None


def test_weights_that_do_not_fit_are_named() -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    whole = problem.weights

    def refused(match: str, **changed: object) -> None:
        problem.weights = dataclasses.replace(whole, **changed)
        with pytest.raises(ValueError, match=match):
            problem.encoders()

    assert whole.guide is not None
    refused(r"rays is \(7, 2\)", rays=whole.rays[:, :2].contiguous())
    refused(r"action_scale is .*float64", action_scale=whole.action_scale.double())
    refused(r"weight 0 of pose is \(22, 22\) .* it must be \(22, 54\)", pose=whole.pose[1:] + whole.pose[-1:])
    refused("4 layers of pose: two, and one for each block", pose=whole.pose[:-1])
    apart = (whole.action[1][0], torch.zeros(44)[::2])
    refused("bias 1 of action is .*not contiguous", action=[whole.action[0], apart, *whole.action[2:]])
    refused("guide and skip go together", skip=None)
    refused(r"guide is \(22, 52\) .* it must be \(22, 54\)", guide=whole.guide[:, :52].contiguous())
    refused("patches of 17 cells", skip=torch.zeros(17, 17))
    refused(
        "13 actions and a width of 22: both must be even",
        action_scale=torch.ones(13),
        action=[(torch.zeros(22, 13), torch.zeros(22)), *whole.action[1:]],
    )
    refused(r"not in torch\.float16", action=[(weight.half(), bias.half()) for weight, bias in whole.action])
    refused("65 tokens in rows of 1: at most 64", rays=torch.zeros(65, 3))
    with pytest.raises(ValueError, match="17 octaves: 0 to 16 fit"):
        ControlEncoders(whole, 17, POSE_SCALE, 1, 3)
    with pytest.raises(ValueError, match="7 tokens in rows of 2"):
        ControlEncoders(whole, 0, POSE_SCALE, 2, 3)


def test_inputs_that_do_not_fit_are_named() -> None:
    problem = Problem(CASES["odd sizes"], torch.float32)
    encoders, whole = problem.encoders(), problem.inputs

    def refused(match: str, **changed: object) -> None:
        with pytest.raises(ValueError, match=match):
            encoders(dataclasses.replace(whole, **changed), 1)

    assert whole.guide is not None
    refused(r"actions is \(3, 2, 7\) .* it must be \(3, 1, 2, 7\)", actions=whole.actions[:, 0])
    refused(r"rotations_w2c is \(2, 1, 2, 3, 3\)", rotations_w2c=whole.rotations_w2c[:2])
    refused(r"positions is .*float64", positions=whole.positions.double())
    refused(r"guide is \(3, 6, 1, 21, 2\)", guide=whole.guide[..., :2])
    problem.weights = dataclasses.replace(problem.weights, guide=None, skip=None)
    encoders = problem.encoders()
    refused("a guide for encoders that have no weights for it")
