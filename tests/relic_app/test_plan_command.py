import json

import pytest
import torch

from relic_app.cli import main


def planned(capsys, *argv: str) -> dict:
    assert main(["plan", "--json", *argv]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_papers_case_in_words(capsys):
    assert main(["plan", "--preset", "wan-14b", "--gpus", "4", "--gpu", "h100", "--kv-dtype", "fp8"]) == 0
    shown = capsys.readouterr().out
    assert "wan-14b on 4 x H100 80GB SXM, bf16, after 20 s" in shown
    assert "14.29 B as in Wan" in shown
    assert "81 latent frames, 126360 tokens; memory (compressed) holds 30446" in shown
    assert "stored in fp8, the window in bf16" in shown
    assert "5 passes: 4 steps and a commit pass" in shown
    assert "of 80.00 GB: fits" in shown
    assert "reaches 41% of the matrix rate" in shown


def test_json_has_the_same_numbers(capsys):
    four = planned(capsys, "--preset", "wan-14b", "--gpus", "4", "--gpu", "h100")
    assert four["fits"] is True
    assert four["tokens"]["read"] == 30446
    assert four["kv_bytes"]["read"] == 2 * 40 * 30446 * 5120 * 2
    assert four["bytes_per_gpu"]["memory"] == four["kv_bytes"]["read"] // 4
    assert four["speed"]["fps"] == pytest.approx(16, rel=0.5)
    two_steps = planned(capsys, "--preset", "wan-14b", "--gpus", "4", "--gpu", "h100", "--steps", "2")
    assert two_steps["block"]["passes"] == 3
    assert two_steps["speed"]["compute"] == pytest.approx(0.6 * four["speed"]["compute"], rel=1e-3)


def test_what_does_not_fit_says_what_to_change(capsys):
    assert main(["plan", "--preset", "wan-14b", "--gpu", "h100"]) == 0
    shown = capsys.readouterr().out
    assert "DOES NOT FIT" in shown
    assert "-> share memory and work among more GPUs: --gpus 2" in shown


@pytest.mark.parametrize(("capabilities", "dtype"), [({}, "fp32"), ({"avx512_bf16": True}, "bf16")])
def test_mini_is_planned_for_this_processor(capsys, monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    plan = planned(capsys, "--steps", "2", "--seconds", "5")
    assert (plan["preset"], plan["device"], plan["dtype"]) == ("mini", "cpu", dtype)
    assert plan["fits"] is True
    assert plan["speed"]["compute"] == plan["block"]["transformer_flops"] / (plan["flops_per_second"] * 0.41)


def test_training_is_planned_with_the_real_settings_of_distillation(capsys):
    from relic.config import find_preset
    from relic_distill.loop import LoopConfig
    from relic_distill.plan import state_bytes
    from relic_distill.stage_dmd import DmdTrainConfig
    from relic_distill.world_stage import Phase

    phases = (Phase(until_step=1, frames=82, batch=1),)
    config = DmdTrainConfig(world=find_preset("wan-14b"), loop=LoopConfig(steps=1), phases=phases, sample_frames=82)
    plan = planned(capsys, "--train", "--preset", "wan-14b", "--gpu", "h100", "--gpus", "32")
    assert plan["sequence"] == 8
    assert plan["state_bytes"]["total"] == state_bytes(config)[1]
    assert plan["state_bytes"]["teacher"] == 4 * 16_439_628_864
    assert plan["bytes_per_gpu"]["state"] == plan["state_bytes"]["total"] // 32
    assert main(["plan", "--train", "--preset", "wan-14b", "--gpu", "h100"]) == 0
    assert "DOES NOT FIT: take more GPUs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "huge"], "unknown preset 'huge': choose one of mini, wan-1.3b, wan-14b"),
        (["--gpu", "h900"], "unknown GPU 'h900': choose one of a100, h100, h200, b200, rtx5090, rtx4090, cpu"),
        (["--preset", "wan-14b", "--gpu", "h100", "--gpus", "3"], "3 GPUs do not divide the 40 heads of wan-14b"),
        (["--gpu", "h100", "--kv-dtype", "fp32"], "memory is stored in the network's bf16, or in fp8"),
        (["--gpu", "h100", "--steps", "0"], "sampler steps 0 must be at least 1"),
        (["--gpu", "h100", "--seconds", "0"], "seconds 0 of history must be positive"),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    assert main(["plan", *argv]) == 2
    assert message in capsys.readouterr().err
