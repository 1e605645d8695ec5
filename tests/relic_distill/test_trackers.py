import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from relic_distill.loop import LoopConfig, train
from relic_distill.runtime import Runtime
from relic_distill.trackers import RunLog, TensorBoard
from tests.relic_distill.test_loop import LineStage, log_of


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_what_the_log_holds_also_after_a_resumed_run(tmp_path: Path) -> None:
    for steps in (4, 8):
        config = LoopConfig(steps=steps, checkpoint_steps=2, log_every=2, runtime=Runtime(tensorboard=True))
        train(LineStage(), config, tmp_path, progress_bar=False)
    seen = scalars(tmp_path / "tensorboard")
    lines = log_of(tmp_path)
    for tag, name, wanted in (
        ("train/loss", "loss", [line for line in lines if "loss" in line]),
        ("validation/score", "score", [line for line in lines if line.get("event") == "validation"]),
    ):
        assert [step for step, _ in seen[tag]] == [line["step"] for line in wanted] == [2, 4, 6, 8]
        assert [value for _, value in seen[tag]] == pytest.approx([line[name] for line in wanted], rel=1e-5)


def test_steps_that_were_lost_to_a_kill_are_no_longer_shown(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, 0)
    for step in (1, 2, 3):
        first.write({"step": step, "seconds": 1.0, "loss": 1.0})
    first.close()
    second = TensorBoard(tmp_path, 1)
    second.write({"step": 2, "seconds": 1.0, "loss": 2.0})
    second.write({"step": 2, "seconds": 1.0, "event": "resume", "processes": 1})
    second.close()
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0), (2, 2.0)]


def test_without_the_package_the_way_to_it_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith(("torch.utils.tensorboard", "tensorboard")):
            raise ImportError("No module named 'tensorboard'")
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"No module named 'tensorboard'.*pip install .*tensorboard"):
        train(LineStage(), LoopConfig(steps=1, runtime=Runtime(tensorboard=True)), tmp_path, progress_bar=False)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_log_is_cut_to_the_checkpoint_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"loss": 3}\n{"step": 3}\n{"step": 1, "lo')
    log = RunLog(path, 2)
    log.write({"step": 2, "event": "resume"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1}, {"step": 2}, {"step": 2, "event": "resume"},
    ]  # fmt: skip
    RunLog(path, None)
    assert path.read_text() == ""
