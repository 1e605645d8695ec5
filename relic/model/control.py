"""What steers a block, embedded: what the network reads, and its encoders in one call of C++.

Axes: B batch, G guide channels, F latent frames, L tokens of a frame, M model width, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from relic.config import ModelConfig
from relic.model.conditioning import ActionEncoder, CameraConditioning, PoseEncoder
from relic_kernels.control_encoders import ControlEncoders, ControlInputs, ControlWeights
from relic_kernels.native import may_run


@dataclass(frozen=True, kw_only=True)
class EmbeddedGuide:
    """What earlier views show of a block, as the network reads it; L tokens of a frame, or the rank's own of them.

    Attributes:
        tokens: `(B, F, L, M)` added to the block's tokens.
        skip: `(B, F, L, patch)` subtracted from the velocity in proportion to the noise level: what is known of the
            clean latents need not pass through the blocks.
    """

    tokens: Tensor
    skip: Tensor


@dataclass(frozen=True, kw_only=True)
class Control:
    """Embedded control of a block; L tokens of a frame, or the rank's own of them.

    Attributes:
        actions: `(B, F, 1, M)` for each layer, on its device.
        poses: `(B, F, 1 or L, M)` for each layer, on its device.
        guide: what earlier views show of the block; None without.
    """

    actions: list[Tensor]
    poses: list[Tensor]
    guide: EmbeddedGuide | None = None


class FusedControl:
    """Does what the encoders' own layers do, in fewer roundings: between products activations are float32.

    Args:
        actions: encoder of actions; all parameters are read where they lie.
        poses: encoder of poses.
        guide: what embeds a guide, and what reads its latents; None for a network without.
        config: network sizes.

    Raises:
        ValueError: where the C++ cannot run, or takes no such encoders: those of one pose a frame, or of odd widths.
    """

    def __init__(
        self,
        actions: ActionEncoder,
        poses: PoseEncoder,
        guide: tuple[nn.Linear, nn.Linear] | None,
        config: ModelConfig,
    ) -> None:
        if config.pose_encoding != "ray":
            raise ValueError(f"the C++ encoders take a pose for each token (ray), not one a {config.pose_encoding}")
        embed, skip = (None, None) if guide is None else (layer.weight for layer in guide)
        weights = ControlWeights(
            action_scale=actions.scale,
            action=_layers_of(actions),
            rays=poses.rays,
            pose=_layers_of(poses),
            guide=embed,
            skip=skip,
        )
        self._encoders = ControlEncoders(
            weights, config.pose_octaves, config.pose_scale_m, config.grid[1], config.patch_size
        )

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """See `relic.model.fused_network.FusedNetwork`."""
        return type(None), ()

    def takes(self, camera: CameraConditioning, guide: Tensor | None) -> bool:
        """Whether this control, see `RelicTransformer.encode_control`, is its to embed; the layers do other."""
        given = [camera.actions, camera.rotations_w2c, camera.positions, *(() if guide is None else (guide,))]
        return (
            camera.num_frames == 1
            and may_run(self._encoders.dtype, *given)
            and all(x.dtype == torch.float32 for x in given)
            and self._encoders.holds()
        )

    def __call__(self, camera: CameraConditioning, guide: Tensor | None) -> Control:
        """See `RelicTransformer.encode_control`."""
        inputs = ControlInputs(
            actions=camera.actions.contiguous(),
            rotations_w2c=camera.rotations_w2c.contiguous(),
            positions=camera.positions.contiguous(),
            guide=None if guide is None else guide.contiguous(),
        )
        made = self._encoders(inputs, torch.get_num_threads())
        embedded = None if made.guide is None or made.skip is None else EmbeddedGuide(tokens=made.guide, skip=made.skip)
        return Control(actions=list(made.actions.unbind(0)), poses=list(made.poses.unbind(0)), guide=embedded)


def _layers_of(encoder: ActionEncoder | PoseEncoder) -> Sequence[tuple[Tensor, Tensor]]:
    layers = (encoder.proj_in, encoder.proj_hidden, *encoder.proj_out)
    return [(one.weight, one.bias) for one in (cast(nn.Linear, layer) for layer in layers)]
