"""The VAE's start: principal components of 8x8x4 patches, and the statistics that normalise latents."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from relic.vae.config import SPATIAL_FACTOR, TEMPORAL_FACTOR
from relic.vae.tiny_vae import TinyVae


@torch.no_grad()
def start_from_principal_components(vae: TinyVae, windows: Tensor) -> None:
    """Make the linear paths of a fresh VAE encode and decode the strongest components of its patches.

    Component i is scaled by std_i ** -0.5, half way to white, so that coarse components stay the larger ones.

    Args:
        vae: its residual networks must still be silent, as they are when new.
        windows: (B, 3, T, H, W) frames in [-1, 1], T >= 5.

    Raises:
        ValueError: when the frames are fewer than five or hold fewer patches than components.
    """
    if windows.shape[2] < 1 + TEMPORAL_FACTOR:
        raise ValueError(f"windows of {windows.shape[2]} frames hold no whole patch: give at least 5")
    patches = _patches(windows[:, :, 1:])
    channels = vae.config.latent_channels
    if len(patches) <= channels:
        raise ValueError(f"{len(patches)} patches cannot give {channels} components: give more windows")
    mean = patches.mean(dim=0)
    covariance = torch.cov(patches.double().T)
    variances, vectors = torch.linalg.eigh(covariance)
    order = variances.argsort(descending=True)[:channels]
    components = vectors[:, order].T.float()
    scale = variances[order].clamp(min=1e-8).pow(0.25).float()[:, None]
    vae.encoder.linear.weight.copy_(components / scale)
    vae.encoder.linear.bias.copy_(-(components / scale) @ mean)
    vae.decoder.linear.weight.copy_((components * scale).T)
    vae.decoder.linear.bias.copy_(mean)
    calibrate_latents(vae, windows)


@torch.no_grad()
def calibrate_latents(vae: TinyVae, windows: Tensor) -> None:
    """Set the normalisation so that latents of `windows` have zero mean and, on average over channels, unit variance.

    What the VAE reconstructs does not change; latents made before are no longer its own.
    """
    vae.latent_mean.zero_()
    vae.latent_scale.fill_(1.0)
    raw = torch.cat([vae.encode(part) for part in windows.split(4)])
    vae.latent_mean.copy_(raw.mean(dim=(0, 2, 3, 4)))
    vae.latent_scale.copy_(raw.var(dim=(0, 2, 3, 4)).mean().sqrt())


def _patches(frames: Tensor) -> Tensor:
    """(B, 3, 4k, H, W) -> (patches, 768) in the order of the VAE's linear path."""
    whole = frames.shape[2] // TEMPORAL_FACTOR * TEMPORAL_FACTOR
    groups = frames[:, :, :whole].unflatten(2, (-1, TEMPORAL_FACTOR)).permute(0, 2, 3, 1, 4, 5)
    folded = F.pixel_unshuffle(groups.flatten(0, 1).flatten(1, 2), SPATIAL_FACTOR)
    return folded.permute(0, 2, 3, 1).flatten(0, 2)
