"""Two blocks on two devices that do not exist.

torch knows the place of every tensor, refuses to mix them, and computes nothing. It needs a process of its own, because
a process can pretend only once.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from relic.memory.backends import make_memory
from relic.rollout import BlockDraw, commit_block, draw_block
from relic.wan_world import load_wan_world
from relic.world import World
from tests.tiny_networks import random_camera


@dataclass(frozen=True, kw_only=True)
class Places:
    first_latent: str
    blocks: list[str]
    decoder_state: set[str]
    pixels: set[str]
    refusal: str


def move(module: nn.Module, mode: FakeTensorMode, device: str) -> None:
    """In place, as `Module.to` does; it cannot make fake parameters of real ones."""
    for owner in module.modules():
        for tensors in (owner._parameters, owner._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = mode.from_tensor(tensor.detach()).to(device)


def places_of_two_blocks(checkpoint: Path, control: Path, decoders: list[Path | None]) -> list[Places]:
    """Play two blocks with the network on one device and the auto-encoder on another, with each decoder."""
    worlds = [load_wan_world(checkpoint, control=control, tiny_decoder=decoder) for decoder in decoders]
    torch.set_num_threads(2)  # pretending is done in one thread only: no block is shown by a second one
    _setup_privateuseone_for_python_backend("pretended")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        return [_places(world, mode) for world in worlds]


def _places(world: World, mode: FakeTensorMode) -> Places:
    move(world.model, mode, "pretended:0")
    move(world.vae, mode, "pretended:1")
    model, config, screen = world.model, world.config, world.screen()
    size, text_shape = config.sampler.block_frames, (1, config.model.text_tokens, config.model.text_dim)
    text = model.encode_text(torch.zeros(text_shape).to(world.device))
    memory = make_memory(config.memory, config.model)
    first = world.vae.encode(torch.zeros(1, 3, 1, config.height, config.width))
    camera = random_camera(1, 1 + size, config.model).to(world.device)
    commit_block(model, memory, model.encode_control(camera[:1]), text, first.to(world.device))
    screen.show(first.to(world.device), camera[:1])
    noise = torch.randn(1, config.model.in_channels, size, *first.shape[3:]).to(world.device)
    pixels: list[Tensor] = []
    latents = [
        draw_block(
            model,
            memory,
            BlockDraw(camera=camera[1:], guide=screen.guide(camera[1:]), noise=noise, seed=seed),
            text,
            config.sampler,
            lambda block: pixels.append(screen.show(block, camera[1:])),
        )
        for seed in (1, 2)
    ]
    return Places(
        first_latent=str(first.device),
        blocks=[str(block.device) for block in latents],
        decoder_state={str(kept.device) for kept in screen.state.decoder.past if kept is not None},
        pixels={str(shown.device) for shown in pixels},
        refusal=refusal_to_mix(latents[0], first),
    )


def refusal_to_mix(one: Tensor, other: Tensor) -> str:
    """What torch says when two devices meet: the proof that it would have noticed."""
    try:
        one[:, :, :1] + other
    except RuntimeError as error:
        return str(error)
    return ""
