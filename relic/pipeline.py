"""Headless walks with diffusers' conventions: pictures, prompts and actions in, videos out.

Axes: B batch, C latent channels, F latent frames, T pixel frames, h, w latent cells, H rows, W columns.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from relic.action_files import load_actions
from relic.actions import (
    DEFAULT_SPEEDS,
    Float64Array,
    Speeds,
    actions_from_motions,
    motions_from_actions,
    prepend_static,
    static_actions,
    validate_actions,
)
from relic.camera import CameraPath, integrate
from relic.config import RelicConfig
from relic.memory.backends import make_memory
from relic.model.conditioning import CameraConditioning, camera_conditioning, stack_conditioning
from relic.model.transformer import TIME_SCALE, RelicTransformer
from relic.pictures import fit_picture, frames_to_tensor, tensor_to_frames
from relic.reprojection.depth import DepthNet
from relic.rollout import rollout
from relic.text import TextEncoder
from relic.vae.config import TEMPORAL_FACTOR
from relic.vae.protocol import VideoVae
from relic.wan_world import load_wan_world
from relic.weights import MANIFEST
from relic.world import World

Picture = Image.Image | NDArray[np.uint8]
Actions = str | Path | NDArray[np.floating]
OutputType = Literal["np", "pil", "pt", "latent"]
StepCallback = Callable[["RelicPipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]


@dataclass
class RelicPipelineOutput(BaseOutput):  # type: ignore[misc]
    """What a call returns.

    Attributes:
        frames: `np`: `(B, T, H, W, 3)` float32 in [0, 1]; `pt`: `(B, T, 3, H, W)` in [0, 1]; `pil`: B lists of T
            pictures; `latent`: `(B, C, F, h, w)`. The start picture comes first.
        poses: the camera of each pixel frame, in the world of the start picture.
    """

    frames: NDArray[np.float32] | Tensor | list[list[Image.Image]]
    poses: CameraPath


class RelicPipeline(DiffusionPipeline):  # type: ignore[misc]
    """A world as a diffusers pipeline; every call is one run of `relic.rollout.rollout`.

    Calling it freezes the networks (evaluation mode, no gradients), as playing does.

    Args:
        transformer: the network.
        vae: pixels to latents and back.
        text_encoder: prompts to tokens.
        world_config: the sizes, memory and sampler of the world.
        depth: the depth network of a world with reprojection.
    """

    _optional_components = ["depth"]  # noqa: RUF012
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self,
        transformer: RelicTransformer,
        vae: VideoVae,
        text_encoder: TextEncoder,
        world_config: RelicConfig,
        depth: DepthNet | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, vae=vae, text_encoder=text_encoder, world_config=world_config, depth=depth
        )
        self._interrupt = False
        self._num_timesteps = 0

    @classmethod
    def from_world(cls, world: World) -> Self:
        """The pipeline of a loaded world; networks are shared."""
        return cls(world.model, world.vae, world.text_encoder, world.config, world.depth)

    @classmethod
    def from_pretrained(cls, path: Path | str, **options: Any) -> Self:
        """Load from the disk; nothing is downloaded.

        Args:
            path: a weights folder, or a Wan 2.1 checkpoint in diffusers' layout.
            options: of `World.load` or `relic.wan_world.load_wan_world`.

        Raises:
            FileNotFoundError: when something is missing.
            ValueError: when something is damaged or does not fit.
        """
        folder = Path(path)
        load = World.load if (folder / MANIFEST).is_file() else load_wan_world
        return cls.from_world(load(folder, **options))

    def save_pretrained(self, path: Path | str) -> None:
        """Write a weights folder that `from_pretrained` reads.

        Raises:
            ValueError: for a world whose auto-encoder is Wan's: save its control encoders instead.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.world.save(folder)

    @property
    def world(self) -> World:
        """The components as a world."""
        return World(self.world_config, self.transformer, self.vae, self.text_encoder, self.depth)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.transformer.proj_out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return self.transformer.proj_out.weight.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move all networks but the text encoder, and convert the transformer; returns the pipeline itself."""
        for module in (self.transformer, self.vae, self.depth):
            if device is not None and isinstance(module, nn.Module):
                module.to(device)
        if dtype is not None:
            self.transformer.to(dtype)
        return self

    @property
    def interrupt(self) -> bool:
        """Whether the running call stops after the current block; a callback may set `_interrupt`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Denoising passes of the latest call, over all blocks."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | Sequence[Picture],
        prompt: str | Sequence[str] = "",
        actions: Actions | None = None,
        *,
        num_frames: int | None = None,
        seconds: float | None = None,
        speeds: Speeds = DEFAULT_SPEEDS,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        output_type: OutputType = "np",
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> RelicPipelineOutput | tuple[Any, ...]:
        """Walk from a picture.

        Args:
            image: start picture or pictures, of any size; the centre is cropped to the world's aspect.
            prompt: what the place is: one line, or one for each picture.
            actions: an action script or file (see `relic.action_files.load_actions`), or `(M, 13)` motions; all
                videos of a batch make them. None stands still.
            num_frames: pixel frames T of the video, the start picture included; a shorter script stands still at its
                end. By default one more than there are motions.
            seconds: the same as a length; give one of the two.
            speeds: of a script's keys.
            num_inference_steps: denoising passes a block; by default the world's.
            generator: of all noise; by default freshly seeded.
            output_type: form of the frames, see `RelicPipelineOutput`.
            callback_on_step_end: called as `callback(pipeline, index, timestep, values)` after every denoising pass;
                what it returns as `latents` is gone on with.
            callback_on_step_end_tensor_inputs: what `values` holds: `latents` `(B, C, F, h, w)` of the block, or
                nothing.
            return_dict: return a `RelicPipelineOutput` instead of a tuple.

        Raises:
            ValueError: for a bad picture, script, length or setting, or pictures and prompts that are not in pairs.
        """
        watch = _Watch(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        if output_type not in typing.get_args(OutputType):
            raise ValueError(f"output_type {output_type!r} is not one of {typing.get_args(OutputType)}")
        pictures, prompts = _pairs(image, prompt)
        motions = _motions(actions, num_frames, seconds, speeds, self.world_config.fps)
        latents, poses = self._walk(pictures, prompts, motions, num_inference_steps, generator, watch, output_type)
        frames = _as_output(watch.pixels, latents, len(poses), output_type)
        return RelicPipelineOutput(frames=frames, poses=poses) if return_dict else (frames, poses)

    def _walk(
        self,
        pictures: Sequence[Picture],
        prompts: Sequence[str],
        motions: Float64Array,
        steps: int | None,
        generator: torch.Generator | None,
        watch: _Watch,
        output_type: OutputType,
    ) -> tuple[Tensor, CameraPath]:
        """Latents `(B, C, F, h, w)` of all that was drawn, and the poses of the pixel frames that are wanted of it."""
        world = self.world.with_steps(steps)
        config, count = world.config, len(pictures)
        camera, poses = _control(config, motions)
        fitted = np.stack([fit_picture(picture, config.height, config.width)[None] for picture in pictures])
        latents = [world.vae.encode(frames_to_tensor(fitted).to(self.device)).to(self.device)]
        text = world.model.encode_text(world.text_encoder.encode(list(prompts)).to(self.device))
        screen = world.screen(count) if output_type != "latent" or world.reprojector is not None else None
        blocks = (camera.num_frames - 1) // config.sampler.block_frames
        self._num_timesteps, self._interrupt = blocks * config.sampler.steps, False
        source = torch.Generator().manual_seed(torch.seed()) if generator is None else generator
        with self.progress_bar(total=self._num_timesteps) as watch.bar:
            for block in rollout(
                world.model,
                make_memory(config.memory, config.model),
                latents[0],
                stack_conditioning([camera] * count).to(self.device),
                text,
                config.sampler,
                source,
                screen,
                spectator=watch,
            ):
                latents.append(block.latents)
                if self._interrupt:
                    break
        made = torch.cat(latents, dim=2)
        drawn = 1 + (made.shape[2] - 1) * config.model.frames_per_latent
        return made, poses[: min(1 + len(motions), drawn)]


class _Watch:
    """The rollout's spectator: moves the progress bar, asks the callback, and keeps the pictures."""

    def __init__(self, pipeline: RelicPipeline, callback: StepCallback | None, inputs: Sequence[str]) -> None:
        unknown = set(inputs) - set(pipeline._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs {sorted(unknown)} must be of {pipeline._callback_tensor_inputs}"
            )
        self.bar: Any = None
        self.pixels: list[Tensor] = []
        self._pipeline, self._callback, self._inputs = pipeline, callback, inputs
        self._passes = 0

    def passed(self, step: int, sigma: Tensor, latents: Tensor) -> Tensor:
        """See `relic.rollout.Spectator.passed`."""
        index, self._passes = self._passes, self._passes + 1
        if self._callback is not None:
            values = {"latents": latents} if "latents" in self._inputs else {}
            answer = self._callback(self._pipeline, index, sigma * TIME_SCALE, values) or {}
            latents = answer.get("latents", latents)
        self.bar.update()
        return latents

    def shown(self, pixels: Tensor) -> None:
        """See `relic.rollout.Spectator.shown`."""
        self.pixels.append(pixels)


def _pairs(image: Picture | Sequence[Picture], prompt: str | Sequence[str]) -> tuple[list[Picture], list[str]]:
    pictures = [image] if isinstance(image, Image.Image | np.ndarray) else list(image)
    prompts = [prompt] * len(pictures) if isinstance(prompt, str) else list(prompt)
    if not pictures or len(prompts) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures and {len(prompts)} prompts: give one prompt, or one a picture")
    return pictures, prompts


def _motions(
    actions: Actions | None, num_frames: int | None, seconds: float | None, speeds: Speeds, fps: int
) -> Float64Array:
    """The motions after the first picture, `(M, 13)`, M >= 0, filled up with standing still."""
    if num_frames is not None and seconds is not None:
        raise ValueError(f"num_frames {num_frames} and seconds {seconds:g} are two lengths: give one")
    if actions is None:
        rows = static_actions(0)
    else:
        played = load_actions(actions, speeds, fps) if isinstance(actions, str | Path) else validate_actions(actions)
        rows = actions_from_motions(*motions_from_actions(played))
    wanted = len(rows) + 1 if num_frames is None else num_frames
    if seconds is not None:
        wanted = 1 + round(seconds * fps) if math.isfinite(seconds) else 0
    elif actions is None and num_frames is None:
        raise ValueError("neither actions nor a length: give actions, num_frames or seconds")
    if wanted < 1 + len(rows):
        raise ValueError(f"a video of {wanted} frames is shorter than {len(rows)} motions: leave its length out")
    return np.concatenate([rows, static_actions(wanted - 1 - len(rows))])


def _control(config: RelicConfig, motions: Float64Array) -> tuple[CameraConditioning, CameraPath]:
    """Control of whole blocks, the last filled up with standing still; B = 1."""
    block = config.sampler.block_frames * config.model.frames_per_latent
    actions = prepend_static(np.concatenate([motions, static_actions(-len(motions) % block)]))
    path = integrate(actions)
    return camera_conditioning(actions, path, config.model.frames_per_latent), path


def _as_output(
    pixels: Sequence[Tensor], latents: Tensor, length: int, output_type: OutputType
) -> NDArray[np.float32] | Tensor | list[list[Image.Image]]:
    """The first `length` pixel frames in the wanted form."""
    if output_type == "latent":
        return latents[:, :, : 1 - (1 - length) // TEMPORAL_FACTOR]
    film = torch.cat(list(pixels), dim=2)[:, :, :length]
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in frames] for frames in tensor_to_frames(film)]
    unit = film.float().add(1).div(2).clamp(0, 1).transpose(1, 2)
    return unit if output_type == "pt" else unit.permute(0, 1, 3, 4, 2).cpu().numpy()
