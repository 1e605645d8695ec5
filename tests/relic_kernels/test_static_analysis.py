"""Kernels compiled for GPUs that are not here, in a process without the interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_what_play_launches_spills_no_register_and_fits(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "relic_kernels.static_analysis", "--targets", target, "--only", "memory_"]
    done = subprocess.run(
        command, env=environment, cwd=KERNELS, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    for width in (64, 128):
        attention = found[f"memory_attention, D {width}"]
        assert attention["instructions"]["tensor cores"] > 0
        played = [attention, *(found[f"memory_commit, factor {factor}, D {width}"] for factor in (1, 2, 4))]
        for kernel in played:
            assert kernel["spilled_bytes"] == 0, kernel
    for kernel in found.values():
        assert kernel["shared_bytes"] <= kernel["shared_limit"], kernel
    converted = found["memory_commit, factor 1, D 64"]["instructions"]["E4M3 conversions"]
    assert (converted > 0) == (target != "sm_80")
