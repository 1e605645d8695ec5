import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from relic.actions import STATIC
from relic.camera import continue_path, integrate
from relic.checkpoint import load_checkpoint, save_checkpoint
from relic.config import to_json
from relic.vae.config import VaeConfig
from relic.vae.tiny_vae import TinyVae
from relic.world import HashEncoder, World
from relic_data.encode import LatentDataset
from relic_distill.causal_loss import ClipBatch
from relic_distill.clip_sampler import ClipSampler
from relic_distill.loop import step_generator, torch_generator, train
from relic_distill.recipes import mini_causal
from relic_distill.release import release
from relic_distill.smoke import tiny_causal
from relic_distill.stage_causal import CausalStage, ResampleConfig
from relic_distill.world_stage import Phase, split_parameters
from tests.tiny_networks import ingredients


def stage(encoded: Path, steps: int = 4) -> CausalStage:
    return CausalStage(tiny_causal(steps), ingredients(encoded))


def test_a_run_starts_with_its_own_picture_and_pose(encoded: Path) -> None:
    dataset = LatentDataset(encoded / "latents", "train")
    sampler = ClipSampler(dataset, HashEncoder(4), 4)
    clip = dataset.get(0)
    run = sampler.run(0, 3, 5, step_generator(0, 0))
    assert run.latents.shape == (1, 16, 5, 12, 20)
    torch.testing.assert_close(run.latents[0, :, 0], clip.pictures[3].float())
    torch.testing.assert_close(run.latents[0, :, 1:].transpose(0, 1), clip.latents[4:8].float())
    assert run.camera.actions[0, 0, :, STATIC].tolist() == [1.0] * 4
    torch.testing.assert_close(run.camera.positions[0, 0], torch.zeros(4, 3))
    actions = run.camera.actions[0, 1:].reshape(16, 13).double().numpy()
    path = continue_path(integrate(np.zeros((1, 13)))[0], actions)
    np.testing.assert_allclose(run.camera.positions[0, 1:].reshape(16, 3), path.positions, atol=1e-5)
    np.testing.assert_allclose(run.camera.rotations_w2c[0, 1:].reshape(16, 3, 3), path.rotations_w2c, atol=1e-5)


def test_batches_are_addressed_by_step(encoded: Path) -> None:
    sampler = ClipSampler(LatentDataset(encoded / "latents", "train"), HashEncoder(4), 4)
    first, again, other = (sampler.draw(3, 4, step_generator(0, step)) for step in (7, 7, 8))
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.camera.positions, again.camera.positions)
    assert not torch.equal(first.latents, other.latents)
    with pytest.raises(ValueError, match="no clip has 40 latent frames; the longest has 12"):
        sampler.draw(1, 40, step_generator(0, 0))


def test_an_interrupted_run_resumes_to_the_same_bits(encoded: Path, tmp_path: Path) -> None:
    whole = stage(encoded)
    train(whole, whole.config.loop, tmp_path / "whole", progress_bar=False)
    for steps in (2, 4):
        part = stage(encoded)
        loop = dataclasses.replace(part.config.loop, steps=4, checkpoint_steps=2)
        if steps == 2:
            part.backward = stop_after(part, 2)  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                train(part, loop, tmp_path / "parts", progress_bar=False)
        else:
            train(part, loop, tmp_path / "parts", progress_bar=False)
    a, b = (load_checkpoint(tmp_path / name / "latest.safetensors")[0] for name in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def stop_after(part: CausalStage, steps: int):  # type: ignore[no-untyped-def]
    original = part.backward

    def backward(step: int, part: int = 0) -> dict[str, float]:
        if step >= steps:
            raise KeyboardInterrupt
        return original(step, part)

    return backward


def test_training_lowers_the_loss_and_the_release_plays(encoded: Path, tmp_path: Path) -> None:
    trained = stage(encoded, steps=60)
    before = trained.sample(tmp_path, 0)["neg_loss"]
    train(trained, trained.config.loop, tmp_path / "run", progress_bar=False)
    after = trained.sample(tmp_path, 60)["neg_loss"]
    assert after > before + 0.05
    release(
        tmp_path / "run" / "latest.safetensors",
        encoded / "vae.safetensors",
        tmp_path / "weights",
        {"recipe": "t"},
        depth=encoded / "depth.safetensors",
        steps=5,
        prefer="latest",
    )
    world = World.load(tmp_path / "weights")
    assert world.config.sampler.steps == 5
    assert world.config.reprojection is not None
    assert world.config.reprojection.prefer == "latest"
    for name, value in trained.averages["model"].state_dict().items():
        torch.testing.assert_close(world.model.state_dict()[name], value.bfloat16().float())


def test_a_release_averages_with_the_weights_before(encoded: Path, tmp_path: Path) -> None:
    mine = stage(encoded)
    mine.backward(0)
    mine.export(tmp_path / "before.safetensors")
    before = {name: value.clone() for name, value in mine.averages["model"].average.items()}
    with torch.no_grad():
        for value in mine.averages["model"].average.values():
            value.add_(1.0)
    mine.export(tmp_path / "after.safetensors")
    files = {"depth": encoded / "depth.safetensors", "average_with": tmp_path / "before.safetensors"}

    def released(share: float) -> None:
        release(
            tmp_path / "after.safetensors", encoded / "vae.safetensors", tmp_path / "weights", {}, share=share, **files
        )

    released(0.25)
    for name, value in World.load(tmp_path / "weights").model.state_dict().items():
        torch.testing.assert_close(value, (before[name] + 0.25).bfloat16().float())
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"share {share:g} must lie in"):
            released(share)
    files["average_with"] = encoded / "depth.safetensors"
    with pytest.raises(ValueError, match=r"depth.safetensors is no network of the same sizes: "):
        released(0.5)


def test_only_block_matrices_go_to_muon(encoded: Path) -> None:
    model = stage(encoded).model
    matrices, others = split_parameters(model)
    assert len(matrices) == model.config.num_layers * 10
    assert len(matrices) + len(others) == len(list(model.parameters()))


def test_another_vae_than_the_datas_is_refused(encoded: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = TinyVae(VaeConfig.tiny())
    save_checkpoint(tmp_path / "other.safetensors", other.state_dict(), to_json(other.config))
    with pytest.raises(ValueError, match="was encoded with another VAE"):
        CausalStage(tiny_causal(4), dataclasses.replace(ingredients(encoded), vae=other))
    with pytest.raises(ValueError, match="name the weights of a depth network"):
        CausalStage(tiny_causal(4), dataclasses.replace(ingredients(encoded), depth=None))
    mine = stage(encoded)
    mine.backward(0)
    mine.export(tmp_path / "world.safetensors")
    with pytest.raises(ValueError, match="was not trained on the latents of"):
        release(tmp_path / "world.safetensors", tmp_path / "other.safetensors", tmp_path / "weights", {})
    assert not (tmp_path / "weights").exists()


def test_the_export_looks_no_older_than_training_has_been_long(encoded: Path, tmp_path: Path) -> None:
    trained = stage(encoded)
    trained.backward(0)
    trained.export(tmp_path / "world.safetensors")
    values = load_checkpoint(tmp_path / "world.safetensors")[1]
    assert values["memory"]["max_age"] == 3


def test_runs_longer_than_the_data_are_refused_at_once(encoded: Path) -> None:
    long = dataclasses.replace(tiny_causal(4), phases=(Phase(until_step=9, frames=50, batch=1),))
    with pytest.raises(ValueError, match="no clip has 50 latent frames"):
        CausalStage(long, ingredients(encoded))
    later = (Phase(until_step=4, frames=4, batch=1), Phase(until_step=9, frames=50, batch=1))
    CausalStage(dataclasses.replace(tiny_causal(4), phases=later), ingredients(encoded))
    with pytest.raises(ValueError, match="sample_frames 2 does not fill"):
        dataclasses.replace(tiny_causal(4), sample_frames=2)


def test_recipes_are_complete_and_inconsistent_ones_are_refused() -> None:
    assert mini_causal(60.0).world.model.dim == 320
    with pytest.raises(ValueError, match="phases must be given in order"):
        dataclasses.replace(
            tiny_causal(4), phases=(Phase(until_step=9, frames=4, batch=1), Phase(until_step=3, frames=4, batch=1))
        )


def test_an_own_past_changes_what_is_given_and_not_what_is_asked(encoded: Path) -> None:
    trained = stage(encoded)
    torch.nn.init.normal_(trained.model.proj_out.weight, std=0.2)
    batch = trained.train_clips.draw(2, 6, step_generator(0, 0))
    own = trained.with_own_past(batch, torch_generator(0, 1))
    assert torch.equal(own.latents, batch.latents)
    assert own.past is not None
    assert own.views is not None
    assert batch.views is not None
    torch.testing.assert_close(own.past[:, :, 0], batch.latents[:, :, 0])
    assert float((own.past - batch.latents)[:, :, 1:].square().mean()) > 0.1
    film = trained.vae.decode(own.past).clamp(-1, 1)[:, :, ::4].transpose(1, 2)
    torch.testing.assert_close(own.views.pictures[:, :6], film)
    assert torch.equal(own.views.pictures[:, 6:], batch.views.pictures[:, 6:])
    assert torch.equal(own.views.depth, batch.views.depth)

    def loss(given: ClipBatch) -> float:
        with torch.no_grad():
            return float(trained.loss(given, torch_generator(0, 2)))

    assert loss(dataclasses.replace(batch, past=batch.latents)) == loss(batch)
    assert loss(dataclasses.replace(batch, past=own.past)) != loss(batch)


def test_the_past_is_redrawn_as_often_as_configured(encoded: Path) -> None:
    always = dataclasses.replace(tiny_causal(4), resample=ResampleConfig(chance=1.0, rounds=1))
    never = dataclasses.replace(tiny_causal(4), resample=ResampleConfig(chance=0.0))
    for config, expected in ((always, True), (never, False)):
        trained = CausalStage(config, ingredients(encoded))
        assert all((trained.draw(step).past is not None) == expected for step in range(3))
    with pytest.raises(ValueError, match="least 0 in"):
        ResampleConfig(least=0)
