"""The options that say which world is played, shared by the commands that play one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from relic.precision import Precision
    from relic.world import World
    from relic_app.gallery import Gallery

_OF_WAN = ("control", "vae_decoder", "taehv", "device", "vae_device")


def add_world_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--weights`, and `--wan` with what belongs to it."""
    parser.add_argument("--weights", type=Path, help="weights folder (default: $RELIC_WEIGHTS or weights/)")
    add_precision_argument(parser)
    parser.add_argument("--steps", type=int, help="denoising steps a block: more are finer, and slower (its own)")
    wan = parser.add_argument_group("a world of Wan 2.1's network, see docs/wan-vae.md")
    wan.add_argument("--wan", type=Path, metavar="DIR", help="local checkpoint in diffusers' layout, not --weights")
    wan.add_argument("--control", type=Path, metavar="FILE", help="RELIC's control encoders for it")
    wan.add_argument(
        "--vae-decoder", choices=("wan", "taehv"), help="who decodes (default: taehv where --taehv is given)"
    )
    wan.add_argument("--taehv", type=Path, metavar="FILE", help="tiny decoder, a taew2_1 .safetensors file")
    wan.add_argument("--device", help="of the network: cuda, cuda:1, cpu, ... (default: a GPU where there is one)")
    wan.add_argument("--vae-device", metavar="DEVICE", help="of the auto-encoder (default: the network's)")


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--precision`."""
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "int8"),
        default="auto",
        help="of the networks on a processor; int8: of the layers of their blocks, the rest in the faster of the "
        "others; auto: int8 where the processor has instructions for it",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldSource:
    """Where a world comes from.

    Attributes:
        weights: weights folder; beside a Wan world, only its gallery counts.
        wan: Wan checkpoint; None for the world of the weights folder.
        control: control encoders of a Wan world.
        taehv: tiny decoder of a Wan world; None for Wan's own.
        device: of a Wan world's network; None to choose.
        vae_device: of a Wan world's auto-encoder; None for the network's.
        precision: of the weights folder's world.
        steps: denoising steps a block; None for the world's own number.
    """

    weights: Path
    wan: Path | None = None
    control: Path | None = None
    taehv: Path | None = None
    device: str | None = None
    vae_device: str | None = None
    precision: Precision = "auto"
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps is {self.steps}: give at least 1")

    def load(self) -> World:
        """Load the world: a Wan world in bfloat16 on a GPU and in float32 on a processor, else in `precision`.

        Raises:
            ValueError: see `World.load` and `load_wan_world`.
            FileNotFoundError: see there.
        """
        from relic.world import World

        if self.wan is None:
            return World.load(self.weights, precision=self.precision).with_steps(self.steps)
        import torch

        from relic.wan_world import load_wan_world

        device = find_device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        world = load_wan_world(
            self.wan,
            control=self.control,
            tiny_decoder=self.taehv,
            device=device,
            vae_device=None if self.vae_device is None else find_device(self.vae_device),
            dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
        )
        return world.with_steps(self.steps)

    def num_heads(self) -> int:
        """Attention heads of the world's network, read without loading it.

        Raises:
            ValueError: no configuration of such a network.
            FileNotFoundError: a file is missing.
        """
        from relic.world import read_world_config

        if self.wan is None:
            return read_world_config(self.weights).model.num_heads
        from relic.wan_world import read_wan_config

        return read_wan_config(self.wan).model.num_heads

    def gallery(self) -> Gallery:
        """The weights folder's start pictures; a Wan world does without where there are none.

        Raises:
            ValueError: a gallery that is damaged.
            FileNotFoundError: a weights folder without one.
        """
        from relic_app.gallery import Gallery

        if self.wan is not None and not (self.weights / "gallery" / "gallery.json").is_file():
            return Gallery([])
        return Gallery.load(self.weights)


def world_source(options: argparse.Namespace) -> WorldSource:
    """Check what `add_world_arguments` was given, as far as that goes without loading anything.

    Raises:
        ValueError: options that contradict each other, or a weights folder that is no world.
        FileNotFoundError: a folder or file is missing.
    """
    from relic.weights import default_weights_dir, read_manifest

    weights = options.weights or default_weights_dir()
    if options.wan is None:
        stray = [_flag(name) for name in _OF_WAN if getattr(options, name) is not None]
        if stray:
            raise ValueError(f"{' and '.join(stray)} without --wan: name the checkpoint with --wan DIR")
        read_manifest(weights, verify=False)
        return WorldSource(weights=weights, precision=options.precision, steps=options.steps)
    if options.weights is not None:
        raise ValueError("--weights and --wan name two worlds: give one of them")
    if options.vae_decoder == "taehv" and options.taehv is None:
        raise ValueError("--vae-decoder taehv without --taehv: name the decoder's file with --taehv FILE")
    if options.vae_decoder == "wan" and options.taehv is not None:
        raise ValueError("--vae-decoder wan with --taehv: leave one of them out")

    from relic.wan_world import check_wan_folder

    check_wan_folder(options.wan)
    for name in ("control", "taehv"):
        file = getattr(options, name)
        if file is not None and not file.is_file():
            raise FileNotFoundError(f"{_flag(name)} is {str(file)!r}, but there is no such file")
    return WorldSource(
        weights=weights,
        wan=options.wan,
        control=options.control,
        taehv=options.taehv,
        device=options.device,
        vae_device=options.vae_device,
        steps=options.steps,
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def find_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: where there is none such.
    """
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"there is no device {name!r} here ({reason}): give cpu, cuda or cuda:1") from error
