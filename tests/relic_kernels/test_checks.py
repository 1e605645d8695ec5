from dataclasses import replace

import pytest
import torch

from relic_kernels.checks import BOUNDS, checks, measure_apart
from relic_kernels.tables import accuracy_table


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_references_pass_in_every_dtype(dtype: torch.dtype) -> None:
    found = checks(torch.device("cpu"), dtype, 64, "reference")
    assert [check.fault for check in found if not check.passed] == []
    assert len({check.operator.partition(",")[0] for check in found}) == 5
    stored = [check.error for check in found if "memory as it was" in check.output]
    assert len(stored) == 1
    assert 0.005 < stored[0] < 0.05


def test_an_error_or_no_number_does_not_pass() -> None:
    sound = checks(torch.device("cpu"), torch.float32, 64, "reference")[0]
    assert sound.passed
    assert not replace(sound, error=2 * sound.bound).passed
    assert not replace(sound, error=float("nan")).passed
    assert "modulated_norm, out, float32: error 4.0e-06 over 2.0e-06" in replace(sound, error=4e-6).fault


def test_the_table_holds_the_largest_errors() -> None:
    found = checks(torch.device("cpu"), torch.float32, 64, "reference")
    lines = accuracy_table(found).splitlines()
    assert lines[0] == "| operator | float32: outputs, gradients |"
    largest = max(check.error for check in found if check.operator == "gated_residual" and check.output != "out")
    assert next(line for line in lines if "gated_residual" in line).endswith(f", {largest:.1e} |")


@pytest.mark.gpu
def test_kernels_pass_on_the_gpu() -> None:
    assert [check.fault for check in measure_apart("cuda") if not check.passed] == []
