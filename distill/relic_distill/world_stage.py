"""What all stages that train a world's network share: runs of clips, guides, optimisers, held-out sheets, export.

Muon moves the blocks' matrices, AdamW the rest; the EMA is judged and shipped.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from relic.checkpoint import load_checkpoint, save_checkpoint
from relic.config import RelicConfig, to_json
from relic.memory.backends import make_memory
from relic.model.transformer import RelicTransformer
from relic.pictures import tensor_to_frames
from relic.precision import cast_parameters, full_precision
from relic.reprojection.depth import DepthNet
from relic.reprojection.view_memory import ViewFinder
from relic.rollout import rollout
from relic.screen import Screen
from relic.text import TextEncoder
from relic.vae.tiny_vae import TinyVae
from relic.world import make_reprojector, world_intrinsics
from relic_data.encode import LatentDataset, check_latent_space
from relic_distill.ahead import Ahead
from relic_distill.causal_loss import ClipBatch, NoiseConfig
from relic_distill.clip_sampler import ClipSampler, join
from relic_distill.devices import moved, moved_aside, on_processor
from relic_distill.ema import Ema
from relic_distill.images import contact_sheet, save_picture
from relic_distill.loop import LoopConfig, step_generator, torch_generator
from relic_distill.muon import Muon
from relic_distill.seen_views import SeenViews
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
class WorldTrainConfig:
    """A complete run of a stage that trains a world's network.

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


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What stages train with and do not change.

    Attributes:
        data: folder written by `relic data encode`.
        vae: the auto-encoder of its latents.
        text_encoder: encodes captions.
        depth: sees the depth of pictures, for a world with reprojection.
    """

    data: Path
    vae: TinyVae
    text_encoder: TextEncoder
    depth: DepthNet | None = None


class WorldStage(ABC):
    """Base of the stages for the harness (`relic_distill.loop.Stage`); a stage brings its losses.

    Args:
        config: the complete run.
        given: data and frozen networks.
        model: the network to train.
        views: whether batches of a world with a guide bring known views, whose pictures and depth cost time.

    Attributes:
        known_age: ages of memory, in latent frames, that the network knew before this training.

    Raises:
        ValueError: when the data was encoded by another auto-encoder or is too short, or a depth network is missing.
    """

    validation_metric = "neg_loss"

    def __init__(
        self, config: WorldTrainConfig, given: Ingredients, model: RelicTransformer, *, views: bool = True
    ) -> None:
        self.config = config
        self.model = model
        self.vae = given.vae.eval().requires_grad_(False)
        self.vae_digest = given.vae.latent_space_digest()
        self._null_text = given.text_encoder.encode([""])[0]
        check_latent_space(given.data, self.vae_digest)
        if config.loop.runtime.mixed_precision == "bf16":
            for helper in filter(None, (given.vae, given.depth)):
                cast_parameters(helper, torch.bfloat16)
        intrinsics = world_intrinsics(config.world)
        self.reprojector = make_reprojector(config.world, self.vae, given.depth)
        self._guide = (
            None
            if self.reprojector is None
            else TrainingGuide(
                self.reprojector, ViewFinder(intrinsics), config.guide, config.world.sampler.block_frames
            )
        )
        shower = None
        if views and self.reprojector is not None:
            shower = SeenViews(given.data / "views", self.see, filter(None, (given.vae, given.depth)))
        self.train_clips, self.validation_clips = (
            ClipSampler(
                LatentDataset(given.data, split),
                given.text_encoder,
                config.world.model.frames_per_latent,
                shower,
                config.guide.extra_views,
            )
            for split in ("train", "validation")
        )
        for phase in config.reached_phases:
            self.train_clips.require(phase.frames)
        self.validation_clips.require(config.sample_frames)
        self._ahead = Ahead(lambda key: moved_aside(self._runs_of(key), self.device))
        self._longest, self._all_seen = 0, False
        self.known_age = 0
        self.modules: Mapping[str, nn.Module] = {"model": model}
        helpers = {"vae": self.vae, "depth": given.depth}
        self.frozen: Mapping[str, nn.Module] = {name: one for name, one in helpers.items() if one is not None}
        self.optimizers: Mapping[str, Optimizer] = optimizers_of(model, config)
        self.averages: Mapping[str, Ema] = {"model": Ema(model, config.ema_decay)}

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.model.proj_out.weight.device

    @property
    def null_text(self) -> Tensor:
        """`(S, D)` of the empty prompt."""
        return self._null_text.to(self.device)

    def describe(self) -> dict[str, Any]:
        """The configuration without its length, so that a run may be prolonged."""
        values = to_json(self.config)
        del values["loop"]
        return values

    def backward(self, step: int, part: int = 0) -> dict[str, float]:
        """A part of one step of the phase that `step` belongs to."""
        batch = self.draw(step, part)
        loss = self.loss(batch, torch_generator(self.config.seed, step, 1, part))
        loss.backward()
        return {"loss": float(loss.detach()), "frames": float(batch.latents.shape[2])}

    def draw(self, step: int, part: int = 0) -> ClipBatch:
        """The runs of a step's part, as long as its phase says.

        On a GPU, where a clip's views take longer to make than a step, all are made before the first.
        """
        phases = self.config.phases
        phase = self._phase(step)
        self._longest = max(earlier.frames for earlier in phases[: phases.index(phase) + 1])
        if self.device.type != "cuda":
            return moved(self._runs_of((step, part)), self.device)
        if not self._all_seen:
            self.train_clips.see_all()
            self._all_seen = True
        return self._ahead.get((step, part), (step + 1, part))

    def _phase(self, step: int) -> Phase:
        phases = self.config.phases
        return next((phase for phase in phases if step < phase.until_step), phases[-1])

    def _runs_of(self, key: tuple[int, ...]) -> ClipBatch:
        """The runs of a step and part, on the processor."""
        step, part = key
        phase = self._phase(step)
        with on_processor():
            return self.train_clips.draw(phase.batch, phase.frames, step_generator(self.config.seed, step, 0, part))

    @abstractmethod
    def loss(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Scalar loss of a batch; also the held-out figure."""

    def show(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """Latents `(B, C, T, h, w)` that the network draws for held-out runs: by default, a rollout as it is played."""
        world, first = self.config.world, batch.latents[:, :, :1]
        text = self.model.encode_text(batch.text)
        memory = make_memory(world.memory, world.model)
        blocks = rollout(
            self.model, memory, first, batch.camera, text, world.sampler, generator, self.screen(len(first))
        )
        return torch.cat([first, *(block.latents for block in blocks)], dim=2)

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Draw held-out runs with the averaged network; a sheet of truth above what it draws, and figures."""
        config = self.config
        count, frames = config.sample_runs, config.sample_frames
        with on_processor():
            numbers = [step_generator(config.seed, index, 2) for index in range(count)]
            fixed = [self.validation_clips.draw(1, frames, random) for random in numbers]
        batch = moved(join(fixed), self.device)
        with self.averages["model"].applied(), torch.inference_mode():
            loss = float(self.loss(batch, torch_generator(config.seed, 0, 3)))
            shown = tensor_to_frames(self.vae.decode(self.show(batch, torch_generator(config.seed, 0, 4))))
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
        age = min(world.memory.max_age, max(1, self.known_age, self._longest - 1))
        world = dataclasses.replace(world, memory=dataclasses.replace(world.memory, max_age=age))
        save_checkpoint(path, self.averages["model"].state_dict(), to_json(world), {"vae": self.vae_digest})

    @torch.no_grad()
    @full_precision()
    def see(self, stills: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and depth of still latents `(L, C, h, w)`, see `relic_distill.seen_views.Viewer`."""
        assert self.reprojector is not None
        pictures = self.vae.decode(stills.to(self.device).unsqueeze(2))[:, :, 0].clamp(-1, 1)
        return pictures.cpu(), self.reprojector.see_depth(pictures).cpu()

    @torch.no_grad()
    @full_precision()
    def shown(self, latents: Tensor) -> Tensor:
        """The picture at the end of each latent frame of videos: `(B, C, T, h, w)` -> `(B, T, 3, H, W)`."""
        pixel = self.config.world.model.frames_per_latent
        return self.vae.decode(latents)[:, :, ::pixel].clamp(-1, 1).transpose(1, 2)

    def causal_guide(self, batch: ClipBatch, generator: torch.Generator) -> Tensor | None:
        """Guides `(B, G, T - 1, h, w)` from each block's own past, as in play; None for a world without."""
        return None if self._guide is None or batch.views is None else self._guide(batch.views, batch.camera, generator)

    def start_guide(self, batch: ClipBatch, generator: torch.Generator) -> Tensor | None:
        """Guides `(B, G, T - 1, h, w)` from the start picture alone: what is known before a video is drawn."""
        if self._guide is None or batch.views is None:
            return None
        return self._guide.from_start(batch.views, batch.camera, generator)

    def screen(self, streams: int) -> Screen:
        """A fresh screen for rollouts."""
        return Screen(self.vae, world_intrinsics(self.config.world), self.reprojector, batch=streams)


def optimizers_of(model: RelicTransformer, config: WorldTrainConfig) -> dict[str, Optimizer]:
    """Muon for the matrices of the transformer blocks, AdamW for everything else."""
    matrices, others = split_parameters(model)
    narrow = torch.bfloat16 if config.loop.runtime.mixed_precision == "bf16" else None
    return {
        "muon": Muon(matrices, lr=config.lr_muon, weight_decay=config.weight_decay, products=narrow),
        "adamw": torch.optim.AdamW(others, lr=config.lr_adamw, betas=(0.9, 0.98), weight_decay=0.0),
    }


def split_parameters(model: RelicTransformer) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices of the transformer blocks, and everything else."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    return matrices, [parameter for parameter in model.parameters() if id(parameter) not in chosen]


def new_network(config: WorldTrainConfig, init: Path | None) -> RelicTransformer:
    """The world's network, fresh from the configuration's seed or from exported weights."""
    torch.manual_seed(config.seed)
    model = RelicTransformer(config.world.model, world_intrinsics(config.world))
    if init is not None:
        model.load_weights(load_checkpoint(init)[0], init)
    return model
