"""The network as a diffusers model: loaded from a Wan checkpoint, saved in shards, adapted by peft.

Axes: B batch, C latent channels, F latent frames, h, w latent cells, S text tokens, M model width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from relic.checkpoint import load_checkpoint, save_checkpoint
from relic.config import ModelConfig, RelicConfig, from_json, to_json
from relic.intrinsics import Intrinsics
from relic.machine import check_memory
from relic.model.attention import BidirectionalContext
from relic.model.conditioning import CameraConditioning
from relic.model.control import Control
from relic.model.sharded_checkpoint import ShardedCheckpoint
from relic.model.transformer import KEPT_IN_FLOAT32, TIME_SCALE, RelicTransformer
from relic.model.wan_config import WAN_CLASS, wan_world
from relic.pretrained import check_class
from relic.vae.config import SPATIAL_FACTOR

ATTENTION_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""Linear layers of self- and cross-attention that a control fine-tune adapts."""


class RelicTransformer3DModel(RelicTransformer, ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """`RelicTransformer` with diffusers' loading, saving, placing and adapters; `config` stays a `ModelConfig`.

    Args:
        network: values of a `ModelConfig`.
        vertical_fov_deg: vertical field of view of the camera, degrees.

    Raises:
        ValueError: for an unknown or impossible setting.
    """

    _no_split_modules = ["RelicBlock"]  # noqa: RUF012
    _repeated_blocks = ["RelicBlock"]  # noqa: RUF012
    _keep_in_fp32_modules = list(KEPT_IN_FLOAT32)  # noqa: RUF012

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, network: dict[str, Any], vertical_fov_deg: float = 60.0) -> None:
        config = from_json(ModelConfig, dict(network), "network")
        width, height = config.latent_width * SPATIAL_FACTOR, config.latent_height * SPATIAL_FACTOR
        super().__init__(config, Intrinsics.from_fov(vertical_fov_deg, width, height))

    @property
    def config(self) -> ModelConfig:
        """Sizes of the network; diffusers' own record of them is what `save_config` writes."""
        return self._sizes

    @config.setter
    def config(self, sizes: ModelConfig) -> None:
        self._sizes = sizes

    @classmethod
    def from_config_of(cls, world: RelicConfig) -> Self:
        """The network of a world, freshly initialised."""
        return cls(network=to_json(world.model), vertical_fov_deg=world.vertical_fov_deg)

    @classmethod
    def from_wan(
        cls,
        path: Path | str,
        *,
        world: RelicConfig | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load Wan 2.1 text-to-video and add control encoders, whose outputs start at zero.

        Every tensor is read, converted and put in its place before the next, so there is never a second copy of the
        network. The hidden layers of the encoders are drawn from torch's global generator.

        Args:
            path: local folder of the pipeline or of its transformer, in diffusers' layout. Nothing is downloaded.
            world: whose network this is to become; by default the preset of the checkpoint's size.
            dtype: of the parameters, but those that diffusers keeps in float32.
            device: to load onto.

        Returns:
            The model, in evaluation mode.

        Raises:
            FileNotFoundError: when there is no such folder, or no configuration in it.
            ValueError: for a folder of something else, a setting that is not supported, damaged or missing shards,
                tensors that disagree with the configuration, or too little memory; before any tensor is read.
        """
        folder = _transformer_folder(Path(path))
        config = wan_world(check_class(folder, WAN_CLASS), folder / "config.json", world)
        checkpoint = ShardedCheckpoint.open(folder)
        with init_empty_weights():
            model = cls.from_config_of(config)
        control = model.control_names()
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        checkpoint.check_shapes({name: shape for name, shape in shapes.items() if name not in control})
        needed = sum(p.numel() * model.dtype_of(name, dtype).itemsize for name, p in model.named_parameters())
        device = torch.device(device)
        check_memory(f"the network in {folder}", needed, device)
        for name, tensor in checkpoint.tensors(lambda name: model.dtype_of(name, dtype), device):
            model.place(name, tensor)
        for name in control:
            model.place(name, torch.empty(shapes[name], dtype=dtype, device=device))
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        model.init_control()
        return model.eval()

    @classmethod
    def from_pretrained(cls, path: Path | str, **options: Any) -> Self:
        """Load, as diffusers does, what `save_pretrained` wrote; see `ModelMixin.from_pretrained` for the options.

        Raises:
            ValueError: when pickled weights are asked for.
        """
        return super().from_pretrained(path, **_safe(options))

    def load_lora_adapter(self, path: Path | str, **options: Any) -> None:
        """Load, as diffusers does, what `save_lora_adapter` wrote; see `PeftAdapterMixin.load_lora_adapter`.

        Raises:
            ValueError: when pickled weights are asked for.
        """
        super().load_lora_adapter(path, **{"prefix": None, **_safe(options)})

    def place(self, name: str, tensor: Tensor) -> None:
        """Make a tensor, not a copy of it, a parameter of this model."""
        owner, _, leaf = name.rpartition(".")
        self.get_submodule(owner).register_parameter(leaf, nn.Parameter(tensor))

    def control_names(self) -> list[str]:
        """Names of the parameters that Wan's network has not."""
        own = {id(parameter) for module in self.control_modules() for parameter in module.parameters()}
        return [name for name, parameter in self.named_parameters() if id(parameter) in own]

    def bidirectional(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        camera: CameraConditioning | None = None,
        *,
        trained_frames: int | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The call of `diffusers.WanTransformer3DModel`: a whole video, every frame seeing every other.

        Args:
            hidden_states: `(B, C, F, h, w)` noisy latents.
            timestep: `(B,)`, or `(B, F)` for a level of its own for each frame; 1000 is pure noise.
            encoder_hidden_states: `(B, S, text_dim)` padded tokens of the prompt.
            camera: control of the F latent frames; None for no control at all.
            trained_frames: see `BidirectionalContext`.
            return_dict: return diffusers' output class instead of a tuple.

        Returns:
            The velocity, `(B, C, F, h, w)`.

        Raises:
            ValueError: for latents of another shape than the network's.
        """
        batch, frames = hidden_states.shape[0], hidden_states.shape[2]
        sizes = self.config
        wanted = (sizes.in_channels, frames, sizes.latent_height, sizes.latent_width)
        if tuple(hidden_states.shape[1:]) != wanted:
            raise ValueError(f"latents {tuple(hidden_states.shape)} must be {(batch, *wanted)}")
        level = timestep.double() / TIME_SCALE
        sigma = level.unsqueeze(1).expand(batch, frames) if level.ndim == 1 else level
        control = _no_control(sizes.num_layers, hidden_states) if camera is None else self.encode_control(camera)
        context = BidirectionalContext(sizes, frames, trained_frames)
        velocity = self(hidden_states, sigma, control, self.encode_text(encoder_hidden_states), context)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def add_control_adapter(self, rank: int = 32, alpha: float | None = None, adapter_name: str = "control") -> None:
        """Prepare a control fine-tune: LoRA on all attention projections, and the control encoders in full.

        Everything else is frozen; the output is unchanged until training begins.

        Args:
            rank: of the adapters.
            alpha: their scale times `rank`; by default `rank`.
            adapter_name: to save, load and switch them by.
        """
        from peft import LoraConfig

        adapter = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(ATTENTION_PROJECTIONS))
        PeftAdapterMixin.add_adapter(self, adapter, adapter_name)
        for module in self.control_modules():
            module.requires_grad_(True)

    def save_control(self, path: Path) -> None:
        """Write the control encoders alone; adapters are saved by `save_lora_adapter`."""
        state = self.state_dict()
        save_checkpoint(path, {name: state[name] for name in self.control_names()}, to_json(self.config))

    def load_control(self, path: Path) -> None:
        """Load control encoders that `save_control` wrote, in this model's precision.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when they are another network's.
        """
        state, values = load_checkpoint(path)
        sizes = to_json(self.config)
        different = [name for name, value in sizes.items() if values.get(name) != value]
        if different or set(state) != set(self.control_names()):
            told = ", ".join(f"{name} {values.get(name)} (not {sizes[name]})" for name in different)
            raise ValueError(f"{path} does not hold this network's control encoders: {told or 'other tensors'}")
        for name, tensor in state.items():
            self.get_parameter(name).data.copy_(tensor)


def _safe(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("use_safetensors") is False:
        raise ValueError("use_safetensors is False: pickled weights are never read")
    return {**options, "use_safetensors": True}


def _no_control(num_layers: int, like: Tensor) -> Control:
    nothing = [like.new_zeros(1, 1, 1, 1)] * num_layers
    return Control(actions=nothing, poses=nothing)


def _transformer_folder(path: Path) -> Path:
    """The folder of the network inside a pipeline's, or the folder itself."""
    if not path.is_dir():
        raise FileNotFoundError(
            f"no folder at {path}: name the local folder of a Wan checkpoint in diffusers' layout, "
            "nothing is downloaded"
        )
    inner = path / "transformer"
    return inner if inner.is_dir() and not (path / "config.json").is_file() else path
