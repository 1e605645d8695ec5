import sys

import torch

from relic_app.cli import main
from relic_app.commands import bench_kernels
from relic_kernels.checks import Check
from relic_kernels.timing import OPERATORS, operators_named


def test_without_a_gpu_it_says_what_needs_none(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "kernels"]) == 2
    assert "no CUDA or ROCm device to time kernels on; --static" in capsys.readouterr().err


def test_the_roofline_is_written_as_it_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_kernels, "PRESETS", ("wan-1.3b",))
    assert main(["bench", "kernels", "--roofline", "--out", str(tmp_path / "roofline.md")]) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "roofline.md").read_text() == shown
    assert "wan-1.3b: 4680 tokens of the block" in shown
    for title in ("A100 80GB SXM", "H100 80GB SXM", "H200 141GB SXM", "B200 180GB SXM", "GeForce RTX 5090"):
        assert f"{title}: bytes x, time" in shown


def test_unknown_targets_and_names_are_refused(capsys):
    assert main(["bench", "kernels", "--static", "--targets", "sm_70"]) == 2
    assert "unknown targets ['sm_70']: choose from sm_80" in capsys.readouterr().err
    assert main(["bench", "kernels", "--only", "flash"]) == 2
    refused = capsys.readouterr().err
    assert "no operator's name contains 'flash': there are memory_attention, modulated_norm, gated_residual" in refused


def test_operators_are_found_by_a_part_of_their_names():
    assert operators_named("mod") == ("modulated_norm",)
    assert operators_named("memory") == ("memory_attention", "memory_commit")
    assert operators_named("") == OPERATORS


def test_no_speed_is_printed_on_a_red_check(capsys, monkeypatch):
    from relic_kernels import timing

    wrong = Check(operator="modulated_norm", output="out", dtype="float32", error=1.0, bound=2e-6)
    monkeypatch.setattr(timing, "gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(timing, "check_all", lambda _device: [wrong])
    monkeypatch.setattr(timing, "timings", lambda *_given: sys.exit("timed all the same"))
    assert main(["bench", "kernels"]) == 1
    shown = capsys.readouterr()
    assert "ms" not in shown.out.replace("rms", "")
    assert "no times: an operator is wrong here" in shown.err
