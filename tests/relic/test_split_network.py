"""Layers on several devices: the same pictures, and each layer's memory beside it."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from tests.split_network import BY_KERNELS, FRAMES, MEMORIES, SIZES, SPREADS, Found, play_spread, save_network


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("network")
    save_network(folder)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(play_spread, folder).result()


def assert_same(found: np.ndarray, wanted: np.ndarray, close: float) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=close, atol=close * np.abs(wanted).max())


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("kind", MEMORIES)
def test_a_rollout_is_that_of_one_device_and_memory_lies_beside_its_layer(found: Found, kind: str, spread: str) -> None:
    here, one, split = (found.rollouts[kind, where] for where in ("here", "together", spread))
    assert split.latents.shape == (1, SIZES.in_channels, FRAMES - 1, SIZES.latent_height, SIZES.latent_width)
    assert_same(split.latents, one.latents, 1e-6)
    assert_same(split.latents, here.latents, 1e-5)
    assert split.lies_on == "pretended:0"
    assert split.devices == [{place} for place in SPREADS[spread]]
    assert split.nbytes == here.nbytes
    assert len(split.kept) == len(here.kept)
    for ours, theirs in zip(split.kept, one.kept, strict=True):
        assert_same(ours, theirs, 1e-6)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("kind", MEMORIES)
def test_a_snapshot_brings_every_layer_back(found: Found, kind: str, spread: str) -> None:
    played = found.rollouts[kind, spread]
    assert_same(played.again, played.latents[:, :, -played.again.shape[2] :], 1e-6)


def test_the_kernels_read_it_where_it_lies(found: Found) -> None:
    one, split = (found.rollouts["fp8", spread] for spread in BY_KERNELS)
    assert one.by_kernels is not None
    assert split.by_kernels is not None
    assert_same(split.by_kernels, one.by_kernels, 1e-6)
    assert_same(split.by_kernels, split.again, 1e-4)


@pytest.mark.parametrize("spread", SPREADS)
def test_a_whole_video_is_that_of_one_device(found: Found, spread: str) -> None:
    assert_same(found.videos[spread], found.videos["together"], 1e-6)
    assert_same(found.videos[spread], found.videos["here"], 1e-5)


def test_mixed_devices_would_have_been_refused(found: Found) -> None:
    assert "Expected all tensors to be on the same device" in found.refusal
