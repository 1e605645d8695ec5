import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from relic.checkpoint import load_checkpoint
from relic_distill.loop import LoopConfig, train
from relic_distill.runtime import Runtime
from relic_distill.workers import Workers
from tests.relic_distill.test_loop import LineStage, checkpoint_of, log_of


class TwoWorkers(Workers):
    """One process that believes in a peer."""

    count = 2  # type: ignore[assignment]


def launched(processes: int) -> list[str]:
    """The start of a command that runs a module in so many processes over gloo."""
    if processes == 1:
        return [sys.executable, "-m"]
    return [  # without a GPU `--multi_gpu` starts as many processes over gloo; `--cpu` would start only one
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m",
    ]  # fmt: skip


def run(encoded: Path, out: Path, processes: int) -> None:
    command = [
        *launched(processes), "relic_app", "distill", "causal", "--recipe", "tiny-smoke",
        "--steps", "3", "--accumulate", "2", "--data", str(encoded / "latents"),
        "--vae", str(encoded / "vae.safetensors"), "--depth", str(encoded / "depth.safetensors"), "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log_of(out) if "loss" in line]


def test_two_processes_are_one_at_the_same_global_batch(encoded: Path, tmp_path: Path) -> None:
    run(encoded, tmp_path / "one", 1)
    run(encoded, tmp_path / "two", 2)
    one, two = (load_checkpoint(tmp_path / name / "latest.safetensors")[0] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6)
    assert log_of(tmp_path / "two")[0]["processes"] == 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_parts_of_a_step_differ_and_are_averaged(tmp_path: Path) -> None:
    stage = LineStage()
    for part in (0, 1):
        stage.backward(0, part)
    both = {name: parameter.grad.clone() / 2 for name, parameter in stage.net.named_parameters()}  # type: ignore[union-attr]
    stage.net.zero_grad()
    stage.backward(0, 0)
    first = {name: parameter.grad for name, parameter in stage.net.named_parameters()}
    assert not torch.allclose(both["5.weight"], first["5.weight"])  # type: ignore[arg-type]
    for accumulate, folder in ((1, "one"), (2, "two")):
        train(LineStage(), LoopConfig(steps=2, accumulate=accumulate), tmp_path / folder, progress_bar=False)
    one, two = (checkpoint_of(tmp_path / folder) for folder in ("one", "two"))
    assert not torch.equal(one["module.net.5.weight"], two["module.net.5.weight"])


def test_gradients_are_scaled_in_place() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[2.0, 4.0]])
    Workers().add_up(list(layer.parameters()), 0.5)
    assert layer.weight.grad.tolist() == [[1.0, 2.0]]


def test_parts_that_cannot_be_shared_out_are_refused() -> None:
    assert list(Workers().share(3)) == [0, 1, 2]
    assert list(TwoWorkers().share(4)) == [0, 2]
    with pytest.raises(ValueError, match="accumulate 3 is no multiple of the 2 processes"):
        TwoWorkers().share(3)
    with pytest.raises(ValueError, match="accumulate 0 must be at least 1"):
        LoopConfig(steps=1, accumulate=0)


def test_attention_that_cannot_be_computed_here_is_refused_before_work_starts() -> None:
    with pytest.raises(ValueError, match=r"'xformers' cannot be computed here: .*no kernels for a cpu.*choose sdpa"):
        Workers(attention="xformers")
    with pytest.raises(ValueError, match="attention 'flash' is not one of"):
        Runtime(attention="flash")  # type: ignore[arg-type]
