import math

import pytest
import torch

import relic_kernels
from relic.model.attention import BidirectionalContext, SelfAttention
from relic.model.rope import (
    grid_positions,
    inverse_frequencies,
    rotate,
    rotation,
    yarn_attention_scale,
    yarn_frequencies,
)
from relic.model.transformer import RelicBlock
from relic_kernels.attention_backends import attend_as_chosen
from tests.tiny_networks import TINY


def test_a_context_of_the_trained_length_keeps_its_frequencies() -> None:
    assert torch.equal(yarn_frequencies(64, 100.0, 20, 20), inverse_frequencies(64, 100.0))
    assert torch.equal(yarn_frequencies(64, 100.0, 20, 8), inverse_frequencies(64, 100.0))
    assert yarn_attention_scale(20, 20) == 1.0


def test_a_longer_context_stretches_slow_waves_of_time_only() -> None:
    base, stretched = inverse_frequencies(64, 1e4), yarn_frequencies(64, 1e4, 400, 1600)
    time = 12
    turns = 400 * base[:time] / (2 * math.pi)
    assert turns[0] > 32
    assert turns[-1] < 1
    assert stretched[0] == base[0]
    assert stretched[time - 1] == pytest.approx(base[time - 1].item() / 4)
    middle = [i for i in range(time) if 1 < turns[i] < 32]
    assert middle
    for i in middle:
        share = (turns[i] - 1) / 31
        assert stretched[i].item() == pytest.approx((base[i] * (share + (1 - share) / 4)).item(), rel=1e-5)
    assert torch.equal(stretched[time:], base[time:])
    assert yarn_attention_scale(20, 80) == pytest.approx((1 + 0.1 * math.log(4)) ** 2)


def test_bidirectional_attention_is_plain_attention_over_rotated_tokens() -> None:
    frames, space = 3, grid_positions(TINY.grid)
    shape = (2, frames, len(space), TINY.num_heads, TINY.head_dim)
    q, k, v = (torch.randn(shape) for _ in range(3))
    time = torch.arange(frames).repeat_interleave(len(space))
    turn = rotation(time, space.repeat(frames, 1), TINY.head_dim, TINY.rope_theta)
    expected = attend_as_chosen(*(rotate(x.flatten(1, 2), turn) for x in (q, k)), v.flatten(1, 2))
    context = BidirectionalContext(TINY, frames)
    turned_q = rotate(q.flatten(1, 2), context.query_rotation(q.device)).reshape(shape)
    out = context.attend(0, turned_q, k, v)
    torch.testing.assert_close(out, expected.reshape(shape))


def test_a_stretched_context_still_tells_only_relative_time() -> None:
    """Attention logits between two frames depend on their distance, whatever the context's length."""
    context = BidirectionalContext(TINY, 12, trained_frames=4)
    tokens = TINY.tokens_per_frame
    q, k = torch.randn(1, 1, TINY.num_heads, TINY.head_dim), torch.randn(1, 1, TINY.num_heads, TINY.head_dim)
    logits = []
    for first in (0, 5):
        turned_q = rotate(q, context._q_rotation[first * tokens][None])
        turned_k = rotate(k, context._k_rotation[(first + 3) * tokens][None])
        logits.append((turned_q * turned_k).sum(-1))
    torch.testing.assert_close(logits[0], logits[1])


def test_the_kernel_prepares_queries_and_keys_as_the_layers_do() -> None:
    torch.manual_seed(3)
    attention = SelfAttention(TINY)
    torch.nn.init.normal_(attention.norm_q.weight, 1.0, 0.2)
    x = torch.randn(2, 3, TINY.tokens_per_frame, TINY.dim)
    pose = torch.randn(2, 3, 1, TINY.dim)
    context = BidirectionalContext(TINY, 3, trained_frames=2)
    plain = attention(x, pose, context, 0)
    with relic_kernels.force("triton"):
        through_kernels = attention(x, pose, context, 0)
    torch.testing.assert_close(through_kernels, plain, rtol=1e-5, atol=1e-5)


def test_a_whole_block_through_kernels_is_the_block() -> None:
    torch.manual_seed(4)
    block = RelicBlock(TINY)
    x, pose = torch.randn(2, 3, TINY.tokens_per_frame, TINY.dim), torch.randn(2, 3, 1, TINY.dim)
    modulation, action = torch.randn(2, 3, 6, TINY.dim), torch.randn(2, 3, 1, TINY.dim)
    text = torch.randn(2, 3, TINY.dim)
    context = BidirectionalContext(TINY, 3)
    results = []
    for implementation in ("reference", "triton"):
        given = x.clone().requires_grad_()
        block.zero_grad()
        with relic_kernels.force(implementation):
            out = block(given, modulation, action, pose, block.attn2.keys_values(text), context, 0)
            out.square().sum().backward()
        assert given.grad is not None
        assert block.scale_shift_table.grad is not None
        results.append((out.detach(), given.grad, block.scale_shift_table.grad.clone(), block.attn1.to_q.weight.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
