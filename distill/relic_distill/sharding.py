"""Networks shared out over the processes: parameters (FSDP2), or the sequence that they read (Ulysses).

With FSDP2 each process keeps a share of every parameter, gradient and optimiser state.

`torch.distributed.fsdp.fully_shard` is used directly: accelerate's wrapper prepares one network with one optimiser, and
distillation trains two networks with four. The world's network is entered by three doors (`encode_text`,
`encode_control`, `forward`), and each must gather the parameters behind it. Checkpoints hold whole tensors, so a run
may go on with another number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from relic.model.control import Control, EmbeddedGuide
from relic.model.transformer import RelicBlock, RelicTransformer
from relic.parallel.sequence import SequenceParallel
from relic_distill.ema import Ema
from relic_distill.shares import like
from relic_distill.workers import Workers

for _kind in (EmbeddedGuide, Control):
    pytree.register_dataclass(_kind)  # fully_shard looks for tensors in what a network returns


def process_mesh(device: torch.device, count: int) -> DeviceMesh:
    """All processes in a row.

    Raises:
        ValueError: for a single process.
    """
    if count < 2:
        raise ValueError(
            f"shard shares a network out over several processes, this is {count}: start it with "
            "`accelerate launch --num_processes N -m relic_app ...`, or leave --shard out"
        )
    return init_device_mesh(device.type, (count,))


def share_out(
    networks: Iterable[nn.Module],
    optimizers: Iterable[Optimizer],
    averages: Iterable[Ema],
    workers: Workers,
    *,
    shard: bool,
) -> None:
    """Share parameters (where `shard`) and sequences (where processes compute together), in place.

    Raises:
        ValueError: see `process_mesh` and `share_sequences`.
    """
    networks = list(networks)
    if shard:
        shard_networks(networks, optimizers, averages, process_mesh(workers.device, workers.count))
    if workers.together > 1:
        share_sequences(networks, workers.neighbours())


def shard_networks(
    networks: Iterable[nn.Module], optimizers: Iterable[Optimizer], averages: Iterable[Ema], mesh: DeviceMesh
) -> None:
    """Share out every world's network in place, with the optimisers that move it and its averages.

    Other networks are small, and stay whole in each process.

    Args:
        networks: trained and frozen ones.
        optimizers: without state yet; they get the sharded parameters in the whole ones' places.
        averages: of some of the networks.
        mesh: from `process_mesh`.
    """
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for network in networks:
        if isinstance(network, RelicTransformer):
            before = dict(network.named_parameters())
            _shard(network, mesh)
            replaced |= {before[name]: parameter for name, parameter in network.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [replaced.get(parameter, parameter) for parameter in group["params"]]
    for ema in averages:
        parameters = dict(ema.module.named_parameters())
        ema.average = {name: like(parameters[name], value) for name, value in ema.average.items()}


def share_sequences(networks: Iterable[nn.Module], group: ProcessGroup) -> None:
    """Let the processes of a group compute every world's network together, see `relic.parallel.sequence`.

    Raises:
        ValueError: when there is none among the networks, or the processes do not divide its heads.
    """
    worlds = [network for network in networks if isinstance(network, RelicTransformer)]
    if not worlds:
        raise ValueError(
            "sequence_parallel shares the sequence of a world's network, and none is trained here: leave it 1"
        )
    for network in worlds:
        network.parallel = SequenceParallel(group, network.config)


def _shard(network: RelicTransformer, mesh: DeviceMesh) -> None:
    for block in network.blocks:
        reader = cast(RelicBlock, block).attn2
        fully_shard(reader, mesh=mesh, reshard_after_forward=True)
        register_fsdp_forward_method(reader, "keys_values")
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    for door in ("encode_text", "encode_control"):
        register_fsdp_forward_method(network, door)
