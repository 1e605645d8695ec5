"""All transformer blocks of a network for the tokens of one frame, on a processor, in one call.

`reference.py` says what is computed; the C++ does it without a copy, with activations in float32 between products.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from relic_kernels.dispatch import require
from relic_kernels.native import PlacedWeights, check, function

MAX_TOKENS = 64
"""Tokens of a frame at most: the lanes of the C++."""
MAX_HEAD = 256

Gelu = Literal["none", "tanh"]


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """Weights of one block; M width, D head width, N hidden width.

    Matrices are `(outputs, inputs)` as torch's linear layers hold them, all of one dtype but for the last three.

    Attributes:
        q, k, v, out: self-attention, each with its bias.
        norm_q, norm_k: `(M,)` of its RMS norms.
        text_q, text_out, text_norm_q: attention to the prompt.
        widen: `(N, M)` first layer of the feed-forward network.
        narrow: `(M, N)` second layer.
        text_norm, text_norm_bias: `(M,)` float32 of the LayerNorm before the attention to the prompt.
        modulation: `(1, 6, M)` float32, added to each pass's.
    """

    q: Tensor
    q_bias: Tensor
    k: Tensor
    k_bias: Tensor
    v: Tensor
    v_bias: Tensor
    out: Tensor
    out_bias: Tensor
    norm_q: Tensor
    norm_k: Tensor
    text_q: Tensor
    text_q_bias: Tensor
    text_out: Tensor
    text_out_bias: Tensor
    text_norm_q: Tensor
    widen: Tensor
    widen_bias: Tensor
    narrow: Tensor
    narrow_bias: Tensor
    text_norm: Tensor
    text_norm_bias: Tensor
    modulation: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the C++ structure."""
        return tuple(getattr(self, name) for name in _WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class BlockInputs:
    """What one block of a pass reads and writes beside its tokens, of the weights' dtype; L tokens, H heads.

    Attributes:
        action: `(M,)` added to every token after self-attention.
        pose: `(1, M)` or `(L, M)` added to queries and keys before their norms.
        text_k, text_v: `(S, H, D)` keys and values of the prompt.
        keys, values: `(T, H, D)` rotated keys, and values, to attend to; the first L are written: the block's own.
        own_k, own_v: `(L, H, D)`, written: the block's keys before their rotation, and values.
    """

    action: Tensor
    pose: Tensor
    text_k: Tensor
    text_v: Tensor
    keys: Tensor
    values: Tensor
    own_k: Tensor
    own_v: Tensor


_WEIGHTS = tuple(one.name for one in fields(BlockWeights))
_INPUTS = tuple(one.name for one in fields(BlockInputs))
_WIDE = ("text_norm", "text_norm_bias", "modulation")
_SIZES = ("tokens", "dim", "heads", "hidden", "text_tokens", "pose_rows", "exact_gelu", "threads")


class _Sizes(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in _SIZES), ("eps", ctypes.c_float)]


class _Inputs(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in _INPUTS), ("memory_tokens", ctypes.c_int64)]


class FrameBlocks:
    """The blocks of one network, ready to run; the weights are read where they lie.

    Args:
        layers: weights of each block.
        heads: H; it divides M into heads of an even width of at most 256.
        eps: of all norms.
        gelu: `tanh`, or `none` for the exact one.

    Raises:
        ValueError: for weights that do not fit, or where the C++ cannot run; it says why.
    """

    def __init__(self, layers: Sequence[BlockWeights], heads: int, eps: float, gelu: Gelu) -> None:
        first = layers[0]
        self.dtype, self._dim, self._hidden = first.q.dtype, first.q.shape[1], first.widen.shape[0]
        require(first.q.is_cpu, f"the C++ blocks are for a processor, and the weights lie on {first.q.device}")
        self._run = function("frame_blocks", self.dtype)
        width = self._dim // heads
        require(
            self._dim % heads == 0 and width % 2 == 0 and width <= MAX_HEAD,
            f"{heads} heads of a width of {self._dim}: a head's must be even and at most {MAX_HEAD}",
        )
        for layer in layers:
            _check_weights(layer, self._dim, self._hidden, self.dtype)
        self._weights = PlacedWeights([tensor for layer in layers for tensor in layer.tensors()])
        self._count = len(layers)
        self._heads, self._eps, self._exact = heads, eps, gelu == "none"

    def holds(self) -> bool:
        """Whether the weights lie where they lay: those of a network that was cast or moved do not.

        What is computed then is by the weights of before.
        """
        return self._weights.holds()

    def __call__(
        self, x: Tensor, modulation: Tensor, rotation: Tensor, inputs: Sequence[BlockInputs], threads: int
    ) -> Tensor:
        """Run all blocks.

        Args:
            x: `(L, M)` tokens, L at most 64.
            modulation: `(6, M)` float32 shift, scale and gate of self-attention, then of the feed-forward network.
            rotation: `(L, D / 2)` complex64, turns queries and keys.
            inputs: of each block; some of them are written.
            threads: at most.

        Returns:
            `(L, M)`.

        Raises:
            ValueError: for tensors that do not fit.
        """
        tokens, width = x.shape[0], self._dim // self._heads
        require(0 < tokens <= MAX_TOKENS, f"x of {tokens} tokens: 1 to {MAX_TOKENS} fit")
        require(len(inputs) == self._count, f"{len(inputs)} inputs for {self._count} blocks")
        check("x", x, (tokens, self._dim), self.dtype)
        check("modulation", modulation, (6, self._dim), torch.float32)
        check("rotation", rotation, (tokens, width // 2), torch.complex64)
        text_tokens, poses = len(inputs[0].text_k), len(inputs[0].pose)
        require(text_tokens > 0, "a prompt without tokens has nothing to attend to")
        require(poses in (1, tokens), f"{poses} poses for {tokens} tokens: give one, or one for each")
        for one in inputs:
            self._check_inputs(one, tokens, text_tokens, poses)
        rows = (_Inputs * len(inputs))(
            *(_Inputs(*(getattr(one, name).data_ptr() for name in _INPUTS), len(one.keys)) for one in inputs)
        )
        counts = (tokens, self._dim, self._heads, self._hidden, text_tokens, poses, self._exact, max(1, threads))
        out = torch.empty_like(x)
        places = (ctypes.c_void_p(one.data_ptr()) for one in (x, out, modulation, rotation))
        if self._run(ctypes.byref(_Sizes(*counts, self._eps)), self._weights.table, rows, len(rows), *places):
            raise MemoryError("no room for the activations of a pass")
        return out

    def _check_inputs(self, one: BlockInputs, tokens: int, text_tokens: int, poses: int) -> None:
        heads, width = self._heads, self._dim // self._heads
        require(len(one.keys) >= tokens, f"{len(one.keys)} keys leave no room for the {tokens} that a pass writes")
        check("action", one.action, (self._dim,), self.dtype)
        check("pose", one.pose, (poses, self._dim), self.dtype)
        for name in ("text_k", "text_v"):
            check(name, getattr(one, name), (text_tokens, heads, width), self.dtype)
        for name in ("keys", "values"):
            check(name, getattr(one, name), (len(one.keys), heads, width), self.dtype)
        for name in ("own_k", "own_v"):
            check(name, getattr(one, name), (tokens, heads, width), self.dtype)


def _check_weights(layer: BlockWeights, dim: int, hidden: int, dtype: torch.dtype) -> None:
    shapes = {"widen": (hidden, dim), "widen_bias": (hidden,), "narrow": (dim, hidden), "modulation": (1, 6, dim)}
    matrices = dict.fromkeys(("q", "k", "v", "out", "text_q", "text_out"), (dim, dim))
    require(dim % 2 == 0 and hidden % 2 == 0, f"widths {dim} and {hidden} must be even")
    for name in _WEIGHTS:
        shape = shapes.get(name, matrices.get(name, (dim,)))
        check(name, getattr(layer, name), shape, torch.float32 if name in _WIDE else dtype)
