"""Small picture networks on a processor, each in one call: linear layers, convolutions and residual blocks.

A residual block is LayerNorm over channels, a depth-wise convolution, a layer that widens, SiLU and a layer that
narrows. `reference.py` says what is computed. Activations are float32, whatever the weights are.

Axes: N frames, C channels, h w positions, O outputs, I inputs of a layer, K side of a kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.native import PlacedWeights, check, check_bytes, function, matrix_in_bytes

EPS = 1e-5
"""Of the LayerNorm, torch's own."""
MAX_SIDE = 11
"""Of a depth-wise kernel."""
MAX_PICTURES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A linear layer over the channels of each position, or a convolution.

    Attributes:
        weight: `(O, I)` between `pixel_unshuffle` and `pixel_shuffle`, or `(O, I, K, K)` of a convolution over the
            picture and zeros around it, K odd; O and what is multiplied, I or I K K, are even.
        bias: `(O,)`.
        source: number of the pictures that are read; 0 are the input.
        target: number of those that are written.
        fold: side of the cells whose positions become channels before; 1 of a convolution.
        unfold: side of the cells that channels become after.
        coordinates: whether the last two inputs are x and y of the position in the picture, within (-1, 1).
        adds: whether the outputs are added to the target, which an earlier step has written.
    """

    weight: Tensor
    bias: Tensor
    source: int
    target: int
    fold: int = 1
    unfold: int = 1
    coordinates: bool = False
    adds: bool = False

    @property
    def side(self) -> int:
        """K; 1 of a linear layer."""
        return self.weight.shape[-1] if self.weight.ndim == 4 else 1


@dataclass(frozen=True)
class ResidualWeights:
    """Weights of one block, of one dtype; C channels, O hidden ones.

    Attributes:
        norm, norm_bias: `(C,)`.
        depthwise: `(C, 1, K, K)`, K odd.
        depthwise_bias: `(C,)`.
        widen: `(O, C)`.
        widen_bias: `(O,)`.
        narrow: `(C, O)`.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """Residual blocks of one size, one after another.

    Attributes:
        blocks: weights of each, at least one.
        source: number of the pictures that are read; 0 are the input.
        target: number of those that are written; the source's own for blocks in place.
        shifted: channels, at most C, that once normalised are those of the frame before; 0 for none.
        in_bytes: whether the layers that widen and narrow multiply 8-bit integers: weights by a scale of each output's
            own, copied for it as they are now, and inputs by one of each position's own.
    """

    blocks: Sequence[ResidualWeights]
    source: int
    target: int
    shifted: int = 0
    in_bytes: bool = False


Step = Layer | Blocks

_WEIGHTS = tuple(one.name for one in fields(ResidualWeights))
_SIZES = ("frames", "streams", "unread", "channels", "height", "width", "steps", "threads")
_STEP = (
    *("source", "target", "outputs", "fold", "unfold", "coordinates", "adds"),
    *("side", "blocks", "hidden", "shifted", "in_bytes"),
)


def fits(dtype: torch.dtype, steps: Sequence[Step]) -> bool:
    """Whether weights are as the C++ takes them: of one dtype, contiguous, and of even widths.

    Args:
        dtype: of all.
        steps: whose weights fit each other.
    """
    matrices = [step.weight for step in steps if isinstance(step, Layer)]
    matrices += [one.widen for step in steps if isinstance(step, Blocks) for one in step.blocks]
    even = all(len(one) % 2 == 0 == one[0].numel() % 2 for one in matrices)
    return even and all(one.dtype == dtype and one.is_contiguous() for step in steps for one in _tensors(step))


class _Sizes(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in _SIZES), ("eps", ctypes.c_float)]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_int32) for name in _STEP),
    ]


class _Frames(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("frames", "out", "past", "kept")]


class PictureNetwork:
    """One network, ready to run; the weights are read where they lie.

    Args:
        channels: of the input.
        steps: in the order they run, at least one; the output is what the last one writes. All weights are of one
            dtype. Pictures that several steps write have one size.

    Raises:
        ValueError: for weights or steps that do not fit, or where the C++ cannot run; it says why.
    """

    def __init__(self, channels: int, steps: Sequence[Step]) -> None:
        self._channels = {0: channels}
        self._steps = tuple(steps)
        dtype = next(iter(_tensors(steps[0]))).dtype
        for step in steps:
            self._check(step, dtype)
        self._run = function("picture_network", dtype)
        self._given = PlacedWeights([tensor for step in steps for tensor in _tensors(step)])
        blocks = [(one, step.in_bytes) for step in steps if isinstance(step, Blocks) for one in step.blocks]
        self._weights = PlacedWeights([_placed(one, name, in_bytes) for one, in_bytes in blocks for name in _WEIGHTS])
        self._table = (_Step * len(steps))(*map(_row, steps))
        self._blocks = len(blocks)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """See `relic_kernels.native.PlacedWeights`."""
        return type(None), ()

    def holds(self) -> bool:
        """Whether the weights lie where they lay: those of a network that was cast or moved do not.

        What is computed then is by the weights of before; in bytes, so it is when they are written in place.
        """
        return self._given.holds()

    def __call__(
        self, x: Tensor, past: Sequence[Tensor | None] = (), streams: int = 1, unread: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all steps.

        Args:
            x: `(N, C, H, W)` frames of any precision, those of one moment for all streams together.
            past: for each block of all steps the shifted channels of the frames before, `(streams, shifted, h, w)`;
                None for zeros, and empty for none but those.
            streams: frames side by side; N is a multiple of it, and not 0.
            unread: frames at the beginning, fewer than N, that only blocks which look back are to see.

        Returns:
            What the last step writes for the other frames, float32, and for each block the shifted channels of the last
            frames, float32.

        Raises:
            ValueError: for tensors that do not fit.
        """
        if x.ndim != 4 or x.shape[1] != self._channels[0] or not x.is_cpu:
            raise ValueError(f"x {tuple(x.shape)} on {x.device} must be (N, {self._channels[0]}, H, W) on the CPU")
        before = past or [None] * self._blocks
        if not len(x) or len(x) % streams or len(before) != self._blocks:
            raise ValueError(f"{len(x)} frames of {streams} streams and {len(past)} pasts of {self._blocks} blocks")
        require(0 <= unread < len(x), f"{unread} frames unread of {len(x)}: at least one must be read")
        shape, sizes_kept = self._sides(x.shape[2], x.shape[3])
        kept: list[Tensor] = []
        for count, *size in sizes_kept:
            kept += torch.empty(count, streams, *size).unbind(0) if size[0] else [torch.empty(streams, *size)] * count
        for one, after in zip(before, kept, strict=True):
            if one is not None and (one.shape != after.shape or not one.is_cpu):
                raise ValueError(f"a past {tuple(one.shape)} on {one.device} must be {tuple(after.shape)} on the CPU")
        given = [None if one is None else one.float().contiguous() for one in before]
        frames = x.float().contiguous()
        out = torch.empty(len(x), *shape)
        sizes = _Sizes(len(x), streams, unread, *x.shape[1:], len(self._steps), max(1, torch.get_num_threads()), EPS)
        pasts, afters = (_places(tensors) for tensors in (given, kept))
        places = _Frames(frames.data_ptr(), out.data_ptr(), ctypes.addressof(pasts), ctypes.addressof(afters))
        if self._run(ctypes.byref(sizes), self._table, self._weights.table, ctypes.byref(places)):
            raise MemoryError("no room for the activations of a picture")
        return out[unread:] if unread else out, kept

    def _sides(self, height: int, width: int) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Channels, height and width of the output; and how many blocks each step has, with the size they keep."""
        sides = {0: (height, width)}
        kept: list[tuple[int, ...]] = []
        for step in self._steps:
            h, w = sides[step.source]
            if isinstance(step, Blocks):
                kept.append((len(step.blocks), step.shifted, h, w))
            else:
                if h % step.fold or w % step.fold:
                    raise ValueError(f"pictures of {h}x{w} cannot be folded by {step.fold}: {height}x{width} went in")
                h, w = h // step.fold * step.unfold, w // step.fold * step.unfold
            known = sides.setdefault(step.target, (h, w))
            if known != (h, w):
                raise ValueError(f"pictures {step.target} of {known[0]}x{known[1]} cannot become {h}x{w}")
        target = self._steps[-1].target
        return (self._channels[target], *sides[target]), kept

    def _check(self, step: Step, dtype: torch.dtype) -> None:
        source, target = step.source, step.target
        require(source in self._channels, f"pictures {source} are read before they are written")
        require(0 < target < MAX_PICTURES, f"pictures {target} cannot be written: 1 to {MAX_PICTURES - 1} can")
        read = self._channels[source]
        if isinstance(step, Blocks):
            _check_blocks(step, read, dtype)
            made = read
        else:
            require(source != target, f"a layer reads pictures {source}, and would write them")
            require(not step.adds or target in self._channels, f"pictures {target} are added to unwritten")
            _check_layer(step, read, dtype)
            made = step.weight.shape[0] // step.unfold**2
        known = self._channels.setdefault(target, made)
        require(known == made, f"pictures {target} of {known} channels cannot become {made}")


def _tensors(step: Step) -> Iterator[Tensor]:
    if isinstance(step, Layer):
        return iter((step.weight, step.bias))
    return (getattr(one, name) for one in step.blocks for name in _WEIGHTS)


def _row(step: Step) -> _Step:
    if isinstance(step, Layer):
        places = (step.weight.data_ptr(), step.bias.data_ptr(), step.source, step.target)
        return _Step(*places, len(step.weight), step.fold, step.unfold, step.coordinates, step.adds, step.side)
    first = step.blocks[0]
    sizes = (first.depthwise.shape[-1], len(step.blocks), len(first.widen), step.shifted, step.in_bytes)
    return _Step(None, None, step.source, step.target, 0, 1, 1, False, False, *sizes)


def _places(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if one is None else one.data_ptr() for one in tensors))


def _placed(block: ResidualWeights, name: str, in_bytes: bool) -> Tensor:
    weight: Tensor = getattr(block, name)
    return matrix_in_bytes(weight) if in_bytes and name in ("widen", "narrow") else weight


def _check_layer(layer: Layer, channels: int, dtype: torch.dtype) -> None:
    outputs, side = len(layer.weight), layer.side
    require(side % 2 == 1, f"a kernel of {side}x{side}: its side must be odd")
    require(side == 1 or layer.fold == 1, f"a convolution does not fold, and fold is {layer.fold}")
    inputs = channels * layer.fold**2 + 2 * layer.coordinates
    require(side == 1 or not layer.coordinates, "a convolution reads no coordinates")
    require(
        inputs * side**2 % 2 == 0 and outputs % 2 == 0,
        f"a layer of {inputs * side**2} by {outputs} channels: both must be even",
    )
    require(outputs % layer.unfold**2 == 0, f"{outputs} outputs do not unfold by {layer.unfold}")
    kernel = (side, side) if layer.weight.ndim == 4 else ()
    check("weight", layer.weight, (outputs, inputs, *kernel), dtype)
    check("bias", layer.bias, (outputs,), dtype)


def _check_blocks(step: Blocks, channels: int, dtype: torch.dtype) -> None:
    require(0 <= step.shifted <= channels, f"{step.shifted} shifted channels of {channels}")
    first = step.blocks[0]
    hidden, side = len(first.widen), first.depthwise.shape[-1]
    require(channels % 2 == 0 and hidden % 2 == 0, f"{channels} channels and {hidden} hidden ones: both must be even")
    odd = ", ".join(map(str, range(1, MAX_SIDE + 1, 2)))
    require(side % 2 == 1 and side <= MAX_SIDE, f"a depth-wise kernel of {side}x{side}: its side must be one of {odd}")
    shapes = {
        "depthwise": (channels, 1, side, side),
        "widen": (hidden, channels),
        "widen_bias": (hidden,),
        "narrow": (channels, hidden),
    }
    for one in step.blocks:
        for name in _WEIGHTS:
            check(name, getattr(one, name), shapes.get(name, (channels,)), dtype)
    if step.in_bytes:
        check_bytes("residual blocks", channels, hidden)
