import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from relic.model.attention import BidirectionalContext
from relic.world import World
from relic_kernels.attention_backends import Backend, attend, attend_as_chosen, using, why_not


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 7, 3, 16).to(dtype), torch.randn(2, 11, 3, 16).to(dtype), torch.randn(2, 11, 3, 16).to(dtype)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_backends_compute_attention(backend: Backend) -> None:
    q, k, v = drawn()
    weights = torch.softmax(q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / 4.0, -1)
    expected = (weights @ v.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(attend(q, k, v, backend), expected)


def test_the_reference_computes_wide_and_answers_in_the_queries_dtype() -> None:
    q, k, v = drawn(torch.bfloat16)
    out = attend(q, k, v, "math")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, attend(q.double(), k.double(), v.double(), "math").bfloat16(), rtol=0.01, atol=1e-3)


def test_xformers_refuses_a_cpu_and_says_why() -> None:
    with pytest.raises(ValueError, match=r"'xformers' cannot run here: xformers has no kernels for a cpu.*choose sdpa"):
        attend(*drawn(), "xformers")
    assert why_not("sdpa", drawn()[0]) is None


def test_what_does_not_fit_is_named() -> None:
    q, k, v = drawn()
    with pytest.raises(ValueError, match="'flash' is not one of sdpa, xformers, math"):
        attend(q, k, v, cast("Any", "flash"))
    with pytest.raises(ValueError, match=r"v \(2, 10, 3, 16\) must be one \(2, T, 3, 16\)"):
        attend(q, k, v[:, :10])
    with pytest.raises(ValueError, match=r"q \(7, 3, 16\) must be"):
        attend(q[0], k, v)


def test_a_backend_is_in_use_within_its_with() -> None:
    q, k, v = drawn()
    expected = attend(q, k, v, "sdpa")
    with using("math"), using("xformers"):
        with pytest.raises(ValueError, match="'xformers' cannot run here"):
            attend_as_chosen(q, k, v)
        with using("math"):
            torch.testing.assert_close(attend_as_chosen(q, k, v), expected)
    assert torch.equal(attend_as_chosen(q, k, v), expected)
    with pytest.raises(ValueError, match="'flash' is not one of"), using(cast("Any", "flash")):
        pass


def test_backends_attend_in_the_precision_of_autocast() -> None:
    q, k, v = drawn()
    with using("math"), torch.autocast("cpu", torch.bfloat16):
        assert attend_as_chosen(q, k, v).dtype == torch.bfloat16


def test_a_whole_network_attends_by_the_backend_in_use() -> None:
    world = World.tiny()
    sizes = world.config.model
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 3, 60, sizes.num_heads, sizes.head_dim, generator=generator) for _ in range(3))
    context = BidirectionalContext(sizes, 3)
    expected = context.attend(0, q, k, v)
    with using("math"):
        torch.testing.assert_close(context.attend(0, q, k, v), expected)
    with using("xformers"), pytest.raises(ValueError, match="no kernels for a cpu"):
        context.attend(0, q, k, v)


def test_xformers_whose_kernels_do_not_load_is_refused(tmp_path: Path) -> None:
    """In a process of its own, with a package that answers as xformers built for another PyTorch does."""
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "__init__.py").touch()
    (tmp_path / "xformers" / "ops.py").write_text(
        "def memory_efficient_attention(q, k, v):\n    raise NotImplementedError('No operator found\\nfor this')\n"
    )
    code = (
        "import torch\nfrom relic_kernels import attention_backends as backends\n"
        "print(backends._xformers_fault(torch.device('cpu'), torch.float16, 64))"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == (
        "xformers is installed without a kernel for it (No operator found): install one of this PyTorch, or choose sdpa"
    )


@pytest.mark.gpu
def test_xformers_agrees_with_the_reference() -> None:
    pytest.importorskip("xformers", reason="xformers is not installed: pip install relic-world[gpu]")
    q, k, v = (tensor.cuda() for tensor in drawn(torch.float16))
    torch.testing.assert_close(attend(q, k, v, "xformers"), attend(q, k, v, "math"), rtol=1e-2, atol=2e-3)
