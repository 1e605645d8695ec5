"""What the network reads: weights, and the inputs of a pass.

Axes: as of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Gelu = Literal["none", "tanh"]


@dataclass(frozen=True, kw_only=True)
class EndWeights:
    """Weights of the first and the last layer, of the blocks' dtype.

    Attributes:
        embed: `(M, C, 1, p, p)` as a convolution over frames holds it, with its bias.
        out: `(P, M)` to a patch's cells, each with all channels, with its bias.
    """

    embed: Tensor
    embed_bias: Tensor
    out: Tensor
    out_bias: Tensor


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """Weights of one block.

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


@dataclass(frozen=True, kw_only=True)
class FrameInputs:
    """What all passes over a frame read.

    Attributes:
        latents: `(B, C, h, w)` float32, for the first pass.
        rotation: `(L, D / 2)` complex64, turns queries and keys.
        guide: `(B, L, M)` of the weights' dtype, added to the embedded patches; None without.
        skip: `(B, L, P)` float32, subtracted from the velocity in proportion to the noise level; None without.
    """

    latents: Tensor
    rotation: Tensor
    guide: Tensor | None = None
    skip: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """The noise level of a pass.

    Attributes:
        sigma: of each case.
        modulation: `(B, 6, M)` float32 shift, scale and gate of self-attention, then of the feed-forward network.
        ends_modulation: `(B, 2, M)` float32 shift and scale before the last layer.
    """

    sigma: Sequence[float]
    modulation: Tensor
    ends_modulation: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A pass whose latents become `keep latents + move velocity + fresh noise`.

    Attributes:
        level: of the pass.
        keep, move, fresh: the factors.
        noise: `(B, C, h, w)` float32; None where `fresh` is 0.
    """

    level: Level
    keep: float = 0.0
    move: float = 1.0
    fresh: float = 0.0
    noise: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class BlockInputs:
    """What one block of a pass reads and writes beside its tokens, of the weights' dtype; cases may lie apart.

    Attributes:
        action: `(B, 1, 1, M)` added to every token after self-attention.
        pose: `(B, 1, 1, M)` or `(B, 1, L, M)` added to queries and keys before their norms.
        text_k, text_v: `(B, S, H, D)` keys and values of the prompt.
        keys, values: `(B, T, H, D)` rotated keys, and values, to attend to; the first L are written: the frame's own. T
            is the same for all blocks.
        own_k, own_v: `(B, 1, L, H, D)`, written: the frame's keys before their rotation, and values.
    """

    action: Tensor
    pose: Tensor
    text_k: Tensor
    text_v: Tensor
    keys: Tensor
    values: Tensor
    own_k: Tensor
    own_v: Tensor
