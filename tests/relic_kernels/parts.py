"""Random parts for tests of attention, and the truth about them."""

import torch
from torch import Tensor

from relic_kernels import Part, Turns, memory_commit
from relic_kernels.memory_attention import reference


def turns(tokens: int, width: int) -> Turns:
    """Of places that several tokens share."""
    return Turns.at(torch.randint(0, 9, (tokens, 3)) / 2, torch.randn(width // 2) * 3)


def part(tokens: int, heads: int, width: int, dtype: torch.dtype, *, quantised: bool = False) -> Part:
    """Normal random keys and values of a batch of two; in E4M3 when `quantised`."""
    k, v = (torch.randn(2, tokens, heads, width) for _ in range(2))
    if quantised and tokens:
        k_q, v_q, k_scale, v_scale = memory_commit(k, v, (1, tokens), 1)
        return Part(k=k_q, v=v_q, turns=turns(tokens, width), k_scale=k_scale, v_scale=v_scale)
    return Part(k=k.to(dtype), v=v.to(dtype), turns=turns(tokens, width))


def in_type(given: Turns, dtype: torch.dtype) -> Turns:
    """The same turns, their table in a dtype."""
    return Turns(table=given.table.to(dtype), offsets=given.offsets)


def exact(q: Tensor, own: Part, parts: list[Part]) -> tuple[Tensor, list[Tensor]]:
    """Attention by the reference in float64, and the inputs that have gradients."""
    inputs = [tensor.detach().double().requires_grad_() for tensor in (q, own.k, own.v)]
    double = Part(k=inputs[1], v=inputs[2], turns=in_type(own.turns, torch.float64))
    kept = (torch.float8_e4m3fn, torch.int32)
    memory = [[tensor if tensor.dtype in kept else tensor.double() for tensor in one.tensors] for one in parts]
    return reference.memory_attention(inputs[0], double.tensors, memory, q.shape[-1] ** -0.5), inputs
