"""Training of the tiny video VAE: principal components first, then the network on top of them.

`decoder_only` trains the decoder alone on the latents of a given checkpoint, which therefore stay valid for
every world model trained on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from relic.checkpoint import save_checkpoint, sha256_of
from relic.config import to_json
from relic.pictures import frames_to_tensor, tensor_to_frames
from relic.vae.config import TEMPORAL_FACTOR, VaeConfig
from relic.vae.tiny_vae import TinyVae
from relic_data.clips import ClipDataset
from relic_distill.ahead import Ahead
from relic_distill.ema import Ema
from relic_distill.images import contact_sheet, save_picture
from relic_distill.loop import LoopConfig, Outcome, step_generator, torch_generator, train
from relic_distill.muon import Muon
from relic_distill.vae_init import calibrate_latents, start_from_principal_components

Videos = Sequence[NDArray[np.uint8]]
"""Videos (T, H, W, 3), all of one H and W; memory maps are welcome."""

_WINDOW_STREAM, _NOISE_STREAM, _VALIDATION_SEED = 1, 2, 20_260_101


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeTrainConfig:
    """How the VAE is trained.

    Attributes:
        vae: sizes; ignored with `start_from`, which brings its own.
        encoder_blocks: deepen the encoder of `start_from` to that many blocks at quarter and eighth resolution;
            the added ones begin as identities, so the first step's latents are those of `start_from`.
        loop: length, schedule and checkpoints.
        batch: windows a step.
        window_frames: pixel frames of a window, 1 + 4k.
        matrix_lr: peak learning rate of Muon, for the matrices of the blocks.
        lr: peak learning rate of AdamW, for everything else.
        weight_decay: decoupled decay, of the matrices only.
        mse_weight, l1_weight, gradient_weight: weights of the squared, absolute and edge errors.
        latent_weight: weight of the penalty that keeps latents near zero mean and unit variance.
        latent_noise: standard deviation of the noise on latents that the decoder learns to bear.
        ema_decay: decay of the shipped average of the weights.
        decoder_only: leave the encoder (and so the latents) as `start_from` has them.
        start_from: a VAE checkpoint to go on from instead of principal components.
        seed: of windows, noise and initial weights.
    """

    vae: VaeConfig = field(default_factory=VaeConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(minutes=45.0))
    batch: int = 4
    window_frames: int = 17
    matrix_lr: float = 4e-3
    lr: float = 1e-3
    weight_decay: float = 0.0
    mse_weight: float = 1.0
    l1_weight: float = 0.1
    gradient_weight: float = 0.05
    latent_weight: float = 1e-4
    latent_noise: float = 0.03
    ema_decay: float = 0.998
    decoder_only: bool = False
    start_from: Path | None = None
    encoder_blocks: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.window_frames < 1 or (self.window_frames - 1) % TEMPORAL_FACTOR:
            raise ValueError(f"batch {self.batch} must be >= 1 and window_frames {self.window_frames} be 1 + 4k")
        if self.decoder_only and self.start_from is None:
            raise ValueError("decoder_only needs start_from: a checkpoint whose encoder is to be kept")
        if self.encoder_blocks is not None and (self.decoder_only or self.start_from is None):
            raise ValueError(
                f"encoder_blocks {self.encoder_blocks} deepens the encoder of start_from, which decoder_only keeps: "
                "give start_from without decoder_only, or set the blocks in vae"
            )
        for name in ("matrix_lr", "lr", "weight_decay", "mse_weight", "l1_weight", "gradient_weight",
                     "latent_weight", "latent_noise"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be negative")


def pick_windows(videos: Videos, count: int, frames: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random windows, mirrored and reversed in time by the toss of coins.

    Returns:
        (count, frames, H, W, 3).

    Raises:
        ValueError: when every video is shorter than a window.
    """
    lengths = np.array([len(video) for video in videos])
    starts = np.maximum(lengths - frames + 1, 0)
    if starts.sum() == 0:
        raise ValueError(f"no video has {frames} frames (longest {lengths.max(initial=0)}): use a shorter window")
    windows = []
    for _ in range(count):
        index = int(rng.choice(len(videos), p=starts / starts.sum()))
        start = int(rng.integers(starts[index]))
        window = np.asarray(videos[index][start : start + frames])
        if rng.random() < 0.5:
            window = window[::-1]
        if rng.random() < 0.5:
            window = window[:, :, ::-1]
        windows.append(window)
    return np.stack(windows)


def draw_windows(videos: Videos, count: int, frames: int, rng: np.random.Generator) -> Tensor:
    """`pick_windows` as (count, 3, frames, H, W) float32 in [-1, 1]."""
    return frames_to_tensor(pick_windows(videos, count, frames, rng))


def edge_error(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and vertical neighbour differences; axes (..., H, W)."""
    error = predicted - truth
    across = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return across + down


def psnr_of(predicted: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of each frame after clamping to [-1, 1]: (B, 3, T, H, W) twice -> (B, T)."""
    squared = (predicted.clamp(-1, 1) - truth).square().mean(dim=(1, 3, 4)).clamp(min=1e-10)
    return 10.0 * torch.log10(4.0 / squared)


def with_deeper_encoder(vae: TinyVae, blocks: tuple[int, int]) -> TinyVae:
    """The same function with more encoder blocks, each added one an identity until it is trained.

    Raises:
        ValueError: for fewer blocks than there are.
    """
    present = vae.config.encoder_blocks
    if any(wanted < had for wanted, had in zip(blocks, present, strict=True)):
        raise ValueError(f"encoder_blocks {blocks} must be no fewer than the {present} that are there")
    deeper = TinyVae(dataclasses.replace(vae.config, encoder_blocks=blocks))
    deeper.load_state_dict(vae.state_dict(), strict=False)
    return deeper


class VaeStage:
    """The harness's view of VAE training; see `relic_distill.loop.Stage`."""

    validation_metric = "psnr"

    def __init__(self, config: VaeTrainConfig, training: Videos, validation: Videos) -> None:
        self.config = config
        self.training, self.validation = training, validation
        torch.manual_seed(int(step_generator(config.seed, 0, 0).integers(2**62)))
        self.vae = self._initial_vae()
        self.modules: Mapping[str, nn.Module] = {"vae": self.vae}
        self.frozen: Mapping[str, nn.Module] = {}
        self.averages: Mapping[str, Ema] = {"vae": Ema(self.vae, config.ema_decay)}
        self.optimizers: Mapping[str, Optimizer] = self._optimizers()
        self._ahead = Ahead(self._windows_of)

    def _windows_of(self, key: tuple[int, ...]) -> NDArray[np.uint8]:
        """The windows of a step and part."""
        step, part = key
        config, rng = self.config, step_generator(self.config.seed, step, _WINDOW_STREAM, part)
        return pick_windows(self.training, config.batch, config.window_frames, rng)

    def _initial_vae(self) -> TinyVae:
        if self.config.start_from is not None:
            vae = TinyVae.load(self.config.start_from)
            if self.config.encoder_blocks is not None:
                vae = with_deeper_encoder(vae, self.config.encoder_blocks)
            if self.config.decoder_only:
                vae.encoder.requires_grad_(False)
            return vae
        vae = TinyVae(self.config.vae)
        windows = self._held_windows(self.training, 96, 5)
        start_from_principal_components(vae, windows)
        return vae

    def _optimizers(self) -> Mapping[str, Optimizer]:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.vae.named_parameters():
            if parameter.requires_grad:
                inside = parameter.ndim == 2 and ".linear." not in name and ".head." not in name
                (matrices if inside else others).append(parameter)
        return {
            "muon": Muon(matrices, lr=self.config.matrix_lr, weight_decay=self.config.weight_decay),
            "adamw": AdamW(others, lr=self.config.lr, betas=(0.9, 0.98), weight_decay=0.0),
        }

    def describe(self) -> dict[str, Any]:
        """Everything that decides the course of the run but its length."""
        values = dataclasses.asdict(self.config)
        start_from = values.pop("start_from")
        values["start_from"] = None if start_from is None else sha256_of(start_from)
        for name in ("steps", "minutes", "checkpoint_minutes", "checkpoint_steps", "log_every", "runtime"):
            del values["loop"][name]
        return values

    def backward(self, step: int, part: int = 0) -> dict[str, float]:
        """One batch's loss and gradients."""
        config = self.config
        on_gpu = next(self.vae.parameters()).device.type == "cuda"
        picked = self._ahead.get((step, part), (step + 1, part)) if on_gpu else self._windows_of((step, part))
        truth = frames_to_tensor(picked)
        self.vae.train()
        with torch.set_grad_enabled(not config.decoder_only):
            latents = self.vae.encode(truth)
        noise = torch.randn(latents.shape, generator=torch_generator(config.seed, step, _NOISE_STREAM, part))
        predicted = self.vae.decode(latents + config.latent_noise * noise)
        squared = (predicted - truth).square().mean()
        absolute = (predicted - truth).abs().mean()
        edges = edge_error(predicted, truth)
        loss = config.mse_weight * squared + config.l1_weight * absolute + config.gradient_weight * edges
        mean, variance = latents.mean(dim=(0, 2, 3, 4)), latents.var(dim=(0, 2, 3, 4))
        penalty = (mean.square() + variance - 1 - variance.clamp(min=1e-6).log()).mean()
        if not config.decoder_only:
            loss = loss + config.latent_weight * penalty
        loss.backward()
        return {
            "loss": loss.item(),
            "psnr": float(10.0 * torch.log10(4.0 / squared.detach())),
            "l1": absolute.item(),
            "edges": edges.item(),
            "latent_penalty": penalty.item(),
            "latent_std": latents.detach().std().item(),
        }

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out PSNR (dB, mean over frames) of the averaged weights, and a sheet of truth above reconstruction."""
        figures: list[Tensor] = []
        rows: list[list[NDArray[np.uint8]]] = []
        with self.averages["vae"].applied():
            for window in self._held_windows(self.validation or self.training, 24, 17).split(4):
                rebuilt = torch.cat([self.vae.decode(self.vae.encode(one)) for one in window.split(1)])
                figures.append(psnr_of(rebuilt, window))
                if len(rows) < 12:
                    for truth, guess in zip(window, rebuilt, strict=True):
                        rows += [list(tensor_to_frames(video)[[0, 2, 8, 16]]) for video in (truth, guess)]
        save_picture(folder / f"step-{step:08d}.png", contact_sheet(rows[:12]))
        every = torch.cat(figures)
        return {
            "psnr": every.mean().item(),
            "psnr_first": every[:, 0].mean().item(),
            "psnr_worst_window": every.mean(dim=1).min().item(),
        }

    def export(self, path: Path) -> None:
        """The averaged weights with their latent statistics brought up to date, as `TinyVae` loads them."""
        with self.averages["vae"].applied():
            shipped = TinyVae(self.vae.config)
            shipped.load_state_dict(self.vae.state_dict())
        if not self.config.decoder_only:
            calibrate_latents(shipped, self._held_windows(self.training, 64, 17))
        save_checkpoint(path, shipped.state_dict(), to_json(shipped.config), {"kind": "tiny_vae"})

    def _held_windows(self, videos: Videos, count: int, frames: int) -> Tensor:
        """The same windows at every call: (count, 3, frames, H, W)."""
        return draw_windows(videos, count, frames, step_generator(_VALIDATION_SEED, count, frames))


def train_vae(config: VaeTrainConfig, data: Path, out: Path, *, progress_bar: bool = True) -> Outcome:
    """Train the VAE on the clips under `data`, going on from `out` where a run was begun there.

    Args:
        config: the run.
        data: a folder that `relic data render` wrote.
        out: see `relic_distill.loop.train`; `best.safetensors` is the file to ship.
        progress_bar: show one on stderr.

    Raises:
        ValueError: for data without training clips, or an `out` of another configuration.
        WorkFailedError: see `relic_distill.loop.train`.
    """
    training, validation = ([clip.frames for clip in ClipDataset(data, split)] for split in ("train", "validation"))
    if not training:
        raise ValueError(f"{data} has no training clips: render some scenes first")
    return train(VaeStage(config, training, validation), config.loop, out, progress_bar=progress_bar)
