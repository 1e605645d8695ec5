"""A network whose layers a device map spreads over two pretended devices; it needs a process of its own.

Loading, hooks and arithmetic are real; what mixes the devices is refused, as CUDA refuses it.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import relic_kernels
from relic.config import MemoryConfig, SamplerConfig, to_json
from relic.memory.backends import make_memory
from relic.memory.kv_cache import KVMemory
from relic.model.conditioning import CameraConditioning
from relic.model.relic_transformer_3d import RelicTransformer3DModel
from relic.rollout import draw_block, rollout
from tests.elsewhere import TensorElsewhere, name_devices, pretended
from tests.tiny_networks import TINY, lively_model, random_camera

SIZES = dataclasses.replace(TINY, dim=64, num_layers=3)
"""Heads as wide as the kernels need."""
SAMPLER = SamplerConfig(steps=2, block_frames=2)
FRAMES = 7
MEMORIES = {
    "compressed": MemoryConfig(policy="compressed", window=2, schedule=(2, 4), max_frames=40, max_age=4),
    "fp8": MemoryConfig(policy="compressed", window=2, schedule=(1, 2), storage="fp8", max_frames=40),
    "full": MemoryConfig(policy="full", window=2, max_frames=6),
    "window": MemoryConfig(policy="window", window=2, max_frames=40),
}
_FIRST, _SECOND = "pretended:0", "pretended:1"
SPREADS = {"together": (_FIRST,) * 3, "halves": (_FIRST, _FIRST, _SECOND), "in turns": (_SECOND, _FIRST, _SECOND)}
"""The device of each layer."""
BY_KERNELS = ("together", "in turns")
"""Where the kernels' interpreter, which is slow, draws the last block of 8-bit memory too."""
_AROUND = ("condition_embedder", "action_encoder", "guide_embedding", "scale_shift_table")
_OTHERS = ("patch_embedding", "pose_encoder", "guide_skip", "proj_out")


@dataclass(frozen=True, kw_only=True)
class Played:
    """A rollout and its memory.

    Attributes:
        latents: of all blocks.
        again: of the last block, drawn once more after a return to the memory before it.
        by_kernels: of the last block, drawn so by the kernels; None where they were not asked.
        devices: of each layer's keys, values, and what the kernels would read.
        kept: keys and values of each entry and layer.
        nbytes: of the memory.
        lies_on: the device of the latents.
    """

    latents: np.ndarray
    again: np.ndarray
    by_kernels: np.ndarray | None
    devices: list[set[str]]
    kept: list[np.ndarray]
    nbytes: int
    lies_on: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the process saw: rollouts by memory and spread, whole videos by spread, and torch's refusal to mix."""

    rollouts: dict[tuple[str, str], Played]
    videos: dict[str, np.ndarray]
    refusal: str


class _Views:
    """In place of a screen: what guides the blocks was drawn beforehand."""

    def __init__(self, guides: Tensor) -> None:
        self._guides, self._next = guides, 0

    def guide(self, camera: CameraConditioning) -> Tensor:
        begin, self._next = self._next, self._next + camera.num_frames
        return self._guides[:, :, begin : self._next]

    def show(self, latents: Tensor, camera: CameraConditioning) -> Tensor:
        return latents


def save_network(folder: Path) -> None:
    """A network in which every path matters."""
    network = RelicTransformer3DModel(network=to_json(SIZES))
    network.load_state_dict(lively_model(SIZES).state_dict())
    network.save_pretrained(folder)


def play_spread(folder: Path) -> Found:
    """Play every memory on the processor ("here") and with every spread of the layers."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    here = RelicTransformer3DModel.from_pretrained(folder)
    rollouts = {(kind, "here"): _play(here, kind, device) for kind in MEMORIES}
    videos = {"here": _video(here, device)}
    first, second = name_devices()
    with pretended():
        for spread, places in SPREADS.items():
            around = places[0]
            device_map = {f"blocks.{layer}": place for layer, place in enumerate(places)}
            device_map |= dict.fromkeys(_AROUND, around) | dict.fromkeys(_OTHERS, str(first))
            network = RelicTransformer3DModel.from_pretrained(folder, device_map=device_map)
            rollouts |= {
                (kind, spread): _play(network, kind, first, kernels=kind == "fp8" and spread in BY_KERNELS)
                for kind in MEMORIES
            }
            videos[spread] = _video(network, first)
        try:
            torch.ones(2, device=first) + torch.ones(2, device=second)
            refusal = ""
        except RuntimeError as error:
            refusal = str(error)
    return Found(rollouts=rollouts, videos=videos, refusal=refusal)


@torch.no_grad()
def _play(network: RelicTransformer3DModel, kind: str, device: torch.device, *, kernels: bool = False) -> Played:
    torch.manual_seed(1)
    first = torch.randn(1, SIZES.in_channels, 1, SIZES.latent_height, SIZES.latent_width).to(device)
    guides = torch.rand(1, SIZES.guide_channels, FRAMES - 1, *first.shape[3:]).to(device)
    camera = random_camera(1, FRAMES, SIZES).to(device)
    text = network.encode_text(torch.randn(1, SIZES.text_tokens, SIZES.text_dim).to(device))

    memory = make_memory(MEMORIES[kind], SIZES)
    generator, screen = torch.Generator().manual_seed(2), _Views(guides)
    blocks, before = [], [memory.snapshot()]
    for block in rollout(network, memory, first, camera, text, SAMPLER, generator, screen):  # type: ignore[arg-type]
        blocks.append(block)
        before.append(memory.snapshot())
    memory.restore(before[-2])
    again = draw_block(network, memory, blocks[-1].draw, text, SAMPLER)
    by_kernels = None
    if kernels:
        memory.restore(before[-2])
        with relic_kernels.force("triton"):
            by_kernels = _numbers(draw_block(network, memory, blocks[-1].draw, text, SAMPLER))
    latents = torch.cat([block.latents for block in blocks], dim=2)
    return Played(
        latents=_numbers(latents),
        again=_numbers(again),
        by_kernels=by_kernels,
        devices=[_devices(memory, layer) for layer in range(SIZES.num_layers)],
        kept=[
            _numbers(kept[layer])
            for entry in memory.entries
            for kept in (entry.k, entry.v)
            for layer in range(SIZES.num_layers)
        ],
        nbytes=memory.nbytes,
        lies_on=str(latents.device),
    )


def _devices(memory: KVMemory, layer: int) -> set[str]:
    read = [tensor for part in memory.parts().parts(layer) if part is not None for tensor in part.tensors]
    kept = [stored[layer] for entry in memory.entries for stored in (entry.k, entry.v)]
    view = memory.view(0)
    assert view.k is not None
    assert view.v is not None
    return {str(tensor.device) for tensor in (*read, *kept, view.k[layer], view.v[layer])}


@torch.no_grad()
def _video(network: RelicTransformer3DModel, device: torch.device) -> np.ndarray:
    torch.manual_seed(3)
    noisy = torch.randn(1, SIZES.in_channels, 2, SIZES.latent_height, SIZES.latent_width).to(device)
    text = torch.randn(1, SIZES.text_tokens, SIZES.text_dim).to(device)
    camera = random_camera(1, 2, SIZES).to(device)
    return _numbers(network.bidirectional(noisy, torch.tensor([600]).to(device), text, camera).sample)


def _numbers(tensor: Tensor) -> np.ndarray:
    return (tensor.held if isinstance(tensor, TensorElsewhere) else tensor).numpy()
