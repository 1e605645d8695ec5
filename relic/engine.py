"""One live session in a world: start from a picture, step with actions, look back with snapshots.

Out of scope: display, input devices, pacing, video files, more than one thread.

Axes: T pixel frames of a block, H rows, W columns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from relic.actions import (
    NUM_ACTIONS,
    actions_from_motions,
    motions_from_actions,
    static_actions,
    validate_actions,
)
from relic.camera import CameraPath, CameraPose, continue_path
from relic.memory.backends import make_memory
from relic.memory.entries import MemorySnapshot
from relic.model.conditioning import camera_conditioning
from relic.model.transformer import TextKV
from relic.pictures import fit_picture, frames_to_tensor, tensor_to_frames
from relic.rollout import BlockDraw, commit_block, draw_block
from relic.screen import Screen, ScreenState
from relic.world import World

Frames = NDArray[np.uint8]
"""`(T, H, W, 3)` RGB."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """A generated block.

    Attributes:
        frames: `(T, H, W, 3)` RGB.
        poses: the T camera poses, in the world of the start picture.
        block_index: 0 for the first block after the start picture.
        seconds: wall time the block took.
    """

    frames: Frames
    poses: CameraPath
    block_index: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """What a session holds.

    Attributes:
        memory_tokens: tokens each block attends to.
        memory_bytes: bytes of stored keys and values.
        view_bytes: bytes of remembered views.
        blocks: blocks generated since the start.
        seconds_of_history: seconds of video remembered.
    """

    memory_tokens: int
    memory_bytes: int
    view_bytes: int
    blocks: int
    seconds_of_history: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A moment of a session; cheap to take, and valid for the engine that took it."""

    memory: MemorySnapshot
    screen: ScreenState
    pose: CameraPose
    blocks: int
    seed: int
    prompt: str


class WorldEngine:
    """Streams the view of one camera through a shared `World`."""

    def __init__(self, world: World) -> None:
        self.world = world
        config = world.config
        self.frames_per_block = config.sampler.block_frames * config.model.frames_per_latent
        self._memory = make_memory(config.memory, config.model)
        self._screen: Screen | None = None
        self._pose = CameraPose.identity()
        self._blocks = 0
        self._seed = 0
        self._prompt = ""
        self._text: TextKV = []

    @torch.inference_mode()
    def start(self, image: Frames | Image.Image, prompt: str = "", seed: int = 0) -> Frames:
        """Begin at a picture; whatever the session held before is forgotten.

        Args:
            image: RGB picture of any size; its centre is cropped to the world's aspect and resized.
            prompt: one line about the place.
            seed: fixes all noise: same picture, prompt, seed and actions give the same frames.

        Returns:
            The picture as the world sees it: `(1, H, W, 3)`.

        Raises:
            ValueError: for an array that is no `(h, w, 3)` uint8 picture, or a negative seed; the session is as before.
        """
        config = self.world.config
        if seed < 0:
            raise ValueError(f"seed {seed} must be at least 0")
        picture = fit_picture(image, config.height, config.width)
        text = self._encode_prompt(prompt)
        device = self.world.device
        latent = self.world.vae.encode(frames_to_tensor(picture[None])[None]).to(device)
        still, home = static_actions(1), CameraPath.identity()
        camera = camera_conditioning(still, home, config.model.frames_per_latent).to(device)
        memory = make_memory(config.memory, config.model)
        commit_block(self.world.model, memory, self.world.model.encode_control(camera), text, latent)
        screen = self.world.screen()
        pixels = screen.show(latent, camera)
        self._memory, self._screen, self._prompt, self._text = memory, screen, prompt, text
        self._pose, self._blocks, self._seed = CameraPose.identity(), 0, seed
        return tensor_to_frames(pixels)[0]

    @torch.inference_mode()
    def step(self, actions: NDArray[np.floating]) -> StepResult:
        """Generate the next block.

        Args:
            actions: `(frames_per_block, 13)`, or `(13,)` held for the whole block.

        Raises:
            RuntimeError: before `start`.
            ValueError: for actions of another shape, NaN or negative magnitudes.
        """
        if self._screen is None:
            raise RuntimeError("the session has no picture yet: call start() before step()")
        began = time.perf_counter()
        rows = self._block_actions(actions)
        config, model = self.world.config, self.world.model
        path = continue_path(self._pose, rows)
        camera = camera_conditioning(rows, path, config.model.frames_per_latent).to(self.world.device)
        generator = torch.Generator().manual_seed(_block_seed(self._seed, self._blocks, 0))
        size = (1, config.model.in_channels, config.sampler.block_frames)
        noise = torch.randn(*size, config.model.latent_height, config.model.latent_width, generator=generator)
        draw = BlockDraw(
            camera=camera,
            guide=self._screen.guide(camera),
            noise=noise.to(self.world.device),
            seed=_block_seed(self._seed, self._blocks, 1),
        )
        shown: list[Tensor] = []
        screen = self._screen
        draw_block(
            model,
            self._memory,
            draw,
            self._text,
            config.sampler,
            lambda latents: shown.append(screen.show(latents, camera)),
        )
        self._pose = path[len(path) - 1]
        self._blocks += 1
        return StepResult(
            frames=tensor_to_frames(shown[0])[0],
            poses=path,
            block_index=self._blocks - 1,
            seconds=time.perf_counter() - began,
        )

    @torch.inference_mode()
    def set_prompt(self, prompt: str) -> None:
        """Change the prompt from the next block on."""
        self._text = self._encode_prompt(prompt)
        self._prompt = prompt

    def snapshot(self) -> Snapshot:
        """The session now, to come back to with `restore`.

        Raises:
            RuntimeError: before `start`.
        """
        if self._screen is None:
            raise RuntimeError("the session has no picture yet: call start() before snapshot()")
        return Snapshot(
            memory=self._memory.snapshot(),
            screen=self._screen.state,
            pose=self._pose,
            blocks=self._blocks,
            seed=self._seed,
            prompt=self._prompt,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back; the same actions from here give the same frames as before."""
        self._memory.restore(snapshot.memory)
        self._screen = self.world.screen()
        self._screen.state = snapshot.screen
        self._pose = snapshot.pose
        self._blocks, self._seed = snapshot.blocks, snapshot.seed
        self.set_prompt(snapshot.prompt)

    def stats(self) -> EngineStats:
        """Size of the session's memory."""
        config = self.world.config
        frames = len(self._memory.entries)
        return EngineStats(
            memory_tokens=self._memory.num_tokens,
            memory_bytes=self._memory.nbytes,
            view_bytes=0 if self._screen is None else self._screen.nbytes,
            blocks=self._blocks,
            seconds_of_history=frames * config.model.frames_per_latent / config.fps,
        )

    def _encode_prompt(self, prompt: str) -> TextKV:
        return self.world.model.encode_text(self.world.text_encoder.encode([prompt]).to(self.world.device))

    def _block_actions(self, actions: NDArray[np.floating]) -> NDArray[np.float64]:
        rows = np.asarray(actions)
        if rows.ndim == 1:
            rows = np.tile(rows, (self.frames_per_block, 1))
        if rows.shape != (self.frames_per_block, NUM_ACTIONS):
            raise ValueError(
                f"actions of shape {np.shape(actions)}: give ({self.frames_per_block}, {NUM_ACTIONS}) "
                f"or ({NUM_ACTIONS},)"
            )
        return actions_from_motions(*motions_from_actions(validate_actions(rows)))


def _block_seed(seed: int, block: int, stream: int) -> int:
    """Every block has its own noise, so that a restored session draws what it drew before."""
    return int(np.random.SeedSequence([seed, block, stream]).generate_state(1, np.uint64)[0] >> 1)
