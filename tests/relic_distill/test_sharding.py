"""FSDP2 and Ulysses over gloo: the numbers of one process, and checkpoints that one process goes on from."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from relic.checkpoint import load_checkpoint, save_checkpoint
from relic.config import to_json
from relic.world import HashEncoder
from relic_distill.ema import Ema
from relic_distill.loop import LoopConfig, train
from relic_distill.muon import Muon
from relic_distill.runs import Files, train_causal, train_dmd, train_teacher
from relic_distill.runtime import Runtime
from relic_distill.sharding import process_mesh, shard_networks, share_sequences
from relic_distill.shares import like, own_share, whole
from relic_distill.smoke import tiny_causal
from relic_distill.stage_causal import CausalTrainConfig
from relic_distill.stage_dmd import DmdTrainConfig
from relic_distill.stage_teacher import TRAINED_FRAMES, TeacherTrainConfig
from relic_distill.workers import Workers
from relic_distill.world_stage import Phase, WorldTrainConfig, new_network, split_parameters
from tests.relic_distill.test_loop import LineStage, log_of
from tests.relic_distill.test_workers import launched

PROCESSES = 2
KINDS = ("causal", "teacher", "dmd")
ALONE = Runtime()
WAYS = {
    "shard": Runtime(shard=True),
    "sequence": Runtime(sequence_parallel=PROCESSES),
    "both": Runtime(shard=True, sequence_parallel=PROCESSES),
}


def settings(steps: int, runtime: Runtime) -> dict[str, object]:
    loop = LoopConfig(
        steps=steps, accumulate=PROCESSES, warmup=1, decay=0.01, checkpoint_steps=2, checkpoint_minutes=60, log_every=1,
        runtime=runtime,
    )  # fmt: skip
    phases = (Phase(until_step=10, frames=4, batch=1),)
    base = dataclasses.replace(tiny_causal(steps), loop=loop, phases=phases, sample_runs=1, sample_frames=3)
    return {field.name: getattr(base, field.name) for field in dataclasses.fields(WorldTrainConfig)}


def run(kind: str, encoded: Path, out: Path, steps: int, runtime: Runtime = ALONE) -> None:
    files = Files(
        data=encoded / "latents", vae=encoded / "vae.safetensors", depth=encoded / "depth.safetensors",
        text_encoder=HashEncoder(4),
    )  # fmt: skip
    values, lively = settings(steps, runtime), encoded / "lively.safetensors"
    if kind == "causal":
        train_causal(CausalTrainConfig(**values), files, out, init=lively)  # type: ignore[arg-type]
    elif kind == "teacher":
        train_teacher(TeacherTrainConfig(**values, sample_steps=1), files, out, init=lively)  # type: ignore[arg-type]
    else:
        config = DmdTrainConfig(**values, critic_updates=1)  # type: ignore[arg-type]
        train_dmd(config, files, out, student=lively, teacher=lively)


@pytest.fixture(scope="module")
def runs(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of each stage by two processes that share in each of the ways, and by one that has all."""
    root = tmp_path_factory.mktemp("sharded")
    write_lively(encoded / "lively.safetensors")
    command = [*launched(PROCESSES), __name__, str(encoded), str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in KINDS:
        run(kind, encoded, root / f"{kind}-one", 2)
    return root


def write_lively(target: Path) -> None:
    """A network in which every parameter matters: fresh ones have silent outputs."""
    config = tiny_causal(1)
    network = new_network(config, None)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    save_checkpoint(target, network.state_dict(), to_json(config.world), {TRAINED_FRAMES: "4"})


def assert_close(one: Path, other: Path) -> None:
    first, second = load_checkpoint(one)[0], load_checkpoint(other)[0]
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_shared_out_trains_as_a_whole_one(runs: Path, encoded: Path, kind: str, way: str) -> None:
    one, two = runs / f"{kind}-one", runs / f"{kind}-{way}"
    for out, processes, runtime in ((one, 1, ALONE), (two, PROCESSES, WAYS[way])):
        assert {"processes": processes, **dataclasses.asdict(runtime)}.items() <= log_of(out)[0].items()
    losses = [[line["loss"] for line in log_of(out) if "loss" in line] for out in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert_close(one / "latest.safetensors", two / "latest.safetensors")
    assert_close(one / "checkpoint" / "step-00000002.safetensors", two / "checkpoint" / "step-00000002.safetensors")
    moved = load_checkpoint(two / "checkpoint" / "step-00000002.safetensors")[0]
    before = load_checkpoint(encoded / "lively.safetensors")[0]
    assert all(not torch.equal(value, moved[f"module.model.{name}"]) for name, value in before.items())


def test_one_process_goes_on_where_two_stopped(runs: Path, encoded: Path) -> None:
    run("teacher", encoded, runs / "teacher-both", 4)
    run("teacher", encoded, runs / "teacher-one", 4)
    assert_close(runs / "teacher-one" / "latest.safetensors", runs / "teacher-both" / "latest.safetensors")


def test_a_single_process_has_nothing_to_share(tmp_path: Path) -> None:
    for runtime, reason in (
        (Runtime(shard=True), "over several processes, this is 1: "),
        (Runtime(sequence_parallel=2), "sequence_parallel 2 does not divide the 1 processes: "),
    ):
        with pytest.raises(ValueError, match=rf"{reason}.*accelerate launch"):
            train(LineStage(), LoopConfig(steps=1, runtime=runtime), tmp_path / "out", progress_bar=False)
    assert not (tmp_path / "out").exists()


def check_shares() -> None:
    """Each of two processes holds half of every network that it was given, and the whole on demand."""
    workers = Workers()
    network = new_network(tiny_causal(1), None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    matrices, others = split_parameters(network)
    optimizers, average = [Muon(matrices, lr=0.1), torch.optim.AdamW(others)], Ema(network, 0.9)
    shard_networks([network], optimizers, [average], process_mesh(workers.device, workers.count))
    held = sum(own_share(parameter).numel() for parameter in network.parameters())
    assert held < 0.55 * sum(value.numel() for value in before.values())
    moved = {id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]}
    assert moved == {id(parameter) for parameter in network.parameters()}
    for name, value in network.state_dict().items():
        assert torch.equal(whole(value), before[name])
        assert torch.equal(whole(average.average[name]), before[name])
        assert torch.equal(own_share(like(value, before[name])), own_share(value))


def check_taking_a_share(folder: Path) -> None:
    """Of a whole tensor in a checkpoint a process copies its share, and reads no more of the file than that."""
    workers, size = Workers(), 64 * 2**20
    path = folder / f"whole-{os.getpid()}.safetensors"
    save_checkpoint(path, {"whole": torch.arange(size // 4, dtype=torch.float32).view(1024, -1)}, {})
    pattern = distribute_tensor(
        torch.zeros(1024, size // 4096), process_mesh(workers.device, workers.count), [Shard(0)]
    )
    before = psutil.Process().memory_info().rss
    share = own_share(like(pattern, load_checkpoint(path)[0]["whole"]))
    assert psutil.Process().memory_info().rss - before < 1.25 * size, "half a copy and half of the file make one"
    assert share.nbytes == size // 2
    assert torch.equal(share, load_checkpoint(path)[0]["whole"].chunk(2)[int(os.environ["RANK"])])


def check_only_worlds_share_sequences() -> None:
    """An auto-encoder's training has no sequence to share, and says so."""
    workers = Workers(together=PROCESSES)
    assert list(workers.share(3)) == [0, 1, 2], "both take every part"
    with pytest.raises(ValueError, match="sequence of a world's network, and none is trained here"):
        share_sequences([nn.Linear(2, 2)], workers.neighbours())


if __name__ == "__main__":
    check_shares()
    check_taking_a_share(Path(sys.argv[2]))
    check_only_worlds_share_sequences()
    for stage in KINDS:
        for name, chosen in WAYS.items():
            run(stage, Path(sys.argv[1]), Path(sys.argv[2]) / f"{stage}-{name}", 2, chosen)
