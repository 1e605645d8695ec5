import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import pytest

from relic.planning.hardware import GPUS, Device
from relic.weights import default_weights_dir
from relic_app import diagnosis
from relic_app.cli import main
from relic_app.prospects import Machine, prospects, shipped_config

PROCESSOR = Device(
    name="cpu", title="a processor", memory_bytes=16e9, flops={"fp32": 150e9}, bandwidth=20e9, link=0.0, measured=True
)


def test_a_machine_that_plays_passes_and_says_so_for_machines(capsys):
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    status = {finding["name"]: finding["status"] for finding in told["findings"]}
    needed = {"Python", "packages", "torch", "text encoder", "weights", "gallery", "memory"}
    assert {name for name in needed if status[name] != "ok"} == set()
    assert {"GPU", "Triton", "xformers", "ffmpeg", "rendering", "Chromium", "disk", "processor"} <= set(status)
    mini, *wan = told["presets"]
    assert (mini["preset"], mini["runs"]) == ("mini", True)
    assert mini["fps"] > 0
    assert [world["preset"] for world in wan] == ["wan-1.3b", "wan-14b"]


def test_damaged_weights_fail_with_the_fix(tmp_path, capsys):
    for name in ("manifest.json", "mini-vae.safetensors", "mini-depth.safetensors"):
        shutil.copy(default_weights_dir() / name, tmp_path)
    (tmp_path / "mini-world.safetensors").write_bytes(b"\0" * 100)
    shutil.copytree(default_weights_dir() / "gallery", tmp_path / "gallery")
    assert main(["doctor", "--weights", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert f"FAIL  weights: {tmp_path / 'mini-world.safetensors'} differs from its sha256" in shown
    assert "-> fetch weights/ whole, or name it: --weights" in shown
    assert "ok    gallery" in shown
    assert "1 to mend before playing" in shown


def test_what_playing_does_not_need_is_a_warning_with_a_command(monkeypatch, tmp_path):
    monkeypatch.setenv("RELIC_CHROMIUM", str(tmp_path / "nowhere"))
    finding = diagnosis.check_chromium()
    assert finding.status == "warn"
    assert finding.remedy == "sudo apt-get install -y --no-install-recommends chromium"
    monkeypatch.setattr(diagnosis, "FURNITURE", tmp_path)
    rendering = diagnosis.check_rendering()
    assert rendering.status == "warn"
    assert rendering.remedy.endswith(("sweethome3d-furniture", "libgl1-mesa-dri", "make setup"))


def test_a_chromium_is_found_by_name_on_the_path_or_from_playwright(monkeypatch, tmp_path):
    monkeypatch.delenv("RELIC_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    assert diagnosis.find_chromium() is None
    build = tmp_path / "chromium-1" / "chrome-linux" / "chrome"
    build.parent.mkdir(parents=True)
    build.touch()
    assert diagnosis.find_chromium() == str(build)
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert diagnosis.find_chromium() == str(program)


def test_missing_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(diagnosis, "_PACKAGES", ("numpy", "no-such-package"))
    finding = diagnosis.check_packages()
    assert (finding.status, finding.detail) == ("fail", "missing: no-such-package")
    assert finding.remedy == "pip install -c constraints.txt no-such-package"


def test_a_check_that_cannot_import_is_a_finding(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "relic.text", None)
    findings = {finding.name: finding for finding in diagnosis.diagnose(None)}
    assert findings["text encoder"].status == "fail"
    assert findings["text encoder"].remedy == "make setup"
    assert findings["weights"].status == "ok"


def test_a_driver_without_cuda_in_torch_is_told(monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.65.06\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    finding = diagnosis.check_gpus()
    assert finding.status == "warn"
    assert finding.detail.startswith("driver 580.65.06 is installed, but")
    assert "TORCH=" in finding.remedy


def test_the_shipped_world_is_what_is_planned():
    assert shipped_config(default_weights_dir()).sampler.steps == 2
    assert shipped_config(Path("nowhere")).preset == "mini"


def test_presets_on_eight_gpus_use_as_many_as_divide_their_heads():
    machine = Machine(processor=PROCESSOR, gpu=GPUS["h100"], gpu_count=8)
    mini, small, big = prospects(machine, default_weights_dir())
    assert all(world.runs for world in (mini, small, big))
    assert "here on 6 x H100" in small.detail
    assert "here on 8 x H100" in big.detail
    assert big.fps > 16
    assert big.needed_bytes > 80e9


def test_presets_on_a_gpu_that_is_too_small_or_unknown():
    little = dataclasses.replace(GPUS["rtx4090"], memory_bytes=12e9)
    mini, small, big = prospects(Machine(processor=PROCESSOR, gpu=little, gpu_count=1), default_weights_dir())
    assert (mini.runs, small.runs, big.runs) == (True, False, False)
    assert "`relic plan --preset wan-1.3b --gpu NAME`" in small.detail
    mini, small, _ = prospects(Machine(processor=PROCESSOR, unknown="Tesla T4"), default_weights_dir())
    assert "on the processor" in mini.detail
    assert (small.runs, small.fps) == (False, None)
    assert small.detail.startswith("needs 29.0 GB in bf16 on one GPU after 20 s; Tesla T4 is not in the table")


def test_the_mini_world_on_a_processor_is_predicted_near_its_measured_rate():
    """docs/results.md: 194 ms a block with both cores, 4 frames each; after 20 s a little more."""
    mini = next(iter(prospects(Machine(processor=PROCESSOR), default_weights_dir())))
    assert 4 / 0.194 / 1.5 < mini.fps < 4 / 0.194 * 1.5
    able = dataclasses.replace(PROCESSOR, flops={"fp32": 150e9, "bf16": 600e9})
    narrow = next(iter(prospects(Machine(processor=able), default_weights_dir())))
    assert narrow.fps > 1.5 * mini.fps, "played in bfloat16, and so predicted"


def test_why_the_cpp_operators_cannot_be_had_is_told_with_the_way_out(monkeypatch):
    monkeypatch.setenv("RELIC_NATIVE", "0")
    finding = diagnosis.check_native()
    assert (finding.status, finding.remedy) == ("warn", "unset RELIC_NATIVE")
    monkeypatch.delenv("RELIC_NATIVE")
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiled = importlib.import_module("relic_kernels.native.library")
    monkeypatch.setattr(compiled, "_library", compiled._library.__wrapped__)
    finding = diagnosis.check_native()
    assert finding.detail.startswith("no C++ compiler was found; ")
    assert finding.remedy == "install g++, or name one in CXX"
    failed = "g++ could not compile them (x.cpp:1: error: no such thing): install g++, or name another compiler in CXX"
    monkeypatch.setattr(compiled, "_library", lambda: failed)
    finding = diagnosis.check_native()
    assert finding.detail.startswith("g++ could not compile them (x.cpp:1: error: no such thing); ")
    assert finding.remedy == "install g++, or name another compiler in CXX"


@pytest.mark.native
def test_the_cpp_operators_are_compiled_for_this_processor():
    finding = diagnosis.check_native()
    assert finding.status == "ok"
    assert finding.detail.startswith("compiled for this processor, in float32")
