"""Pictures and depth of encoded clips, made once and kept on the disk beside the latents.

They take longer to make than the step that needs them, and every run over the same clips needs the same. A file is
named by what it was made from, so that none is ever out of date.

Axes: L latent frames, C latent channels, h w latent cells, H rows, W columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from relic.checkpoint import digest_of, load_checkpoint, save_checkpoint
from relic.failures import DamagedFileError

_NAME_LENGTH = 32
_LOG = logging.getLogger(__name__)

Viewer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Still latents `(L, C, h, w)` -> their pictures `(L, 3, H, W)` in [-1, 1] and z-depth `(L, H, W)` in metres."""


class SeenViews:
    """Shows still latents through a viewer, or as they were shown before.

    Args:
        folder: of the files; made when the first is written.
        viewer: shows what is not there.
        networks: what the viewer sees through, still whole; other weights or another precision have other files.
    """

    def __init__(self, folder: Path, viewer: Viewer, networks: Iterable[nn.Module]) -> None:
        tensors = {
            f"{number}.{name}.{tensor.dtype}": tensor
            for number, network in enumerate(networks)
            for name, tensor in network.state_dict().items()
        }
        self._folder, self._viewer = folder / digest_of(tensors)[:_NAME_LENGTH], viewer

    def __call__(self, stills: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures uint8 `(L, 3, H, W)` and depth float16 `(L, H, W)` of still latents `(L, C, h, w)`.

        A damaged file is made anew; where none can be written, what was made is given all the same.
        """
        file = self._folder / f"{digest_of({'stills': stills})[:_NAME_LENGTH]}.safetensors"
        try:
            kept, _ = load_checkpoint(file)
            return kept["pictures"], kept["depth"]
        except (FileNotFoundError, DamagedFileError, KeyError):
            pass
        pictures, depth = self._viewer(stills.float())
        made = {"pictures": ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8), "depth": depth.half()}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(file, made, {})
        except OSError as error:
            _LOG.warning("views are made anew in every run: %s cannot be written (%s)", file, error)
        return made["pictures"], made["depth"]
