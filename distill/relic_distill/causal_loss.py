"""Flow matching with teacher forcing: the loss of the causal world model's first training, and its predictions.

Axes: B batch, C latent channels, T latent frames of a clip, h, w latent cells, S text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relic.config import MemoryConfig
from relic.flow_matching import add_noise, shift_sigma, velocity_target, x0_from_velocity
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import RelicTransformer
from relic.reprojection.warp import Views
from relic_distill.dmd import guided
from relic_distill.forcing import TeacherForcingContext


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Encoded clips of one length.

    Attributes:
        latents: `(B, C, T, h, w)`; frame 0 is the start picture's.
        camera: control of the T latent frames, poses in the world of the start picture.
        text: `(B, S, text_dim)`.
        views: known views of each run in its world, see `relic_distill.training_guide`; None for a world without guide.
        past: `(B, C, T, h, w)` what stands for the latents where they are the past of others; None for themselves.
    """

    latents: Tensor
    camera: CameraConditioning
    text: Tensor
    views: Views | None = None
    past: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """Noise levels that training draws.

    Attributes:
        mean: mean of the logit-normal density before the shift.
        std: its standard deviation.
        shift: shift towards high noise.
        context_max: clean frames are noised by up to this much, and told so; 0 keeps them clean.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 3.0
    context_max: float = 0.1

    def __post_init__(self) -> None:
        if self.std <= 0 or self.shift <= 0:
            raise ValueError(f"noise std {self.std} and shift {self.shift} must be positive")
        if not 0 <= self.context_max < 1:
            raise ValueError(f"context_max {self.context_max} must lie in [0, 1)")


def draw_sigmas(shape: tuple[int, ...], noise: NoiseConfig, generator: torch.Generator) -> Tensor:
    """Noise levels of training targets: shifted logit-normal, float32 in (0, 1)."""
    normal = torch.randn(shape, generator=generator)
    return shift_sigma(torch.sigmoid(noise.mean + noise.std * normal), noise.shift)


def teacher_forcing_loss(
    model: RelicTransformer,
    batch: ClipBatch,
    memory: MemoryConfig,
    block_frames: int,
    noise: NoiseConfig,
    generator: torch.Generator,
    guide: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the velocity of every latent frame after the first, given the clean past (the batch's own).

    One pass holds clean and noisy frames (see `relic_distill.forcing`); frames of a block share a noise level, blocks
    draw their own. The start picture is always clean.

    Args:
        model: the network.
        batch: clips.
        memory: policy, window and schedule.
        block_frames: latent frames of a block.
        noise: levels to draw.
        generator: of levels and noise.
        guide: `(B, G, T - 1, h, w)` of the frames after the first; clean frames are read without.

    Returns:
        Scalar loss.
    """
    latents = batch.latents
    count, _, frames = latents.shape[:3]
    forcing = TeacherForcingContext(model.config, memory, frames, block_frames)
    blocks = (frames - 1) // block_frames
    sigma = draw_sigmas((count, blocks), noise, generator).repeat_interleave(block_frames, dim=1)
    context_sigma = noise.context_max * torch.rand((count, 1), generator=generator)
    clean_sigma = context_sigma.expand(count, forcing.num_past).clone()
    clean_sigma[:, 0] = 0.0
    pass_sigma = torch.cat([clean_sigma, sigma], dim=1)
    past = latents if batch.past is None else batch.past
    pass_latents = torch.cat([past[:, :, : forcing.num_past], latents[:, :, 1:]], dim=2)
    eps = torch.randn(pass_latents.shape, generator=generator)
    by_frame = add_noise(pass_latents.transpose(1, 2), eps.transpose(1, 2), pass_sigma).transpose(1, 2)
    control = model.encode_control(forcing.pass_camera(batch.camera), forcing.pass_guide(guide))
    predicted = model(by_frame, pass_sigma, control, model.encode_text(batch.text), forcing)
    target = velocity_target(latents[:, :, 1:], eps[:, :, forcing.num_past :])
    return (predicted[:, :, forcing.num_past :] - target).square().mean()


def causal_x0(
    model: RelicTransformer,
    batch: ClipBatch,
    noisy: Tensor,
    sigma: Tensor,
    memory: MemoryConfig,
    block_frames: int,
    guide: Tensor | None,
    *,
    null_text: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Clean latents of every block as the network predicts them from the batch's past, in one pass.

    Args:
        model: the network.
        batch: past, camera and text.
        noisy: `(B, C, T, h, w)`; frame 0 is clean and returned as it is.
        sigma: `(B,)` noise level of all other frames.
        memory: policy, window and schedule.
        block_frames: latent frames of a block.
        guide: `(B, G, T - 1, h, w)` of the frames after the first; None without.
        null_text: `(S, D)` of the empty prompt; needed unless `guidance` is 1.
        guidance: classifier-free guidance scale.

    Returns:
        `(B, C, T, h, w)`.

    Raises:
        ValueError: for guidance without `null_text`.
    """
    count, _, frames = noisy.shape[:3]
    forcing = TeacherForcingContext(model.config, memory, frames, block_frames)
    clean = forcing.num_past
    past = batch.latents if batch.past is None else batch.past
    level = sigma.unsqueeze(1)
    pass_sigma = torch.cat([level.new_zeros((count, clean)), level.expand(-1, frames - 1)], dim=1)
    pass_latents = torch.cat([past[:, :, :clean], noisy[:, :, 1:]], dim=2)
    control = model.encode_control(forcing.pass_camera(batch.camera), forcing.pass_guide(guide))

    def velocity(text: Tensor) -> Tensor:
        return model(pass_latents, pass_sigma, control, model.encode_text(text), forcing)[:, :, clean:]

    predicted = velocity(batch.text)
    if guidance != 1.0:
        if null_text is None:
            raise ValueError(f"guidance {guidance} needs the empty prompt's tokens")
        predicted = guided(predicted, velocity(null_text.expand_as(batch.text)), guidance)
    return torch.cat([noisy[:, :, :1], x0_from_velocity(noisy[:, :, 1:], predicted, sigma)], dim=2)
