"""A Wan checkpoint as the causal student: played block by block, and in one masked pass."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relic.config import MemoryConfig, ModelConfig
from relic.memory.backends import make_memory
from relic.memory.context import MemoryContext
from relic.model.conditioning import CameraConditioning
from relic.model.relic_transformer_3d import RelicTransformer3DModel
from relic.model.rope import grid_positions, rotate, rotation
from relic.rollout import commit_block
from relic_distill.forcing import TeacherForcingContext
from tests.tiny_networks import random_camera
from tests.tiny_wan import converted, tiny_wan

FRAMES, FULL = 7, MemoryConfig(policy="full", window=2, max_frames=50, max_age=50)


class MaskedContext:
    """Plain bidirectional attention over a whole video, with a mask: blocks see themselves and what lies before."""

    def __init__(self, config: ModelConfig, num_frames: int, block_frames: int) -> None:
        space = grid_positions(config.grid)
        time = torch.arange(num_frames).repeat_interleave(len(space))
        self._turn = rotation(time, space.repeat(num_frames, 1), config.head_dim, config.rope_theta)
        block = (time - 1).div(block_frames, rounding_mode="floor").clamp(min=-1)
        self._mask = block[:, None] >= block[None, :]

    def query_rotation(self, device: torch.device) -> Tensor:
        return self._turn.to(device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = rotate(k.flatten(1, 2), self._turn)
        heads = (x.transpose(1, 2) for x in (q.flatten(1, 2), keys, v.flatten(1, 2)))
        out = F.scaled_dot_product_attention(*heads, attn_mask=self._mask)
        return out.transpose(1, 2).unflatten(1, q.shape[1:3])


@pytest.fixture
def student(tmp_path: Path) -> RelicTransformer3DModel:
    made = converted(tmp_path, tiny_wan())
    for encoder in (made.action_encoder, made.pose_encoder):
        for layer in encoder.proj_out:
            torch.nn.init.normal_(layer.weight, std=0.2)
    return made


def blocks(block_frames: int) -> list[slice]:
    return [slice(0, 1), *(slice(start, start + block_frames) for start in range(1, FRAMES, block_frames))]


def played(
    model: RelicTransformer3DModel, latents: Tensor, sigma: Tensor, camera: CameraConditioning, text: Tensor, size: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Velocities of blocks that are read and committed one after the other, and what memory holds in the end."""
    memory, encoded = make_memory(FULL, model.config), model.encode_text(text)
    velocity = []
    for block in blocks(size):
        context = MemoryContext(memory, model.config, latents[:, :, block].shape[2])
        control = model.encode_control(camera[block])
        velocity.append(model(latents[:, :, block], sigma[:, block], control, encoded, context))
        memory.append(*context.own_kv)
    return torch.cat(velocity, dim=2), [(entry.k.stacks[0], entry.v.stacks[0]) for entry in memory.entries]


@pytest.mark.parametrize("block_frames", [1, 3])
@torch.inference_mode()
def test_a_rollout_with_full_memory_is_one_masked_pass(student: RelicTransformer3DModel, block_frames: int) -> None:
    config = student.config
    latents, text = torch.randn(2, 4, FRAMES, 6, 10), torch.randn(2, 5, 12)
    camera, sigma = random_camera(2, FRAMES, config), torch.rand(2, FRAMES)
    masked = student(
        latents,
        sigma,
        student.encode_control(camera),
        student.encode_text(text),
        MaskedContext(config, FRAMES, block_frames),
    )
    step_by_step, _ = played(student, latents, sigma, camera, text, block_frames)
    torch.testing.assert_close(step_by_step, masked, rtol=0, atol=1e-5)
    everything = student.bidirectional(latents, sigma * 1000, text, camera).sample
    assert (everything - masked)[:, :, :-block_frames].abs().max() > 0.01


@torch.inference_mode()
def test_one_block_of_everything_is_wan_itself(student: RelicTransformer3DModel) -> None:
    """Where the mask hides nothing, the causal student is the bidirectional network of the library."""
    for encoder in (student.action_encoder, student.pose_encoder):
        for layer in encoder.proj_out:
            torch.nn.init.zeros_(layer.weight)
    latents, text, size = torch.randn(1, 4, FRAMES, 6, 10), torch.randn(1, 5, 12), FRAMES
    control, encoded = student.encode_control(random_camera(1, FRAMES, student.config)), student.encode_text(text)
    context = MemoryContext(make_memory(FULL, student.config), student.config, size)
    ours = student(latents, torch.full((1, size), 0.7), control, encoded, context)
    torch.testing.assert_close(ours, tiny_wan()(latents, torch.tensor([700.0]), text).sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("block_frames", [1, 3])
@torch.inference_mode()
def test_training_s_pass_sees_what_play_sees(student: RelicTransformer3DModel, block_frames: int) -> None:
    config = student.config
    clean, noisy = torch.randn(1, 4, FRAMES, 6, 10), torch.randn(1, 4, FRAMES, 6, 10)
    camera, level, text = random_camera(1, FRAMES, config), torch.rand(1, FRAMES), torch.randn(1, 5, 12)
    forcing = TeacherForcingContext(config, FULL, FRAMES, block_frames)
    past = forcing.num_past
    one_pass = student(
        torch.cat([clean[:, :, :past], noisy[:, :, 1:]], dim=2),
        torch.cat([torch.zeros(1, past), level[:, 1:]], dim=1),
        student.encode_control(forcing.pass_camera(camera)),
        student.encode_text(text),
        forcing,
    )
    memory, encoded = make_memory(FULL, config), student.encode_text(text)
    commit_block(student, memory, student.encode_control(camera[:1]), encoded, clean[:, :, :1])
    for block in blocks(block_frames)[1:]:
        control = student.encode_control(camera[block])
        context = MemoryContext(memory, config, block_frames)
        velocity = student(noisy[:, :, block], level[:, block], control, encoded, context)
        expected = one_pass[:, :, past + block.start - 1 : past + block.stop - 1]
        torch.testing.assert_close(velocity, expected, rtol=0, atol=1e-5)
        commit_block(student, memory, control, encoded, clean[:, :, block])
