"""Distribution matching: pure functions of predictions, no network in sight (paper, section 4.4; Yin et al. 2024).

Axes: B batch, C latent channels, T latent frames, h, w latent cells.
"""

from __future__ import annotations

from torch import Tensor

_LEAST_DISTANCE = 1e-3
_LEAST_SHARE = 1e-6


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance; a scale of 1 is the conditional prediction itself."""
    return unconditional + scale * (conditional - unconditional)


def score_difference(latents: Tensor, x0_data: Tensor, x0_generated: Tensor) -> Tensor:
    """The map `s_data - s_gen` of a video, up to a positive factor of each video.

    At noise level sigma, both scores are `((1 - sigma) x0 - x) / sigma^2` with their own prediction of x0, so their
    difference is that of the predictions times `(1 - sigma) / sigma^2`. That factor is left out and the map divided by
    the mean distance of the video from the data's prediction instead: maps of all noise levels then weigh alike (Yin et
    al. 2024, eq. 8).

    Args:
        latents: `(B, C, T, h, w)` generated.
        x0_data: clean latents as the score of the data predicts them.
        x0_generated: the same of the generator's own score.

    Returns:
        `(B, C, T, h, w)`; moving latents along it makes them more like data.
    """
    distance = (latents - x0_data).abs().mean(dim=tuple(range(1, latents.ndim)), keepdim=True)
    return (x0_data - x0_generated) / distance.clamp(min=_LEAST_DISTANCE)


def truth_difference(latents: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """The map from a video to the true one where that is known, up to a positive factor of each video.

    The place of the regression on the teacher's own paths in distribution matching (Yin et al. 2024, section 3.3), with
    the recorded video instead: a world that remembers has no choice on surfaces that it was shown. Divided by the mean
    distance over what is known, it weighs beside `score_difference` by a plain factor.

    Args:
        latents: `(B, C, T, h, w)` generated.
        truth: the recorded video along the same camera path.
        known: `(B, 1, T, h, w)` share of each cell that has no choice, in [0, 1].

    Returns:
        `(B, C, T, h, w)`; zero where nothing is known, and for videos of which nothing is.
    """
    distance = known_distance(latents, truth, known)
    return (truth - latents) * known / distance.clamp(min=_LEAST_DISTANCE)


def known_distance(latents: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean absolute distance of each video from the true one where that is known.

    Args:
        latents: `(B, C, T, h, w)` generated.
        truth: the recorded video.
        known: `(B, 1, T, h, w)` weight of each cell, in [0, 1].

    Returns:
        `(B, 1, 1, 1, 1)`; zero for videos of which nothing is known.
    """
    axes = tuple(range(1, latents.ndim))
    gap = ((truth - latents) * known).abs()
    share = known.expand_as(gap).mean(dim=axes, keepdim=True)
    return gap.mean(dim=axes, keepdim=True) / share.clamp(min=_LEAST_SHARE)


def generator_gradient(difference: Tensor) -> Tensor:
    """Gradient of the loss `-mean(map * latents)` with respect to the latents, the map held constant."""
    return -difference / difference.numel()
