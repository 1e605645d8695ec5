"""The teacher's pass: a whole video at one noise level, every frame seeing every other (paper, section 4.1).

The start picture is always clean. Classifier-free guidance contrasts the prompt with none.

Axes: B batch, C latent channels, T latent frames, h, w latent cells, S text tokens, G guide channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relic.flow_matching import add_noise, euler_step, sampling_sigmas, velocity_target, x0_from_velocity
from relic.model.attention import BidirectionalContext
from relic.model.transformer import RelicTransformer
from relic_distill.causal_loss import ClipBatch, NoiseConfig, draw_sigmas
from relic_distill.dmd import guided


@dataclass(frozen=True, kw_only=True, slots=True)
class DropConfig:
    """Conditions left out in training, so that guidance has something to contrast with.

    Attributes:
        text: chance of a run to lose its prompt.
        actions: chance of a run to lose its actions; the absolute poses stay.
    """

    text: float = 0.1
    actions: float = 0.1

    def __post_init__(self) -> None:
        for name in ("text", "actions"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"drop chance of {name} {getattr(self, name)} must lie in [0, 1]")


def drop_conditions(batch: ClipBatch, chances: DropConfig, null_text: Tensor, generator: torch.Generator) -> ClipBatch:
    """Some runs without prompt, some without actions; `null_text` `(S, D)` is the empty prompt's."""
    count = len(batch.latents)
    no_text = torch.rand((count, 1, 1), generator=generator) < chances.text
    no_action = torch.rand((count, 1, 1, 1), generator=generator) < chances.actions
    actions = batch.camera.actions.masked_fill(no_action, 0.0)
    return replace(
        batch,
        text=torch.where(no_text, null_text, batch.text),
        camera=replace(batch.camera, actions=actions),
    )


def video_velocity(
    model: RelicTransformer,
    noisy: Tensor,
    sigma: Tensor,
    batch: ClipBatch,
    guide: Tensor | None,
    trained_frames: int | None = None,
) -> Tensor:
    """Velocity of a whole video.

    Args:
        model: the network.
        noisy: `(B, C, T, h, w)`; frame 0 is clean.
        sigma: `(B,)` noise level of all other frames.
        batch: whose camera and text count.
        guide: `(B, G, T - 1, h, w)` of the frames after the first; None without.
        trained_frames: see `BidirectionalContext`.

    Returns:
        `(B, C, T, h, w)`; frame 0 has no meaning.
    """
    frames = noisy.shape[2]
    level = sigma.unsqueeze(1).repeat(1, frames)
    level[:, 0] = 0.0
    if guide is not None:
        guide = torch.cat([torch.zeros_like(guide[:, :, :1]), guide], dim=2)
    control = model.encode_control(batch.camera, guide)
    context = BidirectionalContext(model.config, frames, trained_frames)
    return model(noisy, level, control, model.encode_text(batch.text), context)


def noised_video(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """`latents` `(B, C, T, h, w)` at noise level `sigma` `(B,)`, the start picture clean."""
    noisy = add_noise(latents, noise, sigma)
    return torch.cat([latents[:, :, :1], noisy[:, :, 1:]], dim=2)


def video_loss(
    model: RelicTransformer,
    batch: ClipBatch,
    noise: NoiseConfig,
    generator: torch.Generator,
    guide: Tensor | None,
    trained_frames: int | None = None,
) -> Tensor:
    """Mean squared error of the velocity of all frames after the first, one noise level a video."""
    latents = batch.latents
    sigma = draw_sigmas((len(latents),), noise, generator)
    eps = torch.randn(latents.shape, generator=generator)
    predicted = video_velocity(model, noised_video(latents, eps, sigma), sigma, batch, guide, trained_frames)
    return (predicted - velocity_target(latents, eps))[:, :, 1:].square().mean()


def video_x0(
    model: RelicTransformer,
    noisy: Tensor,
    sigma: Tensor,
    batch: ClipBatch,
    guide: Tensor | None,
    *,
    null_text: Tensor | None = None,
    guidance: float = 1.0,
    trained_frames: int | None = None,
) -> Tensor:
    """Clean latents of a whole video as the network predicts them, with classifier-free guidance.

    Args:
        model: the network.
        noisy: `(B, C, T, h, w)`; frame 0 is clean and returned as it is.
        sigma: `(B,)`.
        batch: whose camera and text count.
        guide: see `video_velocity`.
        null_text: `(S, D)` of the empty prompt; needed unless `guidance` is 1.
        guidance: scale.
        trained_frames: see `BidirectionalContext`.
    """
    velocity = video_velocity(model, noisy, sigma, batch, guide, trained_frames)
    if guidance != 1.0:
        if null_text is None:
            raise ValueError(f"guidance {guidance} needs the empty prompt's tokens")
        bare = replace(batch, text=null_text.expand_as(batch.text))
        velocity = guided(velocity, video_velocity(model, noisy, sigma, bare, guide, trained_frames), guidance)
    return torch.cat([noisy[:, :, :1], x0_from_velocity(noisy, velocity, sigma)[:, :, 1:]], dim=2)


@torch.no_grad()
def sample_video(
    model: RelicTransformer,
    batch: ClipBatch,
    guide: Tensor | None,
    generator: torch.Generator,
    *,
    steps: int,
    shift: float,
    keep: Sequence[int] = (),
    null_text: Tensor | None = None,
    guidance: float = 1.0,
    trained_frames: int | None = None,
) -> Tensor:
    """Integrate the teacher's flow from noise to a video, by Euler steps.

    Args:
        model: the network.
        batch: first latent frame, camera and text.
        guide: see `video_velocity`.
        generator: of the noise.
        steps: network passes.
        shift: of the noise schedule.
        keep: numbers of the steps before which the state is kept as well.
        null_text: see `video_x0`.
        guidance: see `video_x0`.
        trained_frames: see `BidirectionalContext`.

    Returns:
        `(len(keep) + 1, B, C, T, h, w)`: the kept states, then the clean video.
    """
    first = batch.latents[:, :, :1]
    shape = batch.latents.shape
    x = torch.cat([first, torch.randn(shape, generator=generator)[:, :, 1:]], dim=2)
    kept = []
    for step, (sigma, following) in enumerate(itertools.pairwise(sampling_sigmas(steps, shift))):
        if step in keep:
            kept.append(x)
        level = sigma.expand(shape[0])
        x0 = video_x0(
            model, x, level, batch, guide, null_text=null_text, guidance=guidance, trained_frames=trained_frames
        )
        x = euler_step(x, (x - x0) / sigma, sigma, following)
    return torch.stack([*kept, x])
