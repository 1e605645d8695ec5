import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from relic_distill.ema import Ema
from relic_distill.loop import LoopConfig, lr_factor, step_generator, torch_generator, train
from relic_distill.muon import Muon
from relic_distill.training_state import CheckpointFolder, Progress

SCRIPT = """
import sys, time
from pathlib import Path
from tests_loop_stage import LineStage
from relic_distill.loop import LoopConfig, train
stage = LineStage(pause=float(sys.argv[2]))
config = LoopConfig(steps=60, checkpoint_steps=7, log_every=5, warmup=4)
print(train(stage, config, Path(sys.argv[1]), progress_bar=False))
"""


class LineStage:
    """Regression with dropout, a convolution in channels-last order and a batch statistic: all that can go astray."""

    validation_metric = "score"

    def __init__(self, seed: int = 0, pause: float = 0.0, bad_steps: tuple[int, ...] = ()) -> None:
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(96, 5)
        ).to(memory_format=torch.channels_last)
        self.net, self.seed, self.pause, self.bad_steps = net, seed, pause, bad_steps
        self.modules = {"net": net}
        self.frozen: dict[str, nn.Module] = {}
        self.averages = {"net": Ema(net, 0.9)}
        matrices = [p for p in net.parameters() if p.ndim == 2]
        others = [p for p in net.parameters() if p.ndim != 2]
        self.optimizers = {"muon": Muon(matrices, lr=0.02), "adamw": torch.optim.AdamW(others, lr=0.01)}

    def describe(self) -> dict[str, Any]:
        return {"stage": "line", "seed": self.seed, "sizes": (3, 6, 5)}

    def backward(self, step: int, part: int = 0) -> dict[str, float]:
        time.sleep(self.pause)
        x = torch.randn(8, 3, 4, 4, generator=torch_generator(self.seed, step, 0, part))
        x = x.contiguous(memory_format=torch.channels_last)
        target = x.flatten(1)[:, :5] * 2
        loss = (self.net(x) - target).square().mean()
        if step in self.bad_steps:
            loss = loss * float("nan")
        loss.backward()
        return {"loss": loss.item()}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        torch.rand(step % 3)  # a careless hook must not change the run
        with self.averages["net"].applied() as net, torch.no_grad():
            x = torch.randn(64, 3, 4, 4, generator=torch_generator(99, 0))
            score = -(net(x) - x.flatten(1)[:, :5] * 2).square().mean().item()
        (folder / f"{step}.txt").write_text(str(score))
        return {"score": score}

    def export(self, path: Path) -> None:
        save_file({k: v.contiguous() for k, v in self.averages["net"].state_dict().items()}, path)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def checkpoint_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(CheckpointFolder(out / "checkpoint").paths()[-1])


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def start(folder: Path, out: Path, pause: float) -> "subprocess.Popen[str]":
    (folder / "tests_loop_stage.py").write_text(Path(__file__).read_text())
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(out), str(pause)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended too soon"
        assert time.monotonic() < limit, "the run does not get on"
        time.sleep(0.01)


def test_a_run_killed_and_resumed_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = LoopConfig(steps=60, checkpoint_steps=7, log_every=5, warmup=4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert train(LineStage(), config, whole, progress_bar=False) == "finished"
    finally:
        torch.set_num_threads(threads)
    process = start(tmp_path, broken, pause=0.05)
    wait_for(lambda: (broken / "checkpoint" / "step-00000014.safetensors").exists(), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (broken / "checkpoint" / "step-00000060.safetensors").exists()
    process = start(tmp_path, broken, pause=0.0)
    output, _ = process.communicate(timeout=120)
    assert output.strip() == "finished"
    assert_same_bits(checkpoint_of(whole), checkpoint_of(broken))
    assert_same_bits(load_file(whole / "best.safetensors"), load_file(broken / "best.safetensors"))
    lines = [[line for line in log_of(out) if "loss" in line] for out in (whole, broken)]
    assert [(line["step"], line["loss"]) for line in lines[0]] == [(line["step"], line["loss"]) for line in lines[1]]


def test_sigterm_writes_a_checkpoint_and_leaves(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(tmp_path, out, pause=0.05)
    wait_for(lambda: (out / "log.jsonl").exists() and len(log_of(out)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert (process.returncode, output.strip()) == (0, "interrupted")
    last = log_of(out)[-1]
    assert last["event"] == "interrupted"
    assert CheckpointFolder(out / "checkpoint").paths()[-1].name == f"step-{last['step']:08d}.safetensors"


def test_a_run_learns_and_keeps_two_checkpoints_and_the_best(tmp_path: Path) -> None:
    train(LineStage(), LoopConfig(steps=40, checkpoint_steps=10, log_every=10), tmp_path, progress_bar=False)
    lines = [line for line in log_of(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["eta_s"] == 0
    names = [path.name for path in CheckpointFolder(tmp_path / "checkpoint").paths()]
    assert names == ["step-00000030.safetensors", "step-00000040.safetensors"]
    scores = {line["step"]: line["score"] for line in log_of(tmp_path) if line.get("event") == "validation"}
    progress = CheckpointFolder(tmp_path / "checkpoint").load_latest()
    assert progress is not None
    assert progress[0].best_step == max(scores, key=lambda step: scores[step])
    assert (tmp_path / "best.safetensors").exists()


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = LoopConfig(steps=5)
    train(LineStage(), config, tmp_path, progress_bar=False)
    before = checkpoint_of(tmp_path)
    assert train(LineStage(seed=0), config, tmp_path, progress_bar=False) == "finished"
    assert_same_bits(before, checkpoint_of(tmp_path))


def test_minutes_become_steps_once(tmp_path: Path) -> None:
    stage = LineStage(pause=0.002)
    train(stage, LoopConfig(minutes=0.5 / 60, warmup=3), tmp_path, progress_bar=False)
    planned = [line for line in log_of(tmp_path) if line.get("event") == "planned"]
    assert len(planned) == 1
    assert planned[0]["total"] == log_of(tmp_path)[-1]["step"] > 10
    found = CheckpointFolder(tmp_path / "checkpoint").load_latest()
    assert found is not None
    assert found[0].total == planned[0]["total"]


def test_a_nan_is_skipped_and_counted(tmp_path: Path) -> None:
    train(LineStage(bad_steps=(3, 4)), LoopConfig(steps=10), tmp_path, progress_bar=False)
    found = CheckpointFolder(tmp_path / "checkpoint").load_latest()
    assert found is not None
    progress, tensors, _ = found
    assert (progress.step, progress.skipped) == (10, 2)
    assert all(torch.isfinite(tensor).all() for name, tensor in tensors.items() if "running" not in name)
    assert [line["step"] for line in log_of(tmp_path) if line.get("event") == "skipped"] == [3, 4]


def test_lasting_nans_stop_the_run_and_leave_the_last_good_checkpoint(tmp_path: Path) -> None:
    stage = LineStage(bad_steps=tuple(range(6, 100)))
    with pytest.raises(RuntimeError, match="5 steps in a row"):
        train(stage, LoopConfig(steps=100, checkpoint_steps=3, max_bad=5), tmp_path, progress_bar=False)
    found = CheckpointFolder(tmp_path / "checkpoint").load_latest()
    assert found is not None
    assert (found[0].step, found[0].skipped) == (9, 3)
    before = load_file(tmp_path / "checkpoint" / "step-00000006.safetensors")
    moved = [name for name in before if not torch.equal(before[name], found[1][name])]
    assert all("running" in name or "tracked" in name for name in moved), "bad steps move nothing but batch statistics"


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(LineStage(), LoopConfig(steps=4), tmp_path, progress_bar=False)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("relic.checkpoint.save_file", full)
        with pytest.raises(RuntimeError, match=r"last good checkpoint is .*step-00000004.*make room"):
            train(LineStage(), LoopConfig(steps=8), tmp_path, progress_bar=False)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["step-00000004.safetensors"]
    assert train(LineStage(), LoopConfig(steps=8), tmp_path, progress_bar=False) == "finished"


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(Progress(step=1), {"a": torch.ones(3)}, {})
    (tmp_path / "step-00000002.safetensors").write_bytes(b"torn")
    (tmp_path / ".step-00000003.safetensors.partial-1").write_bytes(b"torn")
    found = CheckpointFolder(tmp_path).load_latest()
    assert found is not None
    assert found[0].step == 1
    assert not list(tmp_path.glob(".*.partial-*"))
    (tmp_path / "step-00000001.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint .* can be read"):
        folder.load_latest()


def test_another_configuration_does_not_resume(tmp_path: Path) -> None:
    train(LineStage(), LoopConfig(steps=3), tmp_path, progress_bar=False)
    with pytest.raises(ValueError, match="another configuration"):
        train(LineStage(seed=1), LoopConfig(steps=6), tmp_path, progress_bar=False)


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    factors = [lr_factor(step, 100, 4, 0.5) for step in range(101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:51] == pytest.approx([1.0] * 46)
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert lr_factor(500, 0, 4, 0.5) == 1.0


def test_generators_are_addressed_by_step_and_stream() -> None:
    assert step_generator(1, 2).random() == step_generator(1, 2).random()
    drawn = {float(step_generator(*key).random()) for key in [(1, 2, 0), (1, 3, 0), (1, 2, 1), (2, 2, 0)]}
    assert len(drawn) == 4


def test_ema_is_the_average_it_says() -> None:
    net = nn.Linear(2, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    ema = Ema(net, 0.5)
    nn.init.constant_(net.weight, 3.0)
    ema.update(100)
    assert ema.average["weight"].tolist() == [[2.0, 2.0]]
    ema.update(0)  # early on the average follows: 0.1 of the old
    assert ema.average["weight"][0].tolist() == pytest.approx([2.9, 2.9])
    with ema.applied() as averaged:
        assert averaged.training is False
        assert net.weight[0].tolist() == pytest.approx([2.9, 2.9])
    assert net.weight.tolist() == [[3.0, 3.0]]
    assert net.training
    with pytest.raises(ValueError, match="lacks \\['weight'\\]"):
        ema.load_state_dict({})
    with pytest.raises(ValueError, match=r"decay 1\.0"):
        Ema(net, 1.0)


@pytest.mark.parametrize("values", [{}, {"steps": -1}, {"steps": 1, "decay": 0.0}, {"steps": 1, "log_every": 0}])
def test_bad_loop_settings_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        LoopConfig(**values)
