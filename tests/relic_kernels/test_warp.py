"""The C++ warp refuses what does not fit; what it paints is compared with torch's in tests of `relic.reprojection`."""

import dataclasses

import pytest
import torch
from torch import Tensor

from relic_kernels.dispatch import force
from relic_kernels.warp import Pinhole, warp, warp_with_shares, warps_natively

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


def rough_scene(height: int, width: int) -> dict[str, Tensor]:
    """Two cases of three views of rough ground, from four places a little apart."""
    torch.manual_seed(0)
    turn = torch.eye(3).expand(2, 4, 3, 3)
    return {
        "pictures": torch.rand(2, 3, 3, height, width),
        "depth": 1 + torch.rand(2, 3, height, width),
        "rotations_w2c": turn[:, :3],
        "positions": 0.3 * torch.randn(2, 3, 3),
        "wanted_w2c": turn,
        "wanted_positions": 0.3 * torch.randn(2, 4, 3),
        "order": torch.tensor([[2, 0, 1], [1, 2, 0]]),
    }


@pytest.mark.parametrize(("height", "width", "coarse"), [(8, 16, 2), (12, 20, 4), (8, 132, 1), (4, 4, 2)])
def test_shares_count_the_pixels_of_each_view_whatever_the_threads(
    height: int, width: int, coarse: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, camera = rough_scene(height, width), dataclasses.replace(CAMERA, coarse=coarse, cx=width / 2, cy=height / 2)
    pictures, source = warp(camera, **given)
    assert set(source.unique().tolist()) == {-1, 0, 1, 2}
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        again, shares = warp_with_shares(camera, **given, cell=4, group=2)
        assert torch.equal(again, pictures)
        for which, mask in enumerate((source == 0, source > 0)):
            cells = mask.float().unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).mean(dim=(3, 5))
            expected = cells.unflatten(1, (2, 2)).transpose(1, 2)
            torch.testing.assert_close(shares[:, 2 * which : 2 * which + 2], expected)
    with pytest.raises(ValueError, match="do not divide into cells of 3"):
        warp_with_shares(camera, **given, cell=3, group=2)
    with pytest.raises(ValueError, match="4 wanted pictures do not divide into groups of 3"):
        warp_with_shares(camera, **given, cell=4, group=3)


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
