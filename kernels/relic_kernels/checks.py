"""Every operator beside its reference in float64, on any device: accuracy in numbers, and leave to print a speed.

`python -m relic_kernels.checks` prints one JSON line a result; `measure_apart` runs that in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from relic_kernels.dispatch import Implementation, force
from relic_kernels.memory_attention import Part, Turns, memory_attention
from relic_kernels.memory_attention import reference as attention_reference
from relic_kernels.memory_commit import memory_commit
from relic_kernels.memory_commit import reference as commit_reference
from relic_kernels.modulated_norm import gated_residual, modulated_norm
from relic_kernels.modulated_norm import reference as norm_reference
from relic_kernels.qk_norm_rope_pose import qk_norm_rope_pose
from relic_kernels.qk_norm_rope_pose import reference as pose_reference

Device = Literal["cpu", "cuda"]
BOUNDS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Relative root mean square error allowed for outputs; four times that for gradients."""
QUANTISATION_BOUND = 0.05
"""The same for attention over E4M3 memory beside attention over the memory before it was stored."""
_GRADIENT_FACTOR = 4
_EPS = 1e-6
_HEADS = 2
_BLOCK, _POOLED, _WINDOW = 33, 130, 65
_SEED = 20251204


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One output or gradient.

    Attributes:
        operator: name in `torch.ops.relic`, and the case.
        output: which output, or the input whose gradient it is.
        dtype: of the inputs.
        error: root mean square error over the root mean square of the truth.
        bound: largest error allowed.
    """

    operator: str
    output: str
    dtype: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within its bound."""
        return self.error <= self.bound

    @property
    def fault(self) -> str:
        """A line for a check that did not pass."""
        return f"{self.operator}, {self.output}, {self.dtype}: error {self.error:.1e} over {self.bound:.1e}"


def checks(device: torch.device, dtype: torch.dtype, head_width: int, implementation: Implementation) -> list[Check]:
    """Run every operator on small random inputs of odd sizes.

    Args:
        device: where.
        dtype: of inputs.
        head_width: D of attention, 64 or 128.
        implementation: what is checked.
    """
    generator = torch.Generator().manual_seed(_SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)

    found: list[Check] = []
    with force(implementation):
        found += _rows(draw, head_width)
        found += _attention(draw, head_width)
        found += _commit(draw, head_width)
    return found


Draw = Callable[..., Tensor]
Operator = Callable[..., Tensor | tuple[Tensor, ...]]


def _rows(draw: Draw, head_width: int) -> Iterator[Check]:
    groups, rows, width = 2, 7, _HEADS * head_width
    turns = _turns(draw, groups * rows, head_width)
    x, y, z = (draw(groups, rows, width) for _ in range(3))
    shift, scale, gate = (draw(groups, width) for _ in range(3))
    pose, weight_q, weight_k = draw(groups, 1, width), 1 + 0.1 * draw(width), 1 + 0.1 * draw(width)
    cases: list[tuple[str, list[str], list[Tensor], Operator, Operator]] = [
        (
            "modulated_norm", ["x", "shift", "scale"], [x, shift, scale],
            lambda x, shift, scale: modulated_norm(x, shift, scale, _EPS),
            lambda x, shift, scale: norm_reference.modulated_norm(x, shift, scale, _EPS),
        ),
        ("gated_residual", ["x", "y", "gate"], [x, y, gate], gated_residual, norm_reference.gated_residual),
        (
            "qk_norm_rope_pose", ["q", "k", "pose", "weight_q", "weight_k"], [y, z, pose, weight_q, weight_k],
            lambda q, k, pose, w_q, w_k: qk_norm_rope_pose(q, k, pose, w_q, w_k, turns, _EPS),
            lambda q, k, pose, w_q, w_k: pose_reference.qk_norm_rope_pose(q, k, pose, w_q, w_k, turns.double(), _EPS),
        ),
    ]  # fmt: skip
    for name, inputs, given, operator, truth in cases:
        yield from _compare(name, inputs, given, operator, truth)


def _attention(draw: Draw, head_width: int) -> Iterator[Check]:
    block, pooled, window = (
        Part(k=draw(1, tokens, _HEADS, head_width), v=draw(1, tokens, _HEADS, head_width),
             turns=Turns.at(20 * draw(tokens, 3).float(), draw(head_width // 2).float()))
        for tokens in (_BLOCK, _POOLED, _WINDOW)
    )  # fmt: skip
    k_q, v_q, k_scale, v_scale = memory_commit(pooled.k, pooled.v, (1, _POOLED), 1)
    stored = Part(k=k_q, v=v_q, turns=pooled.turns, k_scale=k_scale, v_scale=v_scale)
    q = draw(1, _BLOCK, _HEADS, head_width)
    for case, memory in (("", pooled), (", E4M3 memory", stored)):
        for splits in (1, 3):
            name = f"memory_attention{case}{'' if splits == 1 else ', split'}"
            yield from _compare(
                name, ["q", "k", "v"], [q, block.k, block.v],
                lambda q, k, v, memory=memory, splits=splits: memory_attention(
                    q, Part(k=k, v=v, turns=block.turns), memory, window, splits=splits
                ),
                lambda q, k, v, memory=memory: _exact_attention(q, Part(k=k, v=v, turns=block.turns), memory, window),
            )  # fmt: skip
        yield from _unpacked(f"memory_attention{case}, unpacked", q, block, memory, window)
    with torch.no_grad():
        exact = _exact_attention(q.double(), block, pooled, window)
        error = relative_rms(memory_attention(q, block, stored, window), exact)
    yield Check(
        operator="memory_attention", output="out, E4M3 memory beside memory as it was", dtype=_name(q.dtype),
        error=error, bound=QUANTISATION_BOUND,
    )  # fmt: skip


def _unpacked(name: str, q: Tensor, own: Part, pooled: Part, window: Part) -> Iterator[Check]:
    parts = (pooled, window, own)
    found = torch.ops.relic.memory_unpack(q, [tensor for part in parts for tensor in part.tensors])
    truth = attention_reference.joined([_wide(part) for part in parts], torch.float64)
    for output, one, other in zip(("keys", "values"), found, truth, strict=True):
        yield Check(
            operator=name, output=output, dtype=_name(q.dtype), error=relative_rms(one, other), bound=BOUNDS[q.dtype]
        )
    if q.dtype.itemsize == 2:  # how exact SDPA is in float32 is PyTorch's affair: this way is not taken there
        yield from _compare(
            name, ["q", "k", "v"], [q, own.k, own.v],
            lambda q, k, v: memory_attention(q, Part(k=k, v=v, turns=own.turns), pooled, window, way="unpacked"),
            lambda q, k, v: _exact_attention(q, Part(k=k, v=v, turns=own.turns), pooled, window),
        )  # fmt: skip
        with torch.no_grad():
            out = memory_attention(q, own, pooled, window, way="unpacked")
            error = relative_rms(out, _exact_attention(q.double(), own, pooled, window))
        yield Check(
            operator=name, output="out without gradients", dtype=_name(q.dtype), error=error, bound=BOUNDS[q.dtype]
        )


def _exact_attention(q: Tensor, own: Part, *memory: Part) -> Tensor:
    return attention_reference.memory_attention(q, _wide(own), [_wide(part) for part in memory], q.shape[-1] ** -0.5)


def _wide(part: Part) -> list[Tensor]:
    kept = (torch.float8_e4m3fn, torch.int32)
    return [tensor if tensor.dtype in kept else tensor.double() for tensor in part.tensors]


def _commit(draw: Draw, head_width: int) -> Iterator[Check]:
    grid, factor = (5, 7), 2
    k, v = (draw(2, grid[0] * grid[1], _HEADS, head_width) for _ in range(2))
    found = memory_commit(k, v, grid, factor)
    truth = commit_reference.memory_commit(k.double(), v.double(), grid, factor)
    for name, number, scale in (("keys", 0, 2), ("values", 1, 3)):
        back, exact = (one[number].double() * one[scale].double().unsqueeze(-1) for one in (found, truth))
        # a tie that rounds the other way differs by one step, 1/8 at most
        yield Check(
            operator="memory_commit", output=name, dtype=_name(k.dtype), error=relative_rms(back, exact), bound=5e-3
        )


def _compare(
    name: str, names: Sequence[str], given: Sequence[Tensor], operator: Operator, truth: Operator
) -> Iterator[Check]:
    """Outputs and gradients of a fixed random weighting of the outputs."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in given]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    found, wanted = _several(operator(*inputs)), _several(truth(*exact))
    dtype = given[0].dtype
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        output = "out" if len(found) == 1 else f"out {index + 1}"
        yield Check(
            operator=name, output=output, dtype=_name(dtype), error=relative_rms(one, other), bound=BOUNDS[dtype]
        )
    generator = torch.Generator().manual_seed(_SEED)
    weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(dtype) for out in found]
    weights = [weight.to(given[0].device) for weight in weights]
    ours = torch.autograd.grad(found, inputs, weights)
    theirs = torch.autograd.grad(wanted, exact, [weight.double() for weight in weights])
    for output, one, other in zip(names, ours, theirs, strict=True):
        yield Check(
            operator=name, output=f"gradient of {output}", dtype=_name(dtype), error=relative_rms(one, other),
            bound=_GRADIENT_FACTOR * BOUNDS[dtype],
        )  # fmt: skip


def _several(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else output


def _turns(draw: Draw, tokens: int, head_width: int) -> Tensor:
    angle = 3 * draw(tokens, head_width // 2).float()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def relative_rms(found: Tensor, truth: Tensor) -> float:
    """Root mean square error over the root mean square of the truth; NaN stays NaN."""
    error = (found.detach().double() - truth.detach().double()).square().mean().sqrt()
    return float(error / truth.detach().double().square().mean().sqrt().clamp(min=1e-30))


def measure_apart(device: Device = "cpu", head_widths: Sequence[int] = (64, 128)) -> Iterator[Check]:
    """The accuracy of every operator, in a process of its own.

    On a CPU kernels run in Triton's interpreter; there bfloat16, whose arithmetic the interpreter gets wrong, is the
    references' with inputs and outputs cast.

    Raises:
        RuntimeError: with the process's last words when it fails.
    """
    package = str(Path(__file__).parents[1])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TRITON_INTERPRET": "1" if device == "cpu" else "0", "PYTHONPATH": path}
    command = [sys.executable, "-m", "relic_kernels.checks", "--device", device, "--widths", *map(str, head_widths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the operators' checks did not run: {done.stderr[-2000:]}")
    for line in done.stdout.splitlines():
        yield Check(**json.loads(line))


def main() -> None:
    """One JSON line for each output and gradient."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", choices=get_args(Device), default="cpu", help="where")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128], help="head widths")
    given = parser.parse_args()
    for width in given.widths:
        for dtype in BOUNDS:
            by_casts = given.device == "cpu" and dtype == torch.bfloat16
            for check in checks(torch.device(given.device), dtype, width, "reference" if by_casts else "triton"):
                named = {**asdict(check), "operator": f"{check.operator}, D {width}"}
                sys.stdout.write(json.dumps(named) + "\n")


if __name__ == "__main__":
    main()
