"""Times of the operators on a GPU, printed only after every check of `checks` has passed there."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from relic_kernels.checks import BOUNDS, Check, checks
from relic_kernels.dispatch import force
from relic_kernels.memory_attention import Part, Turns, memory_attention
from relic_kernels.memory_attention.reference import joined
from relic_kernels.memory_commit import memory_commit
from relic_kernels.modulated_norm import gated_residual, modulated_norm
from relic_kernels.qk_norm_rope_pose import qk_norm_rope_pose
from relic_kernels.roofline import Shape

_OF_ROWS = ("modulated_norm", "gated_residual", "qk_norm_rope_pose", "memory_commit")
OPERATORS = ("memory_attention", *_OF_ROWS)
"""What is timed: attention, then operators that work row by row."""

_EPS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One operator or one way to the same result.

    Attributes:
        operator: what is computed.
        way: by what.
        milliseconds: median over replays of a CUDA graph.
        flops: operations of attention's two products; 0 where they are not what is timed.
    """

    operator: str
    way: str
    milliseconds: float
    flops: float = 0.0

    @property
    def tflops(self) -> float:
        """10^12 operations a second."""
        return self.flops / self.milliseconds / 1e9


def gpu() -> torch.device:
    """The GPU that kernels are timed on.

    Raises:
        ValueError: where there is none, or kernels would not run on it.
    """
    if not torch.cuda.is_available():
        raise ValueError("no CUDA or ROCm device to time kernels on; --static, --roofline and --accuracy need none")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ValueError("TRITON_INTERPRET=1 runs kernels in Triton's interpreter, whose time says nothing: unset it")
    return torch.device("cuda", torch.cuda.current_device())


def check_all(device: torch.device) -> list[Check]:
    """Every check in every dtype at both head widths."""
    return [check for width in (64, 128) for dtype in BOUNDS for check in checks(device, dtype, width, "triton")]


def operators_named(part: str) -> tuple[str, ...]:
    """Operators that are timed and whose names contain `part`.

    Raises:
        ValueError: when there is none.
    """
    named = tuple(name for name in OPERATORS if part in name)
    if not named:
        raise ValueError(f"no operator's name contains {part!r}: there are {', '.join(OPERATORS)}")
    return named


def timings(shape: Shape, device: torch.device, operators: Collection[str] = OPERATORS) -> Iterator[Timing]:
    """Median times in bfloat16 at one shape: each operator by its kernel and by PyTorch.

    Args:
        shape: of a block.
        device: a GPU.
        operators: which to time.
    """
    if "memory_attention" in operators:
        yield from _attention_timings(shape, device)
    yield from _row_timings(shape, device, operators)


@torch.no_grad()
def _row_timings(shape: Shape, device: torch.device, operators: Collection[str]) -> Iterator[Timing]:
    groups, rows, width = shape.block_frames, shape.frame_tokens, shape.width

    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.bfloat16)

    x, y, vector, other = draw(groups, rows, width), draw(groups, rows, width), draw(groups, width), draw(groups, width)
    weight, pose, turns = draw(width), draw(groups, 1, width), _turns(shape.tokens, shape.head_width, device)
    k, v = (draw(groups, rows, shape.heads, shape.head_width) for _ in range(2))
    runs: dict[str, Callable[[], object]] = {
        "modulated_norm": lambda: modulated_norm(x, vector, other, _EPS),
        "gated_residual": lambda: gated_residual(x, y, vector),
        "qk_norm_rope_pose": lambda: qk_norm_rope_pose(x, y, pose, weight, weight, turns, _EPS),
        "memory_commit": lambda: memory_commit(k, v, shape.grid, shape.factor),
    }
    for name in _OF_ROWS:
        if name not in operators:
            continue
        run = runs[name]
        yield Timing(operator=name, way="kernel", milliseconds=_median(run))
        with force("reference"):
            yield Timing(operator=name, way="PyTorch, eager", milliseconds=_median(run))


@torch.no_grad()
def _attention_timings(shape: Shape, device: torch.device) -> Iterator[Timing]:
    def drawn(tokens: int, quantised: bool) -> Part:
        size = (1, tokens, shape.heads, shape.head_width)
        k, v = (torch.randn(size, device=device, dtype=torch.bfloat16) for _ in range(2))
        turns = _on_the_grid(tokens, shape, device)
        if not quantised:
            return Part(k=k, v=v, turns=turns)
        k_q, v_q, k_scale, v_scale = memory_commit(k, v, (1, tokens), 1)
        return Part(k=k_q, v=v_q, turns=turns, k_scale=k_scale, v_scale=v_scale)

    pooled, window, own = (drawn(tokens, scaled) for _, tokens, _, scaled in shape.parts)
    q = torch.randn((1, shape.tokens, shape.heads, shape.head_width), device=device, dtype=torch.bfloat16)
    parts = [part.tensors for part in (pooled, window, own)]

    def concatenated() -> tuple[Tensor, Tensor]:
        keys, values = joined(parts, torch.float32)
        return keys.to(q.dtype).transpose(1, 2), values.to(q.dtype).transpose(1, 2)

    keys, values = concatenated()
    queries = q.transpose(1, 2)

    def joined_then_sdpa() -> Tensor:
        return F.scaled_dot_product_attention(queries, *concatenated())

    tensors = [tensor for part in parts for tensor in part]
    yield Timing(
        operator="memory_attention", way="unpacking alone",
        milliseconds=_median(lambda: torch.ops.relic.memory_unpack(q, tensors)),
    )  # fmt: skip
    scale = shape.head_width**-0.5
    own_tensors, memory = own.tensors[:4], pooled.tensors + window.tensors
    flops = 4 * shape.tokens * keys.shape[2] * shape.width
    for way, run in (
        ("as it chooses", lambda: memory_attention(q, own, pooled, window)),
        ("kernel, in place", lambda: memory_attention(q, own, pooled, window, way="in place")),
        ("kernel, in place, memory in 4 shares", lambda: memory_attention(q, own, pooled, window, splits=4)),
        ("unpacked once, then SDPA", lambda: memory_attention(q, own, pooled, window, way="unpacked")),
        (
            "unpacked once, then FlashAttention with logarithms, as for training",
            lambda: torch.ops.relic.memory_attention(q, *own_tensors, memory, scale, 1, True),
        ),
        ("SDPA on the concatenated cache", lambda: F.scaled_dot_product_attention(queries, keys, values)),
        ("dequantise, rotate, concatenate, then SDPA", joined_then_sdpa),
        ("flex-attention on the concatenated cache", _flex(queries, keys, values)),
    ):
        yield Timing(operator="memory_attention", way=way, milliseconds=_median(run), flops=flops)
    out, logs = torch.ops.relic.memory_attention(q, *own_tensors, memory, scale, 1, True)
    products = shape.tokens * (6 * keys.shape[2] + 8 * shape.tokens) * shape.width
    yield Timing(
        operator="memory_attention", way="gradients of the block's own, in place",
        milliseconds=_median(
            lambda: torch.ops.relic.memory_attention_backward(out, out, logs, q, *own_tensors, memory, scale)
        ),
        flops=products,
    )  # fmt: skip
    yield Timing(
        operator="memory_attention", way="gradients of everything, SDPA on the concatenated cache",
        milliseconds=_sdpa_backward(queries, keys, values), flops=2.5 * flops,
    )  # fmt: skip


@torch.enable_grad()
def _sdpa_backward(q: Tensor, k: Tensor, v: Tensor) -> float:
    """Median milliseconds, without a CUDA graph."""
    from triton.testing import do_bench

    leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    out = F.scaled_dot_product_attention(leaves[0], leaves[1], leaves[2])
    grad = torch.ones_like(out)
    return float(do_bench(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True), return_mode="median"))


def _flex(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], object]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention)
    return lambda: compiled(q, k, v)


def _on_the_grid(tokens: int, shape: Shape, device: torch.device) -> Turns:
    """Turns of whole frames, one after another."""
    index = torch.arange(tokens)
    rows, columns = shape.grid
    places = torch.stack([index // (rows * columns), index // columns % rows, index % columns], dim=1)
    return Turns.at(places, torch.rand(shape.head_width // 2)).to(device)


def _turns(tokens: int, head_width: int, device: torch.device) -> Tensor:
    angle = torch.randn((tokens, head_width // 2), device=device)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _median(run: Callable[[], object]) -> float:
    """Median milliseconds over replays of a CUDA graph, after a warm-up that compiles."""
    from triton.testing import do_bench_cudagraph

    run()
    torch.cuda.synchronize()
    return float(do_bench_cudagraph(run, return_mode="median"))
