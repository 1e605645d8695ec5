"""First training of the world model: flow matching with teacher forcing on encoded clips.

Run lengths grow by phases; Muon moves the blocks' matrices, AdamW the rest; the EMA is judged and shipped.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from relic.checkpoint import load_checkpoint, load_into, save_checkpoint
from relic.config import RelicConfig, to_json
from relic.memory.backends import make_memory
from relic.model.transformer import RelicTransformer
from relic.pictures import tensor_to_frames
from relic.reprojection.depth import DepthNet
from relic.reprojection.view_memory import ViewFinder
from relic.rollout import rollout
from relic.screen import Screen
from relic.text import MiniLMEncoder, TextEncoder
from relic.vae.tiny_vae import TinyVae
from relic.world import make_reprojector, world_intrinsics
from relic_data.encode import LatentDataset, check_latent_space
from relic_distill.causal_loss import ClipBatch, NoiseConfig, teacher_forcing_loss
from relic_distill.clip_sampler import ClipSampler, join
from relic_distill.ema import Ema
from relic_distill.images import contact_sheet, save_picture
from relic_distill.loop import LoopConfig, step_generator, torch_generator, train
from relic_distill.muon import Muon
from relic_distill.training_guide import GuideConfig, TrainingGuide


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of training with one run length.

    Attributes:
        until_step: first step that no longer belongs to the phase; the last phase goes on for ever.
        frames: latent frames of a run, the start picture's included.
        batch: runs a step.
    """

    until_step: int
    frames: int
    batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalTrainConfig:
    """A complete run of the causal stage.

    Attributes:
        world: the world to train.
        loop: length, schedule and checkpoints.
        phases: run lengths, in order of `until_step`.
        noise: noise levels of targets and context.
        guide: what is made of guides, for a world with reprojection.
        lr_muon: peak learning rate of the blocks' matrices.
        lr_adamw: peak learning rate of everything else.
        weight_decay: of the matrices.
        ema_decay: of the average that is judged and shipped.
        sample_runs: held-out rollouts drawn at a checkpoint.
        sample_frames: their latent frames.
        seed: of data and noise.
    """

    loop: LoopConfig
    phases: tuple[Phase, ...]
    world: RelicConfig = field(default_factory=RelicConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    guide: GuideConfig = field(default_factory=GuideConfig)
    lr_muon: float = 5e-3
    lr_adamw: float = 1e-3
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    sample_runs: int = 6
    sample_frames: int = 11
    seed: int = 0

    def __post_init__(self) -> None:
        ends = [phase.until_step for phase in self.phases]
        if not ends or ends != sorted(ends):
            raise ValueError(f"phases must be given in order of until_step, got {ends}")
        if (self.sample_frames - 1) % self.world.sampler.block_frames or self.sample_frames < 3:
            raise ValueError(
                f"sample_frames {self.sample_frames} does not fill blocks of {self.world.sampler.block_frames}"
            )
        for phase in self.phases:
            if (phase.frames - 1) % self.world.sampler.block_frames or phase.frames < 2 or phase.batch < 1:
                raise ValueError(f"{phase} does not fill blocks of {self.world.sampler.block_frames}")

    @property
    def reached_phases(self) -> tuple[Phase, ...]:
        """Phases that begin within the run's steps; all of them when its length is given in minutes."""
        begins = [0, *(phase.until_step for phase in self.phases)]
        return tuple(
            phase
            for phase, begin in zip(self.phases, begins, strict=False)
            if not self.loop.steps or begin < self.loop.steps
        )


class CausalStage:
    """The world model's causal training for the harness (`relic_distill.loop.Stage`)."""

    validation_metric = "neg_loss"

    def __init__(
        self,
        config: CausalTrainConfig,
        data: Path,
        vae: TinyVae,
        text_encoder: TextEncoder,
        init: Path | None,
        depth: DepthNet | None = None,
    ) -> None:
        self.config = config
        self.vae = vae.eval().requires_grad_(False)
        self.vae_digest = vae.latent_space_digest()
        check_latent_space(data, self.vae_digest)
        torch.manual_seed(config.seed)
        self.model = RelicTransformer(config.world.model, world_intrinsics(config.world))
        if init is not None:
            load_matching(self.model, init)
        intrinsics = world_intrinsics(config.world)
        self.reprojector = make_reprojector(config.world, self.vae, depth)
        self._guide = (
            None
            if self.reprojector is None
            else TrainingGuide(
                self.reprojector, ViewFinder(intrinsics), config.guide, config.world.sampler.block_frames
            )
        )
        self.train_clips, self.validation_clips = (
            ClipSampler(
                LatentDataset(data, split),
                text_encoder,
                config.world.model.frames_per_latent,
                None if self.reprojector is None else self._view,
                config.guide.extra_views,
            )
            for split in ("train", "validation")
        )
        for phase in config.reached_phases:
            self.train_clips.require(phase.frames)
        self.validation_clips.require(config.sample_frames)
        self._longest = 0
        matrices, others = split_parameters(self.model)
        self.modules: Mapping[str, nn.Module] = {"model": self.model}
        self.optimizers: Mapping[str, Optimizer] = {
            "muon": Muon(matrices, lr=config.lr_muon, weight_decay=config.weight_decay),
            "adamw": torch.optim.AdamW(others, lr=config.lr_adamw, betas=(0.9, 0.98), weight_decay=0.0),
        }
        self.averages: Mapping[str, Ema] = {"model": Ema(self.model, config.ema_decay)}

    def describe(self) -> dict[str, Any]:
        """The configuration without its length, so that a run may be prolonged."""
        values = to_json(self.config)
        del values["loop"]
        return values

    def backward(self, step: int) -> dict[str, float]:
        """One step of the phase that `step` belongs to."""
        phase = self._phase(step)
        batch = self.train_clips.draw(phase.batch, phase.frames, step_generator(self.config.seed, step))
        loss = self._loss(batch, torch_generator(self.config.seed, step, 1))
        loss.backward()
        return {"loss": float(loss.detach()), "frames": float(phase.frames)}

    def _phase(self, step: int) -> Phase:
        phases = self.config.phases
        phase = next((phase for phase in phases if step < phase.until_step), phases[-1])
        self._longest = max(earlier.frames for earlier in phases[: phases.index(phase) + 1])
        return phase

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Roll the averaged model out on held-out clips; truth above rollout, and figures."""
        config = self.config
        count, frames = config.sample_runs, config.sample_frames
        fixed = [self.validation_clips.draw(1, frames, step_generator(config.seed, index, 2)) for index in range(count)]
        batch = join(fixed)
        with self.averages["model"].applied(), torch.inference_mode():
            loss = float(self._loss(batch, torch_generator(config.seed, 0, 3)))
            shown = self._roll_out(batch)
        truth = tensor_to_frames(self.vae.decode(batch.latents))
        rows = [
            list(film[:: config.world.model.frames_per_latent])
            for pair in zip(truth, shown, strict=True)
            for film in pair
        ]
        save_picture(folder / f"step-{step:07d}.png", contact_sheet(rows))
        error = ((truth.astype(np.float32) - shown) ** 2).mean(axis=(0, 2, 3, 4))
        psnr = 10 * np.log10(255.0**2 / np.maximum(error, 1e-6))
        pixel = config.world.model.frames_per_latent
        moments = {
            f"psnr_latent_{i}": float(psnr[1 + (i - 1) * pixel : 1 + i * pixel].mean())
            for i in (1, 2, 4, 10)
            if i < frames
        }
        return {"neg_loss": -loss, **moments}

    def export(self, path: Path) -> None:
        """The averaged weights with the world's configuration; memory looks no older than training has been long."""
        world = self.config.world
        age = min(world.memory.max_age, max(1, self._longest - 1))
        world = dataclasses.replace(world, memory=dataclasses.replace(world.memory, max_age=age))
        save_checkpoint(path, self.averages["model"].state_dict(), to_json(world), {"vae": self.vae_digest})

    @torch.no_grad()
    def _view(self, stills: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures and depth of still latents `(L, C, h, w)`, see `relic_distill.clip_sampler.Viewer`."""
        assert self.reprojector is not None
        pictures = self.vae.decode(stills.unsqueeze(2))[:, :, 0].clamp(-1, 1)
        return pictures, self.reprojector.see_depth(pictures)

    def _loss(self, batch: ClipBatch, generator: torch.Generator) -> torch.Tensor:
        world = self.config.world
        guide = None
        if self._guide is not None and batch.views is not None:
            guide = self._guide(batch.views, batch.camera, generator)
        return teacher_forcing_loss(
            self.model, batch, world.memory, world.sampler.block_frames, self.config.noise, generator, guide
        )

    def _roll_out(self, batch: ClipBatch) -> np.ndarray:
        world = self.config.world
        first = batch.latents[:, :, :1]
        text = self.model.encode_text(batch.text)
        memory = make_memory(world.memory, world.model)
        generator = torch_generator(self.config.seed, 0, 4)
        screen = Screen(self.vae, world_intrinsics(world), self.reprojector, batch=len(first))
        blocks = rollout(self.model, memory, first, batch.camera, text, world.sampler, generator, screen)
        return tensor_to_frames(self.vae.decode(torch.cat([first, *(block.latents for block in blocks)], dim=2)))


def split_parameters(model: RelicTransformer) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices of the transformer blocks, and everything else."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    return matrices, [parameter for parameter in model.parameters() if id(parameter) not in chosen]


def load_matching(model: RelicTransformer, checkpoint: Path) -> None:
    """Start a model from exported weights; a guide the checkpoint knows nothing of starts silent.

    Raises:
        ValueError: when the checkpoint is of another network.
    """
    state = load_checkpoint(checkpoint)[0]
    if model.config.guide_channels:
        state.setdefault("guide_embedding.weight", model.guide_embedding.weight.detach())
    load_into(model, state, checkpoint)


def train_causal(
    config: CausalTrainConfig,
    data: Path,
    vae_checkpoint: Path,
    out: Path,
    *,
    init: Path | None = None,
    depth_checkpoint: Path | None = None,
) -> str:
    """Train, or go on training, the causal world model.

    Args:
        config: the complete run.
        data: folder written by `relic data encode`.
        vae_checkpoint: the auto-encoder the data was encoded with.
        out: folder of the run.
        init: exported weights to start from; ignored once `out` holds a checkpoint.
        depth_checkpoint: the depth network of a world with reprojection.

    Returns:
        "finished" or "interrupted".

    Raises:
        ValueError: when data, checkpoints and configuration do not fit together.
    """
    vae = TinyVae.load(vae_checkpoint)
    world = dataclasses.replace(config.world, vae=copy.copy(vae.config))
    depth = None if depth_checkpoint is None else DepthNet.load(depth_checkpoint)
    if world.reprojection is not None and depth is not None:
        world = dataclasses.replace(world, reprojection=dataclasses.replace(world.reprojection, depth=depth.config))
    config = dataclasses.replace(config, world=world)
    stage = CausalStage(config, data, vae, MiniLMEncoder(config.world.model.text_tokens), init, depth)
    return train(stage, config.loop, out)
