"""Residual convolution blocks and pointwise layers of the small picture networks, on a processor.

A block is LayerNorm over channels, a depth-wise convolution, a layer that widens, SiLU and a layer that narrows.
`reference.py` says what is computed. Activations are float32, whatever the weights are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.native import PlacedWeights, check, check_bytes, function, matrix_in_bytes, may_run

EPS = 1e-5
"""Of the LayerNorm, torch's own."""
MAX_RADIUS = 5


@dataclass(frozen=True)
class ResidualWeights:
    """Weights of one block, of one dtype; C channels, N hidden ones, K the kernel's side.

    Attributes:
        norm, norm_bias: `(C,)`.
        depthwise: `(C, 1, K, K)`, K odd.
        depthwise_bias: `(C,)`.
        widen: `(N, C)`.
        widen_bias: `(N,)`.
        narrow: `(C, N)`.
        narrow_bias: `(C,)`.
    """

    norm: Tensor
    norm_bias: Tensor
    depthwise: Tensor
    depthwise_bias: Tensor
    widen: Tensor
    widen_bias: Tensor
    narrow: Tensor
    narrow_bias: Tensor


_WEIGHTS = tuple(one.name for one in fields(ResidualWeights))
_SIZES = ("frames", "streams", "channels", "hidden", "height", "width", "radius", "shifted", "in_bytes", "threads")


class _Sizes(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in _SIZES), ("eps", ctypes.c_float)]


class _Frames(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("frames", "out", "past", "kept")]


def runs_natively(x: Tensor, weight: Tensor) -> bool:
    """Whether the C++ may take a network's activations and a layer's weight, see `relic_kernels.native.may_run`."""
    return not any(side % 2 for side in weight.shape) and may_run(weight.dtype, x, weight)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor, fold: int = 1, unfold: int = 1) -> Tensor:
    """A 1x1 convolution between `pixel_unshuffle` and `pixel_shuffle`.

    Args:
        x: `(N, I / fold^2, h fold, w fold)` of any precision.
        weight: `(O, I)`, both even.
        bias: `(O,)`.
        fold: side of the cells whose positions become channels before.
        unfold: side of the cells that channels become after.

    Returns:
        `(N, O / unfold^2, h unfold, w unfold)` float32.

    Raises:
        ValueError: for tensors that do not fit, or where the C++ cannot run; it says why.
    """
    outputs, inputs = weight.shape
    require(inputs % 2 == 0 and outputs % 2 == 0, f"a layer of {inputs} by {outputs} channels: both must be even")
    fits = x.ndim == 4 and x.shape[1] * fold**2 == inputs and x.shape[2] % fold == x.shape[3] % fold == 0
    require(
        fits and outputs % unfold**2 == 0,
        f"x {tuple(x.shape)} folded by {fold} must have {inputs} channels, and {outputs} must unfold by {unfold}",
    )
    check("weight", weight, (outputs, inputs), weight.dtype)
    check("bias", bias, (outputs,), weight.dtype)
    rows = x.float().contiguous()
    height, width = x.shape[2] // fold, x.shape[3] // fold
    out = torch.empty(len(x), outputs // unfold**2, height * unfold, width * unfold)
    places = (ctypes.c_void_p(one.data_ptr()) for one in (weight, bias, rows, out))
    sizes = (len(x), inputs, outputs, height, width, fold, unfold, torch.get_num_threads())
    if function("pointwise", weight.dtype)(*places, *sizes):
        raise MemoryError("no room for the activations of a picture")
    return out


class ResidualBlocks:
    """A run of blocks of one size, ready to be computed; the weights are read where they lie.

    Args:
        blocks: weights of each, at least one.
        shifted: channels, at most C, that once normalised are those of the frame before; 0 for none.
        in_bytes: whether the layers that widen and narrow multiply 8-bit integers: weights by a scale of each output's
            own, copied for it as they are now, and inputs by one of each position's own.

    Attributes:
        in_bytes: as given.

    Raises:
        ValueError: for weights that do not fit, or where the C++ cannot run; it says why.
    """

    def __init__(self, blocks: Sequence[ResidualWeights], shifted: int = 0, *, in_bytes: bool = False) -> None:
        self._hidden, self._channels = blocks[0].widen.shape
        self._side, self._shifted = blocks[0].depthwise.shape[-1], shifted
        require(0 <= shifted <= self._channels, f"{shifted} shifted channels of {self._channels}")
        for one in blocks:
            _check_weights(one, self._channels, self._hidden, self._side)
        self._run = function("residual_blocks", blocks[0].widen.dtype)
        self._given = self._weights = PlacedWeights([getattr(one, name) for one in blocks for name in _WEIGHTS])
        self.in_bytes = in_bytes
        if in_bytes:
            check_bytes("residual blocks", self._channels, self._hidden)
            self._weights = PlacedWeights([_weight_in_bytes(one, name) for one in blocks for name in _WEIGHTS])
        self._count = len(blocks)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """See `relic_kernels.native.PlacedWeights`."""
        return type(None), ()

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are all its weights, and lie where they lay: those of a network that was cast do not."""
        return self._given.holds(tensors)

    def __call__(self, x: Tensor, past: Sequence[Tensor | None], streams: int = 1) -> tuple[Tensor, list[Tensor]]:
        """Run all blocks.

        Args:
            x: `(N, C, h, w)` frames of any precision, those of one moment for all streams together.
            past: for each block the shifted channels of the frames before, `(streams, shifted, h, w)`; None for zeros.
            streams: frames side by side; N is a multiple of it.

        Returns:
            `(N, C, h, w)` float32, and for each block the shifted channels of the last frames, float32.

        Raises:
            ValueError: for tensors that do not fit.
        """
        count = self._count
        if len(x) % streams or len(past) != count:
            raise ValueError(f"{len(x)} frames of {streams} streams and {len(past)} pasts of {count} blocks")
        require(x.ndim == 4 and x.shape[1] == self._channels, f"x {tuple(x.shape)} must be (N, {self._channels}, h, w)")
        shape = (streams, self._shifted, *x.shape[2:])
        require(all(before is None or before.shape == shape for before in past), f"a past that is not {shape}")
        begins = any(before is None for before in past)
        kept = (torch.zeros if begins else torch.empty)(count, *shape).unbind(0)
        pairs = zip(past, kept, strict=True)
        given = [after if before is None else before.float().contiguous() for before, after in pairs]
        frames = x.float().contiguous()
        out = torch.empty(x.shape)
        counts = (len(x), streams, self._channels, self._hidden, *x.shape[2:], self._side // 2, self._shifted)
        sizes = _Sizes(*counts, self.in_bytes, torch.get_num_threads(), EPS)
        pasts, afters = (_table(tensors) for tensors in (given, kept))
        places = _Frames(frames.data_ptr(), out.data_ptr(), ctypes.addressof(pasts), ctypes.addressof(afters))
        if self._run(ctypes.byref(sizes), self._weights.table, count, ctypes.byref(places)):
            raise MemoryError("no room for the activations of a picture")
        return out, list(kept)


def _table(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(one.data_ptr() for one in tensors))


def _weight_in_bytes(block: ResidualWeights, name: str) -> Tensor:
    weight: Tensor = getattr(block, name)
    return matrix_in_bytes(weight) if name in ("widen", "narrow") else weight


def _check_weights(one: ResidualWeights, channels: int, hidden: int, side: int) -> None:
    require(channels % 2 == 0 and hidden % 2 == 0, f"{channels} channels and {hidden} hidden ones: both must be even")
    require(side % 2 == 1 and side // 2 <= MAX_RADIUS, f"a kernel of {side}x{side}: 1, 3, ... {2 * MAX_RADIUS + 1}")
    shapes = {
        "depthwise": (channels, 1, side, side),
        "widen": (hidden, channels),
        "widen_bias": (hidden,),
        "narrow": (channels, hidden),
    }
    for name in _WEIGHTS:
        check(name, getattr(one, name), shapes.get(name, (channels,)), one.widen.dtype)
