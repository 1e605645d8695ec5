import itertools

import torch
from torch import Tensor

from relic_distill.blockwise_attention import Read, blockwise_attention

READS = (
    Read(own=slice(0, 1), pooled=0, recent=slice(0, 0)),
    Read(own=slice(1, 3), pooled=0, recent=slice(0, 1)),
    Read(own=slice(3, 5), pooled=2, recent=slice(1, 3)),
    Read(own=slice(5, 7), pooled=5, recent=slice(2, 3)),
)


def drawn(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    own = [torch.randn(2, 7, 3, 2, 4, generator=generator, dtype=dtype) for _ in range(3)]
    pooled = [torch.randn(2, 5, 2, 4, generator=generator, dtype=dtype) for _ in range(2)]
    return [tensor.requires_grad_() for tensor in (*own, *pooled)]


def by_definition(q: Tensor, k: Tensor, v: Tensor, pooled_k: Tensor, pooled_v: Tensor) -> Tensor:
    blocks = []
    for read in READS:
        keys, values = (
            torch.cat([pooled[:, : read.pooled], own[:, read.recent].flatten(1, 2), own[:, read.own].flatten(1, 2)], 1)
            for pooled, own in ((pooled_k, k), (pooled_v, v))
        )
        logits = torch.einsum("blhd,bthd->bhlt", q[:, read.own].flatten(1, 2), keys) / 2
        out = torch.einsum("bhlt,bthd->blhd", logits.softmax(-1), values)
        blocks.append(out.unflatten(1, (-1, q.shape[2])))
    return torch.cat(blocks, dim=1)


def test_outputs_and_all_gradients_are_autograds() -> None:
    inputs = drawn()
    found, expected = blockwise_attention(*inputs, READS), by_definition(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_gradients_reach_what_is_laid_out_otherwise_and_what_nobody_reads() -> None:
    inputs = drawn()
    q, k, v, pooled_k, pooled_v = inputs
    turned = [one.transpose(2, 3).contiguous().transpose(2, 3) for one in (q, k, v)]
    more = [torch.cat([pooled, pooled[:, :1]], dim=1) for pooled in (pooled_k, pooled_v)]
    out = blockwise_attention(*turned, *more, READS)  # type: ignore[arg-type]
    expected = by_definition(*inputs)
    ours, theirs = (torch.autograd.grad(one.square().sum(), inputs) for one in (out, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_under_autocast_it_computes_narrow_and_gradients_come_back_wide() -> None:
    inputs = drawn(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = blockwise_attention(*inputs, READS)
    assert out.dtype == torch.bfloat16
    expected = by_definition(*inputs)
    assert (out.float() - expected).square().mean().sqrt() < 0.02 * expected.square().mean().sqrt()
    gradients = torch.autograd.grad(out.float().square().sum(), inputs)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    truth = torch.autograd.grad(expected.square().sum(), inputs)
    for one, other in itertools.zip_longest(gradients, truth):
        assert (one - other).square().mean().sqrt() < 0.04 * other.square().mean().sqrt()
