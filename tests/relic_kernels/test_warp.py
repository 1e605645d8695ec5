"""The C++ warp refuses what does not fit; what it paints is compared with torch's in tests of `relic.reprojection`."""

import pytest
import torch
from torch import Tensor

from relic_kernels.dispatch import force
from relic_kernels.warp import Pinhole, warp, warps_natively

pytestmark = pytest.mark.native

CAMERA = Pinhole(fx=8.0, fy=8.0, cx=8.0, cy=4.0, coarse=2, tolerance=0.1, nearest=0.05)


def scene(**changes: Tensor) -> dict[str, Tensor]:
    """A still camera before a wall, seen once."""
    torch.manual_seed(0)
    turn = torch.eye(3).expand(1, 1, 3, 3)
    given = {
        "pictures": torch.rand(1, 1, 3, 8, 16),
        "depth": torch.full((1, 1, 8, 16), 2.0),
        "rotations_w2c": turn,
        "positions": torch.zeros(1, 1, 3),
        "wanted_w2c": turn,
        "wanted_positions": torch.zeros(1, 1, 3),
        "order": torch.zeros(1, 1, dtype=torch.int64),
    }
    return {**given, **changes}


def test_a_still_camera_sees_its_own_picture() -> None:
    given = scene()
    pictures, source = warp(CAMERA, **given)
    assert not source.any()
    torch.testing.assert_close(pictures, given["pictures"], atol=1e-5, rtol=0)


def test_what_is_behind_or_not_a_number_is_not_known() -> None:
    behind = torch.diag(torch.tensor([-1.0, 1.0, -1.0])).expand(1, 1, 3, 3)
    for given in (scene(wanted_w2c=behind), scene(depth=torch.full((1, 1, 8, 16), torch.nan))):
        pictures, source = warp(CAMERA, **given)
        assert (source == -1).all()
        assert not pictures.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": torch.ones(1, 1, 8, 15)}, r"depth is \(1, 1, 8, 15\)"),
        ({"positions": torch.zeros(1, 1, 3).double()}, "positions is .* of torch.float64"),
        ({"order": torch.full((1, 1), 1)}, "the order of 1 views names others"),
        ({"pictures": torch.rand(1, 1, 3, 7, 16), "depth": torch.ones(1, 1, 7, 16)}, "7x16 do not divide"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warp(CAMERA, **scene(**changes))


def test_gradients_other_precisions_and_forced_operators_keep_it_out() -> None:
    pictures = torch.zeros(1)
    assert not warps_natively(pictures)
    with torch.no_grad():
        assert warps_natively(pictures)
        assert not warps_natively(pictures.double())
        with force("reference"):
            assert not warps_natively(pictures)
