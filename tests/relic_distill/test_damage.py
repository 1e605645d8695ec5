"""Damaged data: a clear stop that names the file."""

from pathlib import Path

import pytest

from relic_data.encode import LatentDataset
from relic_distill.loop import step_generator
from relic_distill.smoke import tiny_causal
from relic_distill.stage_causal import CausalStage
from relic_distill.trajectories import TrajectoryConfig, TrajectoryDataset, sample_trajectories
from tests.tiny_networks import ingredients


@pytest.fixture
def paths(encoded: Path, tmp_path: Path) -> TrajectoryDataset:
    stage = CausalStage(tiny_causal(1), ingredients(encoded))
    sampled = TrajectoryConfig(count=2, frames=3, batch=2, steps=2, student_steps=2)
    sample_trajectories(sampled, stage, encoded / "vae.safetensors", 3, tmp_path, progress=False)
    return TrajectoryDataset(tmp_path)


def test_a_path_that_is_cut_short_or_altered_stops_training_and_is_named(paths: TrajectoryDataset) -> None:
    paths.draw(8, step_generator(0, 0))
    damaged = paths.paths[1]
    good = damaged.read_bytes()
    damaged.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"000001\.safetensors is not a whole safetensors file"):
        paths.draw(8, step_generator(0, 0))
    for place in (len(good) - 1, len(good) // 2):
        damaged.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
        with pytest.raises(ValueError, match=r"000001\.safetensors does not hold what was written: delete it"):
            paths.draw(8, step_generator(0, 0))
    damaged.write_bytes(good)
    paths.draw(8, step_generator(0, 0))


def test_an_encoded_clip_that_is_cut_short_is_named(encoded: Path, tmp_path: Path) -> None:
    dataset = LatentDataset(encoded / "latents", "train")
    torn = tmp_path / dataset.paths[0].name
    torn.write_bytes(dataset.paths[0].read_bytes()[:-100])
    dataset.paths[0] = torn
    with pytest.raises(ValueError, match=f"{torn.name} is not a whole safetensors file"):
        dataset.get(0)
