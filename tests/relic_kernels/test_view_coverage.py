"""The C++ coverage refuses what does not fit; its scores are compared with torch's in tests of `relic.reprojection`."""

from typing import Any

import pytest
import torch

from relic_kernels.view_coverage import CoarsePinhole, view_coverage

pytestmark = pytest.mark.native

CAMERA = CoarsePinhole(rows=2, columns=4, fx=2.0, fy=2.0, cx=2.0, cy=1.0, nearest=0.05, closest=1e-3)


def given(**changes: Any) -> dict[str, Any]:
    """Points in the first cell and in the last, and one behind, seen from where they are wanted."""
    points = torch.tensor([[-0.75, 0.75, 0.0], [-0.25, 0.25, 0.0], [1.0, 1.0, -1.0]])
    wanted = {"rotation_w2c": torch.eye(3), "position": torch.zeros(3)}
    return {"points": [points], "view_positions": [torch.zeros(3)], **wanted, **changes}


def test_a_share_is_of_the_cells_that_points_fall_into() -> None:
    assert view_coverage(CAMERA, **given()) == [2 / 8]
    twice = given(points=given()["points"] * 2, view_positions=[torch.zeros(3), torch.tensor([0.0, 0.0, -20.0])])
    here, afar = view_coverage(CAMERA, **twice)
    assert here == 2 / 8
    assert 0 < afar < 0.02
    assert view_coverage(CAMERA, **given(points=[], view_positions=[])) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": [torch.zeros(2, 5)]}, r"points is \(2, 5\)"),
        ({"points": [torch.zeros(3, 5).double()]}, "points is .* of torch.float64"),
        ({"view_positions": [torch.zeros(4)]}, r"view_positions is \(4,\)"),
        ({"view_positions": []}, "points of 1 views, places of 0"),
        ({"position": torch.zeros(2)}, r"position is \(2,\): it must be \(3,\)"),
        ({"rotation_w2c": torch.zeros(9)}, r"rotation_w2c is \(9,\): it must be \(3, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view_coverage(CAMERA, **given(**changes))
