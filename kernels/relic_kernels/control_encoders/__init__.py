"""The encoders of a latent frame's control (actions, camera poses, guide), on a processor, in one call.

`reference.py` says what is computed; the C++ does it with activations in float32 between products.

Axes: B cases, N blocks, P pixel frames, A action channels, L tokens = patches, M model width, C latent channels,
G = C + 2 P guide channels, h w latent cells, p side of a patch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.native import PlacedWeights, check, function

MAX_TOKENS = 64
"""Tokens of a frame at most: the lanes of the C++."""
MAX_OCTAVES = 16

Layers = Sequence[tuple[Tensor, Tensor]]
"""Weight `(outputs, inputs)` and bias of the layer that reads, of the hidden one, then of one for each block."""


@dataclass(frozen=True, kw_only=True)
class ControlWeights:
    """Weights, of one dtype but for the float32 ones.

    Attributes:
        action_scale: `(A,)` float32 that actions are divided by.
        action: layers of P A inputs and M outputs.
        rays: `(L, 3)` float32 unit viewing rays of the tokens, camera axes.
        pose: layers of 18 (3 + 2 octaves) inputs and M outputs.
        guide: `(M, G p p)` embeds patches of the guide; None without a guide.
        skip: `(C p p, C p p)` float32, reads what the guide knows of the latents; None without a guide.
    """

    action_scale: Tensor
    action: Layers
    rays: Tensor
    pose: Layers
    guide: Tensor | None = None
    skip: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ControlInputs:
    """The control of a latent frame; all float32 and contiguous.

    Attributes:
        actions: `(B, 1, P, A)`.
        rotations_w2c: `(B, 1, P, 3, 3)`.
        positions: `(B, 1, P, 3)`, metres.
        guide: `(B, G, 1, h, w)`: latents, then shares of known pixels; None where nothing is known.
    """

    actions: Tensor
    rotations_w2c: Tensor
    positions: Tensor
    guide: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class EncodedControl:
    """What the network reads; of the weights' dtype but for `skip`.

    Attributes:
        actions: `(N, B, 1, 1, M)`.
        poses: `(N, B, 1, L, M)`.
        guide: `(B, 1, L, M)`; None without a guide.
        skip: `(B, 1, L, C p p)` float32; None without a guide.
    """

    actions: Tensor
    poses: Tensor
    guide: Tensor | None = None
    skip: Tensor | None = None


class _Sizes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("cases", "tokens", "columns", "side", "channels", "guide_channels")),
        *((name, ctypes.c_int32) for name in ("frames", "actions", "octaves", "dim", "blocks", "threads")),
        ("pose_scale", ctypes.c_float),
    ]


class _Places(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("actions", "rotations", "positions", "guide")),
        *((name, ctypes.c_void_p) for name in ("action", "pose", "guide_tokens", "skip")),
    ]


class ControlEncoders:
    """The encoders of one network, ready to run; the weights are read where they lie.

    Args:
        weights: of all.
        octaves: highest power of two, at most 16, of the Fourier features of the rays.
        pose_scale: metres that make one unit of position.
        columns: tokens beside each other.
        side: p.

    Attributes:
        dtype: of the weights.

    Raises:
        ValueError: for weights that do not fit, or where the C++ cannot run; it says why.
    """

    def __init__(self, weights: ControlWeights, octaves: int, pose_scale: float, columns: int, side: int) -> None:
        first, _ = weights.action[0]
        self.dtype, (self._dim, inputs) = first.dtype, first.shape
        self._run = function("control_encoders", self.dtype)
        self._actions, self._tokens = len(weights.action_scale), len(weights.rays)
        self._blocks = len(weights.action) - 2
        self._frames, self._columns, self._side = inputs // self._actions, columns, side
        self._octaves, self._pose_scale = octaves, pose_scale
        require(0 <= octaves <= MAX_OCTAVES, f"{octaves} octaves: 0 to {MAX_OCTAVES} fit")
        require(
            0 < self._tokens <= MAX_TOKENS and self._tokens % columns == 0,
            f"{self._tokens} tokens in rows of {columns}: at most {MAX_TOKENS} in whole rows fit",
        )
        require(self._dim % 2 == 0 == inputs % 2, f"{inputs} actions and a width of {self._dim}: both must be even")
        check("action_scale", weights.action_scale, (self._actions,), torch.float32)
        check("rays", weights.rays, (self._tokens, 3), torch.float32)
        self._check_layers("action", weights.action, self._frames * self._actions)
        self._check_layers("pose", weights.pose, 18 * (3 + 2 * octaves))
        self._channels = self._check_guide(weights.guide, weights.skip)
        layers = [tensor for layer in (*weights.action, *weights.pose) for tensor in layer]
        if weights.guide is not None and weights.skip is not None:
            layers += [weights.guide, torch.zeros(self._dim, dtype=self.dtype)]
            layers += [weights.skip, torch.zeros(len(weights.skip))]
        self._constants = PlacedWeights([weights.action_scale, weights.rays])
        self._layers = PlacedWeights(layers)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """See `relic_kernels.native.PlacedWeights`."""
        return type(None), ()

    def holds(self) -> bool:
        """Whether the weights lie where they lay: those of a network that was cast or moved do not.

        What is computed then is by the weights of before.
        """
        return self._layers.holds() and self._constants.holds()

    def __call__(self, inputs: ControlInputs, threads: int) -> EncodedControl:
        """Encode the control of a latent frame.

        Args:
            inputs: actions, poses and guide.
            threads: at most.

        Raises:
            ValueError: for inputs that do not fit.
        """
        cases, side = len(inputs.actions), self._side
        rows, guide, skip = self._tokens // self._columns, None, None
        check("actions", inputs.actions, (cases, 1, self._frames, self._actions), torch.float32)
        check("rotations_w2c", inputs.rotations_w2c, (cases, 1, self._frames, 3, 3), torch.float32)
        check("positions", inputs.positions, (cases, 1, self._frames, 3), torch.float32)
        if inputs.guide is not None:
            require(self._channels > 0, "a guide for encoders that have no weights for it")
            shape = (cases, self._guide_channels, 1, rows * side, self._columns * side)
            check("guide", inputs.guide, shape, torch.float32)
            guide = torch.empty(cases, 1, self._tokens, self._dim, dtype=self.dtype)
            skip = torch.empty(cases, 1, self._tokens, self._channels * side**2)
        actions = torch.empty(self._blocks, cases, 1, 1, self._dim, dtype=self.dtype)
        poses = torch.empty(self._blocks, cases, 1, self._tokens, self._dim, dtype=self.dtype)
        given = (inputs.actions, inputs.rotations_w2c, inputs.positions, inputs.guide)
        places = _Places(*(None if x is None else x.data_ptr() for x in (*given, actions, poses, guide, skip)))
        picture = (self._columns, side, self._channels, self._guide_channels)
        counts = (self._frames, self._actions, self._octaves, self._dim, self._blocks, max(1, threads))
        sizes = _Sizes(cases, self._tokens, *picture, *counts, self._pose_scale)
        if self._run(ctypes.byref(sizes), self._constants.table, self._layers.table, ctypes.byref(places)):
            raise MemoryError("no room for the activations of the encoders")
        return EncodedControl(actions=actions, poses=poses, guide=guide, skip=skip)

    @property
    def _guide_channels(self) -> int:
        return self._channels and self._channels + 2 * self._frames

    def _check_layers(self, name: str, layers: Layers, inputs: int) -> None:
        require(len(layers) == self._blocks + 2 > 2, f"{len(layers)} layers of {name}: two, and one for each block")
        for place, (weight, bias) in enumerate(layers):
            check(f"weight {place} of {name}", weight, (self._dim, self._dim if place else inputs), self.dtype)
            check(f"bias {place} of {name}", bias, (self._dim,), self.dtype)

    def _check_guide(self, guide: Tensor | None, skip: Tensor | None) -> int:
        """C of the guide's weights; 0 without."""
        require((guide is None) == (skip is None), "guide and skip go together: give both, or neither")
        if guide is None or skip is None:
            return 0
        cells, area = len(skip), self._side**2
        channels = cells // area
        patch = (channels + 2 * self._frames) * area
        require(
            cells > 0 == cells % area and cells % 2 == 0 == patch % 2,
            f"patches of {cells} cells and {patch} numbers of a guide: both must be even, and of sides of {self._side}",
        )
        check("guide", guide, (self._dim, patch), self.dtype)
        check("skip", skip, (cells, cells), torch.float32)
        return channels
