"""One live session in a world: start from a picture, step with actions, look back with snapshots.

Out of scope: display, input devices, pacing, video files. Calls come from one thread; where the auto-encoder has a
device of its own, blocks are decoded in a second one (`begin_step`).

Axes: T pixel frames of a block, H rows, W columns.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

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
from relic.memory.entries import MemorySnapshot
from relic.model.conditioning import CameraConditioning, camera_conditioning
from relic.pictures import fit_picture, frames_to_tensor, tensor_to_frames
from relic.rollout import BlockDraw
from relic.screen import Screen, ScreenState
from relic.stream import Stream
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
        memory_bytes: bytes of stored keys and values, in this process.
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
        self._stream: Stream = world.stream()
        self._screen: Screen | None = None
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="relic-decode") if world.decodes_ahead else None
        self._decoding: Future[Frames] | None = None
        self._pose = CameraPose.identity()
        self._blocks = 0
        self._seed = 0
        self._prompt = ""

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
        latent = self.world.vae.encode(frames_to_tensor(picture[None])[None].to(self.world.vae_device)).to(device)
        still, home = static_actions(1), CameraPath.identity()
        camera = camera_conditioning(still, home, config.model.frames_per_latent)
        stream = self.world.stream()
        stream.start(latent, camera.to(device), text)
        screen = self.world.screen()
        frames = self._decoded(screen, latent, camera)
        self._stream, self._screen, self._prompt = stream, screen, prompt
        self._pose, self._blocks, self._seed = CameraPose.identity(), 0, seed
        return frames

    def step(self, actions: NDArray[np.floating]) -> StepResult:
        """Generate the next block.

        Args:
            actions: `(frames_per_block, 13)`, or `(13,)` held for the whole block.

        Raises:
            RuntimeError: before `start`.
            ValueError: for actions of another shape, NaN or negative magnitudes.
        """
        return self.begin_step(actions).result()

    @torch.inference_mode()
    def begin_step(self, actions: NDArray[np.floating]) -> Future[StepResult]:
        """Draw the next block; where `World.decodes_ahead`, return before it is decoded.

        So the next block may be begun while this one is decoded: two stages on two devices. A third waits for the
        first. Arguments and errors are those of `step`.

        Returns:
            The block, once its pictures are there.
        """
        if self._screen is None:
            raise RuntimeError("the session has no picture yet: call start() before step()")
        began, index, screen = time.perf_counter(), self._blocks, self._screen
        rows = self._block_actions(actions)
        path = continue_path(self._pose, rows)
        camera = camera_conditioning(rows, path, self.world.config.model.frames_per_latent)
        decoding: list[Future[Frames]] = []
        self._stream.draw(
            self._block_draw(screen, camera), lambda latents: decoding.append(self._decode(screen, latents, camera))
        )
        self._pose = path[len(path) - 1]
        self._blocks += 1
        result: Future[StepResult] = Future()
        result.set_running_or_notify_cancel()

        def finish(decoded: Future[Frames]) -> None:
            failure = decoded.exception()
            if failure is not None:
                result.set_exception(failure)
                return
            seconds = time.perf_counter() - began
            result.set_result(StepResult(frames=decoded.result(), poses=path, block_index=index, seconds=seconds))

        decoding[0].add_done_callback(finish)
        return result

    def _block_draw(self, screen: Screen, camera: CameraConditioning) -> BlockDraw:
        config, device = self.world.config, self.world.device
        generator = torch.Generator().manual_seed(_block_seed(self._seed, self._blocks, 0))
        size = (1, config.model.in_channels, config.sampler.block_frames)
        noise = torch.randn(*size, config.model.latent_height, config.model.latent_width, generator=generator)
        guide = screen.guide(camera.to(self.world.vae_device))
        return BlockDraw(
            camera=camera.to(device),
            guide=None if guide is None else guide.to(device),
            noise=noise.to(device),
            seed=_block_seed(self._seed, self._blocks, 1),
        )

    def _decode(self, screen: Screen, latents: Tensor, camera: CameraConditioning) -> Future[Frames]:
        """Pictures of a block, in the second thread if there is one; never more than one block waits there."""
        job = partial(self._decoded, screen, latents, camera)
        if self._decoder is None:
            done: Future[Frames] = Future()
            done.set_result(job())
            return done
        self._settle()
        self._decoding = self._decoder.submit(job)
        return self._decoding

    @torch.inference_mode()
    def _decoded(self, screen: Screen, latents: Tensor, camera: CameraConditioning) -> Frames:
        device = self.world.vae_device
        return tensor_to_frames(screen.show(latents.to(device), camera.to(device)))[0]

    def _settle(self) -> None:
        """Wait for the block that is being decoded.

        Raises:
            Exception: what its decoding raised.
        """
        decoding, self._decoding = self._decoding, None
        if decoding is not None:
            decoding.result()

    @torch.inference_mode()
    def set_prompt(self, prompt: str) -> None:
        """Change the prompt from the next block on."""
        if self._screen is not None:
            self._stream.set_text(self._encode_prompt(prompt))
        self._prompt = prompt

    def snapshot(self) -> Snapshot:
        """The session now, to come back to with `restore`.

        Raises:
            RuntimeError: before `start`.
        """
        if self._screen is None:
            raise RuntimeError("the session has no picture yet: call start() before snapshot()")
        self._settle()
        return Snapshot(
            memory=self._stream.snapshot(),
            screen=self._screen.state,
            pose=self._pose,
            blocks=self._blocks,
            seed=self._seed,
            prompt=self._prompt,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back; the same actions from here give the same frames as before."""
        self._settle()
        self._stream.restore(snapshot.memory)
        self._screen = self.world.screen()
        self._screen.state = snapshot.screen
        self._pose = snapshot.pose
        self._blocks, self._seed = snapshot.blocks, snapshot.seed
        self.set_prompt(snapshot.prompt)

    def stats(self) -> EngineStats:
        """Size of the session's memory."""
        config = self.world.config
        memory = self._stream.memory
        return EngineStats(
            memory_tokens=memory.num_tokens,
            memory_bytes=memory.nbytes,
            view_bytes=0 if self._screen is None else self._screen.nbytes,
            blocks=self._blocks,
            seconds_of_history=len(memory.entries) * config.model.frames_per_latent / config.fps,
        )

    def _encode_prompt(self, prompt: str) -> Tensor:
        return self.world.text_encoder.encode([prompt]).to(self.world.device)

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
