"""The network's blocks in one call of C++, for passes over one latent frame on a processor.

Axes: B batch, L tokens of a frame, H heads, D head width, M model width, S text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relic.config import ModelConfig
from relic.model.attention import AttentionContext, SlottedContext
from relic_kernels.frame_blocks import MAX_TOKENS, BlockInputs, BlockWeights, FrameBlocks
from relic_kernels.native import may_run


class FusedBlocks:
    """Does what the network's own blocks do, in fewer roundings: between products activations are float32.

    Args:
        layers: the blocks' parameters; read where they lie.
        config: network sizes.

    Raises:
        ValueError: where the C++ cannot run, or has no room for a frame of so many tokens.
    """

    def __init__(self, layers: Sequence[BlockWeights], config: ModelConfig) -> None:
        rows, columns = config.grid
        if rows * columns > MAX_TOKENS:
            raise ValueError(f"frames of {rows * columns} tokens do not fit the C++ blocks, which take {MAX_TOKENS}")
        self._blocks = FrameBlocks(layers, config.num_heads, config.eps, config.gelu_approximate)
        self._heads = config.num_heads

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of a network has its weights elsewhere: there is None in this one's place until it is fused anew."""
        return type(None), ()

    def takes(self, x: Tensor, context: AttentionContext) -> bool:
        """Whether a pass over `x` `(B, F, L, M)` is its to compute; the network's own blocks do the others."""
        return (
            x.shape[1] == 1
            and x.dtype == self._blocks.dtype
            and may_run(x.dtype, x)
            and isinstance(context, SlottedContext)
            and self._blocks.holds()
        )

    def __call__(
        self,
        x: Tensor,
        modulation: Tensor,
        actions: Sequence[Tensor],
        poses: Sequence[Tensor],
        text: Sequence[tuple[Tensor, Tensor]],
        context: SlottedContext,
    ) -> Tensor:
        """Run all blocks.

        Args:
            x: `(B, 1, L, M)`.
            modulation: `(B, 1, 6, M)`.
            actions: `(B, 1, 1, M)` of each layer.
            poses: `(B, 1, 1 or L, M)` of each layer.
            text: keys and values of the prompt, `(B, S, H, D)` of each layer.
            context: gives what is attended to, and keeps the block's own keys and values.

        Returns:
            `(B, 1, L, M)`.
        """
        like = x.unflatten(-1, (self._heads, -1))
        keys, values = context.slots(len(text), like)
        own_k, own_v = torch.empty(2, len(text), *like.shape, dtype=x.dtype).unbind(0)
        rotation = context.query_rotation(x.device)
        wide = modulation.float()
        out = []
        for case in range(len(x)):
            inputs = [
                BlockInputs(
                    action=actions[layer][case, 0, 0],
                    pose=poses[layer][case, 0],
                    text_k=text[layer][0][case],
                    text_v=text[layer][1][case],
                    keys=keys[layer][case],
                    values=values[layer][case],
                    own_k=own_k[layer, case, 0],
                    own_v=own_v[layer, case, 0],
                )
                for layer in range(len(text))
            ]
            out.append(self._blocks(x[case, 0], wide[case, 0], rotation, inputs, torch.get_num_threads()))
        context.keep(own_k.unbind(0), own_v.unbind(0))
        return torch.stack(out).unsqueeze(1)
