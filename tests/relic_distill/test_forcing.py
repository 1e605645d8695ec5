import dataclasses

import pytest
import torch
from torch import Tensor

from relic.config import MemoryConfig, MemoryPolicy
from relic.memory.backends import make_memory
from relic.memory.context import MemoryContext
from relic.rollout import commit_block
from relic_distill.forcing import HybridForcingContext, TeacherForcingContext
from tests.tiny_networks import TINY, lively_model, random_camera


@pytest.mark.parametrize("policy", ["compressed", "full", "window"])
@pytest.mark.parametrize("block_frames", [1, 3])
@pytest.mark.parametrize("pose_encoding", ["ray", "frame"])
@torch.inference_mode()
def test_one_pass_sees_what_play_sees(policy: MemoryPolicy, block_frames: int, pose_encoding: str) -> None:
    config = dataclasses.replace(TINY, pose_encoding=pose_encoding)
    memory_config = MemoryConfig(policy=policy, window=2, schedule=(1, 4, 2), max_frames=50, max_age=50)
    model = lively_model(config)
    num_frames = 10
    latents = torch.randn(2, 4, num_frames, 6, 10)
    noisy = torch.randn(2, 4, num_frames, 6, 10)
    noise_level = torch.rand(2, num_frames)
    guide = torch.randn(2, 12, num_frames - 1, 6, 10)
    camera = random_camera(2, num_frames, config)
    text = model.encode_text(torch.randn(2, 3, 8))

    forcing = TeacherForcingContext(config, memory_config, num_frames, block_frames)
    index = forcing.frame_indices
    clean_count = forcing.num_past
    pass_latents = torch.cat([latents[:, :, :clean_count], noisy[:, :, 1:]], dim=2)
    pass_sigma = torch.cat([torch.zeros(2, clean_count), noise_level[:, 1:]], dim=1)
    assert index == [*range(clean_count), *range(1, num_frames)]
    pass_control = model.encode_control(forcing.pass_camera(camera), forcing.pass_guide(guide))
    in_one_pass = model(pass_latents, pass_sigma, pass_control, text, forcing)

    memory = make_memory(memory_config, config)
    commit_block(model, memory, model.encode_control(camera[:1]), text, latents[:, :, :1])
    for start in range(1, num_frames, block_frames):
        block = slice(start, start + block_frames)
        control = model.encode_control(camera[block], guide[:, :, start - 1 : start - 1 + block_frames])
        context = MemoryContext(memory, config, block_frames)
        played = model(noisy[:, :, block], noise_level[:, block], control, text, context)
        expected = in_one_pass[:, :, clean_count + start - 1 : clean_count + start - 1 + block_frames]
        torch.testing.assert_close(played, expected, rtol=1e-4, atol=1e-4)
        commit_block(model, memory, control, text, latents[:, :, block])


def test_a_noisy_frame_never_sees_its_clean_self_or_the_future() -> None:
    memory_config = MemoryConfig(window=2, schedule=(2, 4), max_frames=50)
    model = lively_model()
    frames = 6
    forcing = TeacherForcingContext(TINY, memory_config, frames, 1)
    latents = torch.randn(1, 4, 2 * frames - 2, 6, 10, requires_grad=True)
    control = model.encode_control(forcing.pass_camera(random_camera(1, frames)))
    text = model.encode_text(torch.randn(1, 3, 8))
    out = model(latents, torch.rand(1, 2 * frames - 2), control, text, forcing)
    target = 3
    out[:, :, forcing.num_past + target - 1].square().sum().backward()
    assert latents.grad is not None
    seen = latents.grad.abs().amax(dim=(0, 1, 3, 4)) > 0
    clean_seen, noisy_seen = seen[: forcing.num_past], seen[forcing.num_past :]
    assert clean_seen.tolist() == [True, True, True, False, False]
    assert noisy_seen.tolist() == [False, False, True, False, False]


class RecordingContext(HybridForcingContext):
    """Keeps the keys and values of every layer."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.seen: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.seen.append((k, v))
        return super().attend(layer, q, k, v)


@pytest.mark.parametrize("policy", ["compressed", "full", "window"])
@pytest.mark.parametrize("noisy_blocks", [1, 3])
@torch.inference_mode()
def test_a_hybrid_pass_sees_what_play_sees(policy: MemoryPolicy, noisy_blocks: int) -> None:
    memory_config = MemoryConfig(policy=policy, window=2, schedule=(1, 4, 2), max_frames=50, max_age=50)
    model, frames, size = lively_model(), 9, 2
    clean = frames - size * noisy_blocks
    latents, camera = torch.randn(2, 4, frames, 6, 10), random_camera(2, frames)
    sigma = torch.rand(2, frames)
    sigma[:, :clean] = 0.0
    guide = torch.randn(2, 12, frames - 1, 6, 10)
    guide[:, :, : clean - 1] = 0.0
    text = model.encode_text(torch.randn(2, 3, 8))
    forcing = RecordingContext(TINY, memory_config, frames, size)
    assert forcing.frame_indices == list(range(frames))
    in_one_pass = model(latents, sigma, model.encode_control(camera, forcing.pass_guide(guide)), text, forcing)

    memory = make_memory(memory_config, TINY)
    commit_block(model, memory, model.encode_control(camera[:1]), text, latents[:, :, :1])
    for start in range(1, frames, size):
        block = slice(start, start + size)
        control = model.encode_control(camera[block], guide[:, :, start - 1 : start - 1 + size])
        context = MemoryContext(memory, TINY, size)
        played = model(latents[:, :, block], sigma[:, block], control, text, context)
        torch.testing.assert_close(played, in_one_pass[:, :, block], rtol=1e-4, atol=1e-4)
        memory.append(*context.own_kv)
        for layer, (k, v) in enumerate(forcing.seen):
            for offset in range(size):
                entry = next(e for e in memory.entries if e.frame == start + offset)
                torch.testing.assert_close(entry.k[layer], k[:, start + offset], rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(entry.v[layer], v[:, start + offset], rtol=1e-4, atol=1e-4)


def test_a_clip_that_fills_no_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="6 latent frames are not one and whole blocks of 3"):
        TeacherForcingContext(TINY, MemoryConfig(), 6, 3)
