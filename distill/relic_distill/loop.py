"""The training harness of every stage: schedule, checkpoints, resuming, logs, signals, NaNs.

A run killed at any instant goes on from its last checkpoint to the same bits, on a CPU, as a run never
stopped: data and noise are addressed by step number (`step_generator`), torch's global generator is seeded
at each step, and everything else lies in the checkpoint. A time budget is turned into a number of steps
once, after the first steps have been timed, and that number is then part of the checkpoint.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from relic.failures import WorkFailedError
from relic_distill.curves import draw_curves
from relic_distill.devices import move_networks, on_device
from relic_distill.ema import Ema, whole_averages
from relic_distill.process import keep_freed_memory, stop_signals
from relic_distill.runtime import Runtime
from relic_distill.shares import whole
from relic_distill.trackers import RunLog, TensorBoard, Tracker
from relic_distill.training_state import CheckpointFolder, Progress, collect_tensors, restore_tensors
from relic_distill.workers import Workers

_TIMED_STEPS = 10

Outcome = Literal["finished", "interrupted"]
"""How a run ended: at its last step, or stopped by a signal with a checkpoint saved."""


class Stage(Protocol):
    """One stage of training; the harness owns the order of things, the stage their content.

    Attributes:
        modules: networks whose weights the run changes or must keep, by name.
        frozen: networks that are asked and never change, by name; no part of checkpoints.
        optimizers: by name; each parameter group's `lr` at construction is its peak.
        averages: EMA weights, by name.
        validation_metric: the figure of `sample` by which the best weights are kept (higher is better).
    """

    modules: Mapping[str, nn.Module]
    frozen: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    averages: Mapping[str, Ema]
    validation_metric: str

    def describe(self) -> dict[str, Any]:
        """The stage's configuration as JSON-able values; a run resumes only under an equal one."""

    def backward(self, step: int, part: int = 0) -> dict[str, float]:
        """Draw the batch of a step's part, add gradients to the parameters, return figures with `loss` among them.

        All parts of a step pass through the networks equally often: processes may share them out.
        """

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Write pictures of what has been learned into `folder`; return held-out figures."""

    def export(self, path: Path) -> None:
        """Write the weights that later stages and the player load."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long and how a run trains.

    Attributes:
        steps: optimiser steps; 0 takes them from `minutes`.
        minutes: training time, turned into steps after the first steps; used when `steps` is 0.
        warmup: steps of linear rise of the learning rate.
        decay: last part of the run, in (0, 1], over which the learning rate falls linearly to zero.
        accumulate: parts of a step, each with a batch of its own, whose gradients are averaged; shared out among
            the processes of `accelerate launch`.
        clip: gradients are scaled down to this norm, over all parameters of all optimisers; 0 leaves them.
        checkpoint_minutes: time between checkpoints.
        checkpoint_steps: also a checkpoint every so many steps; 0 for none.
        log_every: steps averaged into one line of the log.
        max_bad: steps in a row with a loss or gradient that is not finite before the run stops.
        seed: seeds torch's global generator together with the step number.
        runtime: precision, sharding and trackers of this session.
    """

    steps: int = 0
    minutes: float = 0.0
    warmup: int = 50
    decay: float = 0.6
    accumulate: int = 1
    clip: float = 1.0
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int = 0
    log_every: int = 20
    max_bad: int = 20
    seed: int = 0
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        if self.steps < 0 or self.minutes < 0 or (self.steps == 0 and self.minutes == 0):
            raise ValueError(f"steps {self.steps} or minutes {self.minutes} must be positive")
        if self.accumulate < 1:
            raise ValueError(f"accumulate {self.accumulate} must be at least 1")
        if self.warmup < 0 or self.checkpoint_steps < 0 or self.log_every < 1 or self.max_bad < 1:
            raise ValueError(
                f"warmup {self.warmup} and checkpoint_steps {self.checkpoint_steps} must be >= 0, "
                f"log_every {self.log_every} and max_bad {self.max_bad} >= 1"
            )
        if not 0 < self.decay <= 1 or self.clip < 0 or self.checkpoint_minutes <= 0:
            raise ValueError(
                f"decay {self.decay} must lie in (0, 1], clip {self.clip} be >= 0, "
                f"checkpoint_minutes {self.checkpoint_minutes} be positive"
            )


def step_generator(seed: int, step: int, stream: int = 0, part: int = 0) -> np.random.Generator:
    """Random numbers of a step's part, the same whatever ran before and wherever; `stream` tells several uses apart."""
    return np.random.default_rng((seed, step, stream, part) if part else (seed, step, stream))


def torch_generator(seed: int, step: int, stream: int = 0, part: int = 0) -> torch.Generator:
    """`step_generator` for torch (CPU)."""
    return torch.Generator().manual_seed(int(step_generator(seed, step, stream, part).integers(2**62)))


def lr_factor(step: int, total: int, warmup: int, decay: float) -> float:
    """Fraction of the peak learning rate at a step: linear rise, plateau, linear fall to zero.

    Args:
        step: the step about to be done, from 0.
        total: steps of the run; 0 while it is not known (warm-up or plateau).
        warmup: steps of the rise.
        decay: part of the run over which it falls.
    """
    rise = min(1.0, (step + 1) / (warmup + 1))
    if total == 0:
        return rise
    return min(rise, max(0.0, (total - step) / max(1.0, decay * total)))


def same_settings(before: Any, now: Any) -> bool:
    """Whether a checkpoint's settings are today's; settings that did not exist when it was written do not count."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(name in now and same_settings(value, now[name]) for name, value in before.items())
    return bool(before == now)


def train(stage: Stage, config: LoopConfig, out: Path, *, progress_bar: bool = True) -> Outcome:
    """Train a stage to its end, or until SIGINT or SIGTERM, going on from `out` where that was begun.

    Writes `out/checkpoint/` (last two), `out/log.jsonl`, `out/curves.png`, `out/samples/`, `out/latest.safetensors`
    and `out/best.safetensors` (exported weights). The checkpoint is written last: whatever else a killed run had
    written of its step is written again.

    Raises:
        ValueError: when `out` holds a run of another configuration, or the processes do not suit the configuration.
        WorkFailedError: when losses stay not finite, or a checkpoint cannot be written; the last good checkpoint stays.
    """
    keep_freed_memory()
    return _Run(stage, config, out, progress_bar).run()


class _Run:
    def __init__(self, stage: Stage, config: LoopConfig, out: Path, progress_bar: bool) -> None:
        self.stage, self.config, self.out = stage, config, out
        runtime = config.runtime
        self.workers = Workers(runtime.mixed_precision, runtime.sequence_parallel, runtime.attention)
        self.parts = self.workers.share(config.accumulate)
        self.peaks = {
            name: [float(group["lr"]) for group in optimizer.param_groups]
            for name, optimizer in stage.optimizers.items()
        }
        self._settle()
        out.mkdir(parents=True, exist_ok=True)
        self.log_path = out / "log.jsonl"
        self.checkpoints = CheckpointFolder(out / "checkpoint")
        self.progress = Progress(total=config.steps)
        self.bad_in_a_row = 0
        self.saved_step = -1
        self.figures: list[dict[str, float]] = []
        self.durations: list[float] = []
        resumed = self._resume()
        self.workers.wait()  # nobody writes before everybody has read
        self.trackers = self._open_trackers(resumed)
        self._log({"event": "resume" if resumed else "start", **self._session(), "stage": stage.describe()})
        self.bar = tqdm(
            disable=not (progress_bar and self.workers.is_main),
            initial=self.progress.step,
            unit="step",
            mininterval=5.0,
        )

    def _session(self) -> dict[str, Any]:
        return {"processes": self.workers.count, "device": str(self.workers.device), **asdict(self.config.runtime)}

    def _settle(self) -> None:
        """Bring the stage to this process's device, or this process's share of it."""
        stage = self.stage
        networks = [*stage.modules.values(), *stage.frozen.values()]
        move_networks(networks, stage.averages.values(), self.workers.device)
        if self.config.runtime.collective:
            from relic_distill.sharding import share_out

            averages, shard = stage.averages.values(), self.config.runtime.shard
            share_out(networks, stage.optimizers.values(), averages, self.workers, shard=shard)

    def _resume(self) -> bool:
        """Go on from the newest checkpoint; whether there was one."""
        found = self.checkpoints.load_latest()
        if found is None:
            return False
        progress, tensors, described = found
        if not same_settings(described, json.loads(json.dumps(self.stage.describe()))):
            raise ValueError(
                f"{self.out} holds a run of another configuration: use an empty folder, or the configuration "
                f"{json.dumps(described)}"
            )
        restore_tensors(tensors, self.stage.modules, self.stage.optimizers, self.stage.averages)
        if self.config.steps:
            progress.total = self.config.steps
        elif progress.step >= progress.total and progress.seconds < 60 * self.config.minutes:
            progress.total = 0  # finished within fewer minutes than are given now: plan anew
        self.progress = progress
        self.saved_step = progress.step
        return True

    def _open_trackers(self, resumed: bool) -> list[Tracker]:
        if not self.workers.is_main:
            return []
        trackers: list[Tracker] = [RunLog(self.log_path, self.progress.step if resumed else None)]
        if self.config.runtime.tensorboard:
            trackers.append(TensorBoard(self.out / "tensorboard", self.progress.step))
        return trackers

    def run(self) -> Outcome:
        self._time_since = self._checkpoint_since = time.monotonic()
        with stop_signals() as stop, self.bar, self._tracked():
            while not self.progress.total or self.progress.step < self.progress.total:
                started = time.monotonic()
                self._step()
                self.durations.append(time.monotonic() - started)
                self._after_step()
                if self.workers.any(bool(stop)):
                    self._checkpoint(sample=False)
                    self._log({"event": "interrupted"})
                    return "interrupted"
        if self.saved_step != self.progress.step or not (self.out / "latest.safetensors").exists():
            self._checkpoint(sample=True)
        self._log({"event": "finished"})
        return "finished"

    def _step(self) -> None:
        step, stage = self.progress.step, self.stage
        factor = lr_factor(step, self.progress.total, self.config.warmup, self.config.decay)
        for name, optimizer in stage.optimizers.items():
            for group, peak in zip(optimizer.param_groups, self.peaks[name], strict=True):
                group["lr"] = peak * factor
        figures = self._backward(step)
        parameters = [p for o in stage.optimizers.values() for g in o.param_groups for p in g["params"]]
        parameters = [p for p in parameters if p.grad is not None]
        self.workers.add_up(parameters, 1 / self.config.accumulate)
        norm = float(whole(nn.utils.clip_grad_norm_(parameters, self.config.clip or math.inf)))
        if math.isfinite(figures["loss"]) and math.isfinite(norm):
            for optimizer in stage.optimizers.values():
                optimizer.step()
            for average in stage.averages.values():
                average.update(step)
            self.figures.append({**figures, "grad_norm": norm, "lr": factor})
            self.bad_in_a_row = 0
        else:
            self._count_bad(figures["loss"], norm)
        for parameter in parameters:
            parameter.grad = None
        self.progress.step += 1

    def _backward(self, step: int) -> dict[str, float]:
        """Gradients of this process's parts; figures averaged over all parts."""
        parts = []
        for part in self.parts:
            torch.manual_seed(int(step_generator(self.config.seed, step, 1_000_003, part).integers(2**62)))
            with self.workers.computing():
                parts.append(self.stage.backward(step, part))
        totals = torch.tensor([sum(figures[key] for figures in parts) for key in parts[0]], dtype=torch.float64)
        means = self.workers.summed(totals) / (self.config.accumulate * self.workers.together)
        return dict(zip(parts[0], means.tolist(), strict=True))

    def _count_bad(self, loss: float, norm: float) -> None:
        self.progress.skipped += 1
        self.bad_in_a_row += 1
        self._log({"event": "skipped", "loss": str(loss), "grad_norm": str(norm)})
        if self.bad_in_a_row >= self.config.max_bad:
            raise WorkFailedError(
                f"{self.bad_in_a_row} steps in a row up to {self.progress.step} had a loss ({loss}) or gradient norm "
                f"({norm}) that is not finite: lower the learning rate and go on from {self.checkpoints.folder}"
            )

    def _after_step(self) -> None:
        progress, now = self.progress, time.monotonic()
        progress.seconds += now - self._time_since
        self._time_since = now
        if not progress.total and len(self.durations) >= _TIMED_STEPS:
            self._plan_steps()
        self.bar.total = progress.total or None
        self.bar.update(1)
        if progress.step % self.config.log_every == 0:
            self._log_figures()
        every = self.config.checkpoint_steps
        last = progress.step == progress.total
        due = now - self._checkpoint_since >= self.config.checkpoint_minutes * 60
        if last or (every and progress.step % every == 0) or self.workers.agreed(due):
            self._checkpoint(sample=True)

    def _plan_steps(self) -> None:
        """Turn what is left of the time budget into steps; sampling and checkpoints take a share too."""
        typical = statistics.median(self.durations[2:])
        left = self.config.minutes * 60 - self.progress.seconds
        self.progress.total = self.workers.agreed(self.progress.step + max(1, int(0.96 * left / typical)))
        self._log({"event": "planned", "total": self.progress.total, "seconds_per_step": round(typical, 4)})

    def _log_figures(self) -> None:
        if not self.figures:
            return
        recent = self.durations[-self.config.log_every :]
        means = {key: statistics.fmean(f[key] for f in self.figures if key in f) for key in self.figures[-1]}
        seconds = statistics.fmean(recent)
        left = (self.progress.total - self.progress.step) * seconds if self.progress.total else None
        line = {key: float(f"{value:.6g}") for key, value in means.items()}
        self._log({**line, "s_per_step": round(seconds, 4), "eta_s": None if left is None else round(left)})
        self.bar.set_postfix({"loss": f"{means['loss']:.4f}", "skipped": self.progress.skipped}, refresh=False)
        self.figures.clear()
        del self.durations[: -self.config.log_every - _TIMED_STEPS]

    def _checkpoint(self, *, sample: bool) -> None:
        self.saved_step = self.progress.step
        self._log_figures()  # a resumed run starts its averages here, so an unbroken one must too
        stage = self.stage
        try:
            if self.workers.is_main or self.config.runtime.collective:
                figures = self._sample() if sample else {}
                keep = self.workers.is_main
                tensors = collect_tensors(stage.modules, stage.optimizers, stage.averages, keep=keep)
                with whole_averages(stage.averages, keep=keep):
                    if keep:
                        self._write_checkpoint(tensors, figures)
        except OSError as error:
            last = next(reversed(self.checkpoints.paths()), "none yet")
            raise WorkFailedError(
                f"cannot write step {self.progress.step} to {self.out}: {error}; the last good checkpoint is {last}: "
                "make room and run again"
            ) from error
        self.workers.wait()
        self._checkpoint_since = time.monotonic()

    def _sample(self) -> dict[str, float]:
        """Held-out figures; the main process's pictures are kept."""
        with tempfile.TemporaryDirectory() as elsewhere, on_device(self.workers.device):
            folder = self.out / "samples" if self.workers.is_main else Path(elsewhere)
            folder.mkdir(exist_ok=True)
            return self.stage.sample(folder, self.progress.step)

    def _write_checkpoint(self, tensors: Mapping[str, Tensor], figures: Mapping[str, float]) -> None:
        progress = self.progress
        if figures:
            self._log({"event": "validation", **{key: float(f"{v:.6g}") for key, v in figures.items()}})
        value = figures.get(self.stage.validation_metric)
        if value is not None and math.isfinite(value) and (progress.best is None or value > progress.best):
            progress.best, progress.best_step = value, progress.step
            self._export("best")
        self._export("latest")
        draw_curves(self.log_path, self.out / "curves.png")
        self.checkpoints.save(progress, tensors, self.stage.describe())

    def _export(self, name: str) -> None:
        with on_device(self.workers.device):
            self.stage.export(self.out / f"{name}.safetensors")

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        try:
            yield
        finally:
            for tracker in self.trackers:
                tracker.close()

    def _log(self, values: Mapping[str, Any]) -> None:
        line = {"step": self.progress.step, "seconds": round(self.progress.seconds, 1), **values}
        for tracker in self.trackers:
            tracker.write(line)
