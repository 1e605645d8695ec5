"""Training of the depth network on rendered pictures and their exact depth.

Axes: B pictures, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from relic.checkpoint import save_checkpoint, sha256_of
from relic.config import to_json
from relic.pictures import frames_to_tensor, tensor_to_frames
from relic.reprojection.config import DepthConfig
from relic.reprojection.depth import FARTHEST_M, NEAREST_M, DepthNet
from relic_data.clips import Clip, ClipDataset
from relic_distill.ema import Ema
from relic_distill.images import contact_sheet, save_picture
from relic_distill.loop import LoopConfig, Outcome, step_generator, torch_generator, train
from relic_distill.muon import Muon
from relic_distill.spoiling import recolour_pictures, spoil_pictures

_PICTURES, _SPOILING, _HELD = 1, 2, 20_260_102
_SCALES = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthTrainConfig:
    """How the depth network is trained.

    Attributes:
        depth: sizes; ignored with `start_from`, which brings its own.
        loop: length, schedule and checkpoints.
        batch: pictures a step.
        matrix_lr: peak learning rate of Muon, for the matrices.
        lr: peak learning rate of AdamW, for everything else.
        gradient_weight: weight of the error of depth differences between neighbours, at four scales.
        spoil: strength of blur, noise and changes of contrast put on the pictures: what a world paints is
            never as clean as a render.
        recolour: chance of a picture to have its colour channels shuffled.
        ema_decay: decay of the shipped average of the weights.
        start_from: a depth network to go on from.
        seed: of pictures, spoiling and initial weights.
    """

    depth: DepthConfig = field(default_factory=DepthConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(minutes=10.0))
    batch: int = 24
    matrix_lr: float = 8e-3
    lr: float = 1e-3
    gradient_weight: float = 0.5
    spoil: float = 0.6
    recolour: float = 0.5
    ema_decay: float = 0.995
    start_from: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch {self.batch} must be at least 1")
        if not 0 <= self.recolour <= 1:
            raise ValueError(f"recolour {self.recolour} must lie in [0, 1]")
        for name in ("matrix_lr", "lr", "gradient_weight", "spoil"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be negative")


def log_depth_loss(predicted: Tensor, truth: Tensor, gradient_weight: float) -> Tensor:
    """Mean absolute error of log depth `(B, H, W)` plus that of its differences at four scales.

    Errors count by the parallax they cause, as 2 m over the true depth, at least 0.25 and at most 4 times.
    """
    error = (predicted - truth) * (2 * (-truth).exp()).clamp(0.25, 4.0)
    loss = error.abs().mean()
    for scale in _SCALES:
        small = error[:, ::scale, ::scale]
        across = (small[:, :, 1:] - small[:, :, :-1]).abs().mean()
        down = (small[:, 1:] - small[:, :-1]).abs().mean()
        loss = loss + gradient_weight / len(_SCALES) * (across + down)
    return loss


class DepthStage:
    """The harness's view of depth training; see `relic_distill.loop.Stage`."""

    validation_metric = "within_10_percent"

    def __init__(self, config: DepthTrainConfig, training: Sequence[Clip], validation: Sequence[Clip]) -> None:
        self.config = config
        self._training = [(clip.frames, clip.depth) for clip in training]
        self._validation = [(clip.frames, clip.depth) for clip in validation] or self._training
        torch.manual_seed(int(step_generator(config.seed, 0, 0).integers(2**62)))
        self.network = DepthNet(config.depth) if config.start_from is None else DepthNet.load(config.start_from)
        matrices = [p for p in self.network.parameters() if p.ndim == 2]
        others = [p for p in self.network.parameters() if p.ndim != 2]
        self.modules: Mapping[str, nn.Module] = {"depth": self.network}
        self.frozen: Mapping[str, nn.Module] = {}
        self.averages: Mapping[str, Ema] = {"depth": Ema(self.network, config.ema_decay)}
        self.optimizers: Mapping[str, Optimizer] = {
            "muon": Muon(matrices, lr=config.matrix_lr, weight_decay=0.0),
            "adamw": AdamW(others, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0),
        }

    def describe(self) -> dict[str, Any]:
        """The configuration without its length, so that a run may be prolonged."""
        values = to_json(self.config)
        del values["loop"]
        start = self.config.start_from
        return {**values, "start_from": None if start is None else sha256_of(start)}

    def backward(self, step: int, part: int = 0) -> dict[str, float]:
        """One batch's loss and gradients."""
        config = self.config
        pictures, truth = self._draw(self._training, config.batch, step_generator(config.seed, step, _PICTURES, part))
        generator = torch_generator(config.seed, step, _SPOILING, part)
        spoiled = spoil_pictures(recolour_pictures(pictures, config.recolour, generator), config.spoil, generator)
        loss = log_depth_loss(self.network(spoiled), truth, config.gradient_weight)
        loss.backward()
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Errors on held-out pictures, and a sheet of picture, true and predicted depth."""
        pictures, truth = self._draw(self._validation, 96, step_generator(_HELD, 0))
        with self.averages["depth"].applied():
            predicted = torch.cat([self.network(part) for part in pictures.split(24)])
        ratio = (predicted - truth).abs().expm1()
        shown = tensor_to_frames(pictures[:8].unsqueeze(2))[:, 0]
        rows = [
            [picture, _coloured(depth), _coloured(guess)]
            for picture, depth, guess in zip(shown, truth, predicted, strict=False)
        ]
        save_picture(folder / f"step-{step:08d}.png", contact_sheet(rows))
        parallax = ((-predicted).exp() - (-truth).exp()).abs()
        return {
            "parallax_error": parallax.mean().item(),
            "relative_error": ratio.mean().item(),
            "median_relative_error": ratio.median().item(),
            "within_10_percent": (ratio < 0.1).float().mean().item(),
        }

    def export(self, path: Path) -> None:
        """The averaged weights, as `DepthNet.load` reads them."""
        save_checkpoint(path, self.averages["depth"].state_dict(), to_json(self.network.config), {"kind": "depth"})

    def _draw(self, clips: Sequence[tuple[Any, Any]], count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random pictures `(count, 3, H, W)`, half of them mirrored, and their log depth `(count, H, W)`."""
        pictures, depths = [], []
        for _ in range(count):
            frames, depth = clips[int(random.integers(len(clips)))]
            index = int(random.integers(len(frames)))
            turn = slice(None, None, -1 if random.random() < 0.5 else 1)
            pictures.append(frames[index][:, turn])
            depths.append(depth[index][:, turn].astype(np.float32))
        truth = torch.as_tensor(np.stack(depths)).clamp(NEAREST_M, FARTHEST_M).log()
        return frames_to_tensor(np.stack(pictures)).transpose(0, 1), truth


def _coloured(log_depth: Tensor) -> NDArray[np.uint8]:
    """Near is bright: a colour picture `(H, W, 3)` of log depth `(H, W)` between 0.3 and 10 m."""
    low, high = np.log(0.3), np.log(10.0)
    grey = 255 * (1 - ((log_depth.cpu().numpy() - low) / (high - low)).clip(0, 1))
    return cv2.cvtColor(cv2.applyColorMap(grey.astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB).astype(
        np.uint8
    )


def train_depth(config: DepthTrainConfig, data: Path, out: Path, *, progress_bar: bool = True) -> Outcome:
    """Train the depth network on the clips under `data`, going on from `out` where a run was begun there.

    Args:
        config: the run.
        data: a folder that `relic data render` wrote.
        out: see `relic_distill.loop.train`; `latest.safetensors` is the file to use.
        progress_bar: show one on stderr.

    Raises:
        ValueError: for data without training clips, or an `out` of another configuration.
    """
    training, validation = (list(ClipDataset(data, split)) for split in ("train", "validation"))
    if not training:
        raise ValueError(f"{data} has no training clips: render some scenes first")
    return train(DepthStage(config, training, validation), config.loop, out, progress_bar=progress_bar)
