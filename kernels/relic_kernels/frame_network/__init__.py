"""A transformer for the tokens of one frame, from noisy latents to velocity, on a processor, in one call.

`reference.py` says what is computed; the C++ does it without a copy, with activations in float32 between products.

Axes: B cases, C latent channels, h w latent cells, p side of a patch, P = C p p, L tokens = patches, M model width,
H heads, D head width, N hidden width, S text tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.frame_network.tensors import BlockInputs, BlockWeights, EndWeights, FrameInputs, Gelu, Level, Step
from relic_kernels.native import (
    PlacedWeights,
    check,
    check_bytes,
    check_cases,
    function,
    matrix_in_bytes,
    place_of,
)

__all__ = [
    "MAX_HEAD",
    "MAX_TOKENS",
    "BlockInputs",
    "BlockWeights",
    "EndWeights",
    "FrameInputs",
    "FrameNetwork",
    "Gelu",
    "Level",
    "PreparedInputs",
    "Step",
]

MAX_TOKENS = 64
"""Tokens of a frame at most: the lanes of the C++."""
MAX_HEAD = 256

_ENDS = tuple(one.name for one in fields(EndWeights))
_WEIGHTS = tuple(one.name for one in fields(BlockWeights))
_INPUTS = tuple(one.name for one in fields(BlockInputs))
_WIDE = ("text_norm", "text_norm_bias", "modulation")
_MATRICES = ("q", "k", "v", "out", "text_q", "text_out", "widen", "narrow")
_SIZES = (
    *("tokens", "columns", "channels", "side", "dim", "heads", "hidden"),
    *("text_tokens", "pose_rows", "exact_gelu", "in_bytes"),
)
_FACTORS = ("sigma", "keep", "move", "fresh")


class _Sizes(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in (*_SIZES, "threads")), ("eps", ctypes.c_float)]


class _Frame(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("rotation", "skip", "guide")]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("latents", "modulation", "ends_modulation", "noise", "next")),
        *((name, ctypes.c_float) for name in _FACTORS),
    ]


class _Inputs(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in _INPUTS), ("memory_tokens", ctypes.c_int64)]


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedInputs:
    """Inputs of all blocks that were looked at once, for any number of passes; made by `FrameNetwork.prepare`.

    Attributes:
        inputs: of each block.
        cases, tokens, text_tokens, poses: their sizes.
        places: of each case, for the C++.
    """

    inputs: tuple[BlockInputs, ...]
    cases: int
    tokens: int
    text_tokens: int
    poses: int
    places: tuple[ctypes.Array[_Inputs], ...]


class FrameNetwork:
    """One network, ready to run; the weights are read where they lie.

    Args:
        ends: weights of the first and the last layer.
        layers: weights of each block.
        heads: H; it divides M into heads of an even width of at most 256.
        side: p.
        eps: of all norms.
        gelu: `tanh`, or `none` for the exact one.
        in_bytes: whether the blocks' layers multiply 8-bit integers: weights by a scale of each output's own, copied
            for it as they are now, and inputs by one of each token's own.

    Raises:
        ValueError: for weights that do not fit, or where the C++ cannot run; it says why.
    """

    def __init__(
        self,
        ends: EndWeights,
        layers: Sequence[BlockWeights],
        heads: int,
        side: int,
        eps: float,
        gelu: Gelu,
        *,
        in_bytes: bool = False,
    ) -> None:
        first = layers[0]
        self.dtype, self._dim, self._hidden = first.q.dtype, first.q.shape[1], first.widen.shape[0]
        require(first.q.is_cpu, f"the C++ network is for a processor, and the weights lie on {first.q.device}")
        self._run = function("frame_network", self.dtype)
        width, channels = self._dim // heads, ends.embed.shape[1]
        require(
            self._dim % heads == 0 and width % 2 == 0 and width <= MAX_HEAD,
            f"{heads} heads of a width of {self._dim}: a head's must be even and at most {MAX_HEAD}",
        )
        require(channels * side**2 % 2 == 0, f"patches of {channels * side**2} numbers: they must be even")
        _check_ends(ends, self._dim, channels, side, self.dtype)
        for layer in layers:
            _check_weights(layer, self._dim, self._hidden, self.dtype)
        self._ends = PlacedWeights([getattr(ends, name) for name in _ENDS])
        self._given = self._weights = PlacedWeights([getattr(layer, name) for layer in layers for name in _WEIGHTS])
        self._in_bytes = in_bytes
        if in_bytes:
            check_bytes("network", self._dim, self._hidden)
            self._weights = PlacedWeights([_weight_in_bytes(layer, name) for layer in layers for name in _WEIGHTS])
        self._count, self._channels, self._side = len(layers), channels, side
        self._heads, self._eps, self._exact = heads, eps, gelu == "none"

    def holds(self) -> bool:
        """Whether the weights lie where they lay: those of a network that was cast or moved do not.

        What is computed then is by the weights of before; in bytes, so it is when they are written in place.
        """
        return self._ends.holds() and self._given.holds()

    def prepare(self, inputs: Sequence[BlockInputs]) -> PreparedInputs:
        """Inputs for passes.

        Args:
            inputs: of each block; some of them are written by a pass.

        Raises:
            ValueError: for tensors that do not fit.
        """
        require(len(inputs) == self._count, f"{len(inputs)} inputs for {self._count} blocks")
        cases, _, tokens = inputs[0].own_k.shape[:3]
        text_tokens, poses = inputs[0].text_k.shape[1], inputs[0].pose.shape[2]
        require(0 < tokens <= MAX_TOKENS, f"a frame of {tokens} tokens: 1 to {MAX_TOKENS} fit")
        require(text_tokens > 0, "a prompt without tokens has nothing to attend to")
        require(poses in (1, tokens), f"{poses} poses for {tokens} tokens: give one, or one for each")
        self._check_inputs(inputs, cases, tokens, text_tokens, poses)
        return PreparedInputs(
            inputs=tuple(inputs),
            cases=cases,
            tokens=tokens,
            text_tokens=text_tokens,
            poses=poses,
            places=tuple(_inputs_of(inputs, case) for case in range(cases)),
        )

    def __call__(self, frame: FrameInputs, level: Level, inputs: PreparedInputs, threads: int) -> Tensor:
        """Run a pass.

        Args:
            frame: what it reads.
            level: its noise level.
            inputs: of the blocks.
            threads: at most.

        Returns:
            `(B, C, h, w)` float32 velocity.

        Raises:
            ValueError: for tensors that do not fit.
        """
        return self.denoise(frame, [Step(level=level)], inputs, threads)

    def denoise(self, frame: FrameInputs, steps: Sequence[Step], inputs: PreparedInputs, threads: int) -> Tensor:
        """Run passes one after another, each over the latents that the one before made; see `__call__`.

        Args:
            frame: what all of them read; its latents stay as they are.
            steps: at least one.
            inputs: of the blocks.
            threads: at most.

        Returns:
            `(B, C, h, w)` float32 latents after the last pass.
        """
        require(len(steps) > 0, "no pass to run: give a step")
        made = torch.empty_like(frame.latents)
        self._pass(frame, steps, inputs, made, threads)
        return made

    def write_own(self, frame: FrameInputs, level: Level, inputs: PreparedInputs, threads: int) -> None:
        """Write what a pass writes into its inputs, and spare what only the velocity needs; see `__call__`."""
        self._pass(frame, [Step(level=level)], inputs, None, threads)

    def _pass(
        self, frame: FrameInputs, steps: Sequence[Step], inputs: PreparedInputs, made: Tensor | None, threads: int
    ) -> None:
        self._check_frame(frame, inputs)
        for step in steps:
            self._check_step(frame, step)
        columns = frame.latents.shape[-1] // self._side
        counts = (inputs.tokens, columns, self._channels, self._side, self._dim, self._heads, self._hidden)
        flags = (self._exact, self._in_bytes)
        sizes = ctypes.byref(_Sizes(*counts, inputs.text_tokens, inputs.poses, *flags, max(1, threads), self._eps))
        weights = (self._ends.table, self._weights.table, self._count)
        for case, places in enumerate(inputs.places):
            known = (None if one is None else place_of(one, case) for one in (frame.skip, frame.guide))
            given = ctypes.byref(_Frame(frame.rotation.data_ptr(), *known))
            rows = _steps_of(frame.latents, steps, made, case)
            if self._run(sizes, *weights, given, places, rows, len(steps)):
                raise MemoryError("no room for the activations of a pass")

    def _check_frame(self, frame: FrameInputs, inputs: PreparedInputs) -> None:
        cases, tokens, side, dim = inputs.cases, inputs.tokens, self._side, self._dim
        rows, columns = (cells // side for cells in frame.latents.shape[-2:])
        check("latents", frame.latents, (cases, self._channels, rows * side, columns * side), torch.float32)
        require(rows * columns == tokens, f"latents of {rows} x {columns} tokens for inputs of {tokens}")
        check("rotation", frame.rotation, (tokens, dim // self._heads // 2), torch.complex64)
        if frame.guide is not None:
            check("guide", frame.guide, (cases, tokens, dim), self.dtype)
        if frame.skip is not None:
            check("skip", frame.skip, (cases, tokens, self._channels * side**2), torch.float32)

    def _check_step(self, frame: FrameInputs, step: Step) -> None:
        level, cases = step.level, len(frame.latents)
        require(len(level.sigma) == cases, f"{len(level.sigma)} noise levels for {cases} cases")
        check("modulation", level.modulation, (cases, 6, self._dim), torch.float32)
        check("ends_modulation", level.ends_modulation, (cases, 2, self._dim), torch.float32)
        require((step.noise is None) == (step.fresh == 0), f"noise goes with a factor, and `fresh` is {step.fresh:g}")
        if step.noise is not None:
            check("noise", step.noise, tuple(frame.latents.shape), torch.float32)

    def _check_inputs(
        self, inputs: Sequence[BlockInputs], cases: int, tokens: int, text_tokens: int, poses: int
    ) -> None:
        head = (self._heads, self._dim // self._heads)
        memory = inputs[0].keys.shape[1]
        require(memory >= tokens, f"{memory} keys leave no room for the {tokens} that a pass writes")
        shapes = {
            "action": (cases, 1, 1, self._dim),
            "pose": (cases, 1, poses, self._dim),
            **dict.fromkeys(("text_k", "text_v"), (cases, text_tokens, *head)),
            **dict.fromkeys(("keys", "values"), (cases, memory, *head)),
            **dict.fromkeys(("own_k", "own_v"), (cases, 1, tokens, *head)),
        }
        for one in inputs:
            for name, shape in shapes.items():
                check_cases(name, getattr(one, name), shape, self.dtype)


def _weight_in_bytes(layer: BlockWeights, name: str) -> Tensor:
    weight: Tensor = getattr(layer, name)
    return matrix_in_bytes(weight) if name in _MATRICES else weight


def _steps_of(latents: Tensor, steps: Sequence[Step], made: Tensor | None, case: int) -> ctypes.Array[_Step]:
    """The first step reads the latents, the others what was made."""
    before, after = place_of(latents, case), None if made is None else place_of(made, case)
    rows = []
    for step in steps:
        level = step.level
        tables = (place_of(one, case) for one in (level.modulation, level.ends_modulation))
        noise = None if step.noise is None else place_of(step.noise, case)
        rows.append(_Step(before, *tables, noise, after, level.sigma[case], step.keep, step.move, step.fresh))
        before = after or before
    return (_Step * len(rows))(*rows)


def _inputs_of(inputs: Sequence[BlockInputs], case: int) -> ctypes.Array[_Inputs]:
    places = ((place_of(getattr(one, name), case) for name in _INPUTS) for one in inputs)
    memory = inputs[0].keys.shape[1]
    return (_Inputs * len(inputs))(*(_Inputs(*row, memory) for row in places))


def _check_ends(ends: EndWeights, dim: int, channels: int, side: int, dtype: torch.dtype) -> None:
    patch = channels * side**2
    shapes = {"embed": (dim, channels, 1, side, side), "embed_bias": (dim,), "out": (patch, dim), "out_bias": (patch,)}
    for name, shape in shapes.items():
        check(name, getattr(ends, name), shape, dtype)


def _check_weights(layer: BlockWeights, dim: int, hidden: int, dtype: torch.dtype) -> None:
    shapes = {"widen": (hidden, dim), "widen_bias": (hidden,), "narrow": (dim, hidden), "modulation": (1, 6, dim)}
    matrices = dict.fromkeys(("q", "k", "v", "out", "text_q", "text_out"), (dim, dim))
    require(dim % 2 == 0 and hidden % 2 == 0, f"widths {dim} and {hidden} must be even")
    for name in _WEIGHTS:
        shape = shapes.get(name, matrices.get(name, (dim,)))
        check(name, getattr(layer, name), shape, torch.float32 if name in _WIDE else dtype)
