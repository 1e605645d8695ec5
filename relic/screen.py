"""The way from latents to pixels and back to the network: streams are decoded, and what they showed guides new blocks.

Axes: B streams, C latent channels, F latent frames, P pixel frames of a latent, T pixel frames, H rows, W columns,
G guide channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relic.intrinsics import Intrinsics
from relic.model.conditioning import CameraConditioning
from relic.precision import full_precision
from relic.reprojection.guide import Reprojector
from relic.reprojection.view_memory import View, ViewFinder, ViewMemory
from relic.reprojection.warp import Views
from relic.vae.protocol import DecoderState, VideoDecoder


@dataclass(frozen=True, kw_only=True)
class ScreenState:
    """A moment of a screen; immutable."""

    decoder: DecoderState
    memories: tuple[ViewMemory, ...]
    shown: int


class Screen:
    """Decodes streams of latents, and keeps the views that guide what comes next.

    Args:
        vae: decodes.
        intrinsics: of the world.
        reprojector: makes guides; None for a world whose network takes none.
        batch: streams side by side.
        window: latent frames after which a view is forgotten; None to remember.
    """

    def __init__(
        self,
        vae: VideoDecoder,
        intrinsics: Intrinsics,
        reprojector: Reprojector | None,
        *,
        batch: int = 1,
        window: int | None = None,
    ) -> None:
        self._vae, self._reprojector, self._window = vae, reprojector, window
        self._finder: ViewFinder | None = None
        memories: tuple[ViewMemory, ...] = ()
        if reprojector is not None:
            self._finder = finder = ViewFinder(intrinsics)
            memories = tuple(ViewMemory(reprojector.config, finder) for _ in range(batch))
        self.state = ScreenState(decoder=vae.decoder_state(batch), memories=memories, shown=0)

    @full_precision()
    def guide(self, camera: CameraConditioning) -> Tensor | None:
        """What was shown so far, seen along the next block's path.

        Args:
            camera: control of the block's F latent frames.

        Returns:
            `(B, G, F, h, w)`, see `Reprojector.guide`; None without a reprojector or before the first picture.
        """
        if self._reprojector is None or not self.state.shown:
            return None
        count = self._reprojector.config.remembered_views
        chosen: list[list[View]] = []
        for index, memory in enumerate(self.state.memories):
            assert memory.latest is not None
            last = camera.rotations_w2c[index, -1, -1], camera.positions[index, -1, -1]
            chosen.append([memory.latest, *memory.find(*last, count)])
        most = max(len(found) for found in chosen)
        chosen = [found + found[:1] * (most - len(found)) for found in chosen]
        return self._reprojector.guide(_stack(chosen), camera.rotations_w2c, camera.positions)

    @full_precision()
    def show(self, latents: Tensor, camera: CameraConditioning) -> Tensor:
        """Decode the next latents of every stream and remember their last picture.

        Args:
            latents: `(B, C, F, h, w)`.
            camera: control of those F latent frames.

        Returns:
            `(B, 3, T, H, W)`, about [-1, 1].
        """
        pixels, decoder = self._vae.decode_step(latents, self.state.decoder)
        shown = self.state.shown + latents.shape[2]
        memories = self.state.memories
        finder = self._finder
        if self._reprojector is not None and finder is not None:
            pictures = pixels[:, :, -1].clamp(-1, 1)
            depth = self._reprojector.see_depth(pictures)
            oldest = 0 if self._window is None else shown - self._window
            memories = tuple(
                memory.seeing(
                    finder.view(
                        pictures[index],
                        depth[index],
                        camera.rotations_w2c[index, -1, -1],
                        camera.positions[index, -1, -1],
                        shown - 1,
                    ),
                    oldest,
                )
                for index, memory in enumerate(memories)
            )
        self.state = ScreenState(decoder=decoder, memories=memories, shown=shown)
        return pixels

    @property
    def nbytes(self) -> int:
        """Bytes of all remembered views."""
        return sum(memory.nbytes for memory in self.state.memories)


def _stack(chosen: list[list[View]]) -> Views:
    def stack(name: str) -> Tensor:
        every = torch.stack([getattr(view, name) for row in chosen for view in row])
        return every.unflatten(0, (len(chosen), -1))

    return Views(
        pictures=stack("picture"),
        depth=stack("depth"),
        rotations_w2c=stack("rotation_w2c"),
        positions=stack("position"),
    )
