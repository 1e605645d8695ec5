import dataclasses

import pytest
import torch
from torch import Tensor

from relic.model.transformer import RelicTransformer
from relic.world import world_intrinsics
from relic_distill.forcing import TeacherForcingContext
from relic_distill.plan import cost_of_pass, plan_circle, plan_training, state_bytes, step_flops
from relic_distill.recipes import mini_circle, mini_teacher
from relic_distill.smoke import tiny_causal, tiny_smoke
from relic_distill.world_stage import Phase
from tests.tiny_networks import random_camera


def test_tokens_and_operations_are_those_of_the_network() -> None:
    config, phase = mini_teacher(10.0), Phase(until_step=1, frames=5, batch=2)
    cost = cost_of_pass(config, phase)
    model = config.world.model
    assert cost.tokens == 2 * 5 * 60
    dim, tokens = model.dim, cost.tokens
    per_layer = 2 * tokens * (4 * dim**2 + 2 * dim**2 + 2 * dim * model.ffn_dim)  # q k v out, cross q out, ffn
    attention = 2 * 2 * tokens * 300 * dim + 2 * 2 * tokens * model.text_tokens * dim
    assert cost.flops > model.num_layers * (per_layer + attention)
    assert cost.flops < 1.25 * model.num_layers * (per_layer + attention)
    assert step_flops(config, phase, cost) == 3 * cost.flops


def test_what_is_kept_for_backward_is_what_autograd_keeps() -> None:
    config, phase = tiny_causal(4), Phase(until_step=4, frames=4, batch=2)
    world = config.world
    model = RelicTransformer(world.model, world_intrinsics(world))
    context = TeacherForcingContext(world.model, world.memory, 4, 1)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        control = model.encode_control(random_camera(2, 6, world.model), torch.randn(2, 24, 6, 12, 20))
        text = model.encode_text(torch.randn(2, 4, 384))
        model(torch.randn(2, 16, 6, 12, 20), torch.rand(2, 6), control, text, context)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    expected = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in own)
    assert cost_of_pass(config, phase).saved_bytes == pytest.approx(expected, rel=0.1)


def test_a_distillation_holds_three_networks() -> None:
    circle = tiny_smoke()
    parameters, alone = state_bytes(circle.causal)
    assert alone > 16 * parameters
    assert state_bytes(circle.dmd)[1] > 1.8 * alone


def test_plans_name_what_a_user_decides_by() -> None:
    lines = plan_training("causal", dataclasses.replace(tiny_causal(6)), rate=1e9)
    assert "6 steps" in lines[0]
    assert "2 runs of 4 latent frames, 720 tokens" in lines[2]
    assert "in all" in lines[-1]
    text = "\n".join(plan_circle(mini_circle(100.0)))
    assert "320 scenes x 1 clips of 20 s, 102400 frames" in text
    assert "16.2 million parameters, 30 minutes" in text
    assert "128 videos of 21 latent frames" in text
