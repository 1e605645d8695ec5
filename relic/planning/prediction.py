"""How fast a world will be played, and whether it fits: operations and bytes over what a device is taken to reach.

A block's time is the largest of computing, reading and starting operators, plus communication, plus decoding. Nothing
is fitted to a case: see `relic.planning.assumptions`, and docs/planning.md for what published figures say.
"""

from __future__ import annotations

from dataclasses import dataclass

from relic.config import RelicConfig
from relic.planning.assumptions import ASSUMED
from relic.planning.hardware import BYTES_OF, Device, Dtype
from relic.planning.memory_plan import MemoryNeed, TokenCounts, count_tokens, memory_need, network_of, stored_bytes
from relic.planning.operations import count_control, count_operators_of_pass, count_pass
from relic.planning.parameters import ParameterCounts, count_parameters
from relic.planning.video import video_work


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockWork:
    """What one block takes, all GPUs together unless said.

    Attributes:
        passes: of the transformer: the denoising steps, and the commit pass where it is one of its own.
        denoising: passes of them that a player waits for.
        transformer_flops: operations of all passes and of the control encoders.
        video_flops: operations of decoding the block, and of what guides it.
        transformer_operators: that its passes start one after the other.
        video_operators: the same of the video networks.
        read_bytes: of weights and memory that each GPU reads in all passes.
        sent_bytes: that each GPU sends in all passes.
    """

    passes: int
    denoising: int
    transformer_flops: float
    video_flops: float
    transformer_operators: float
    video_operators: float
    read_bytes: float
    sent_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Predicted times, in seconds.

    Attributes:
        compute: of the transformer's operations.
        read: of the bytes it reads.
        start: of starting its operators.
        communication: between GPUs.
        video: decoding, and what guides the block.
        block: a whole block.
        fps: frames a second.
        latency: from key to picture in the mean: half a block's period, then denoising and decoding.
        worst_latency: the same for a key just after a block was begun.
    """

    compute: float
    read: float
    start: float
    communication: float
    video: float
    block: float
    fps: float
    latency: float
    worst_latency: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that is known of a world on a machine before it is loaded.

    Attributes:
        config: the world.
        device: one GPU, or the processor.
        gpus: that share a block.
        seconds: of history at which memory and speed are told.
        dtype: of weights and activations.
        parameters: of the transformer.
        tokens: of the history.
        kv_full: bytes of the whole history's keys and values as memory stores them, nothing pooled.
        kv_read: bytes of the keys and values that memory stores, all GPUs together.
        need: bytes on each GPU.
        work: of a block.
        speed: predicted.
    """

    config: RelicConfig
    device: Device
    gpus: int
    seconds: float
    dtype: Dtype
    parameters: ParameterCounts
    tokens: TokenCounts
    kv_full: int
    kv_read: int
    need: MemoryNeed
    work: BlockWork
    speed: Speed

    @property
    def fits(self) -> bool:
        """Whether each GPU has the memory."""
        return self.need.total <= self.device.memory_bytes


def plan_world(
    config: RelicConfig,
    device: Device,
    *,
    gpus: int = 1,
    seconds: float = 20.0,
    dtype: Dtype = "bf16",
) -> Plan:
    """Plan a world on a machine.

    Args:
        config: the world.
        device: one GPU, or the processor.
        gpus: that share a block by sequence parallelism.
        seconds: of history.
        dtype: of weights and activations, fp32 or bf16.

    Raises:
        ValueError: for a number of GPUs that does not divide the heads, several processors, or a bad length.
    """
    check_sharing(config, device, gpus, dtype)
    tokens = count_tokens(config, seconds)
    work = _block_work(config, tokens, gpus=gpus, dtype=dtype)
    return Plan(
        config=config,
        device=device,
        gpus=gpus,
        seconds=seconds,
        dtype=dtype,
        parameters=count_parameters(network_of(config)),
        tokens=tokens,
        kv_full=stored_bytes(config, tokens.full, tokens.window, dtype),
        kv_read=stored_bytes(config, tokens.read, tokens.window, dtype),
        need=memory_need(config, tokens, gpus=gpus, dtype=dtype, on_gpu=not device.measured),
        work=work,
        speed=_speed(config, device, work, gpus=gpus, dtype=dtype),
    )


def check_sharing(config: RelicConfig, device: Device, gpus: int, dtype: Dtype) -> None:
    """Refuse GPUs that cannot share a block.

    Raises:
        ValueError: for a number that does not divide the heads, several processors, or an unknown rate.
    """
    heads = config.model.num_heads
    check_precision(device, gpus, dtype)
    if heads % gpus:
        possible = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        raise ValueError(f"{gpus} GPUs do not divide the {heads} heads of {config.preset}: choose one of {possible}")


def check_precision(device: Device, gpus: int, dtype: Dtype) -> None:
    """Refuse what a device cannot do.

    Raises:
        ValueError: for no device, several processors, or a precision whose rate is not known.
    """
    if gpus < 1:
        raise ValueError(f"{gpus} GPUs: give at least 1")
    if gpus > 1 and not device.link:
        raise ValueError(f"{device.title} is alone: choose 1 instead of {gpus}")
    if dtype not in device.flops:
        raise ValueError(f"no matrix rate of {device.title} in {dtype}: choose one of {', '.join(device.flops)}")


def passes_of_block(config: RelicConfig) -> int:
    """Passes of the transformer for a block: the denoising steps, and the commit pass where it is one of its own."""
    return config.sampler.steps + (1 if config.sampler.commit == "clean" else 0)


def _block_work(config: RelicConfig, tokens: TokenCounts, *, gpus: int, dtype: Dtype) -> BlockWork:
    sampler, network = config.sampler, network_of(config)
    passes = passes_of_block(config)
    one_pass = count_pass(network, sampler.block_frames, tokens.read)
    weights = count_parameters(network).total * BYTES_OF[dtype]
    memory = stored_bytes(config, tokens.read, tokens.window, dtype)
    video = video_work(network)
    return BlockWork(
        passes=passes,
        denoising=sampler.steps,
        transformer_flops=passes * one_pass + count_control(network, sampler.block_frames),
        video_flops=video.decode + video.guide,
        transformer_operators=passes * count_operators_of_pass(network, sampler.block_frames),
        video_operators=video.operators,
        read_bytes=passes * (weights + memory / gpus),
        sent_bytes=passes * sent_bytes_of_pass(config, tokens.block, gpus, dtype),
    )


def sent_bytes_of_pass(config: RelicConfig, tokens: int, gpus: int, dtype: Dtype) -> float:
    """Bytes that each GPU sends in a pass of Ulysses' sequence parallelism.

    In every layer queries, keys and values go from shards of the sequence to shards of the heads, and the output comes
    back: four all-to-all exchanges. Of its `tokens / gpus` rows each GPU keeps one in `gpus`:
    `4 layers (tokens / gpus) dim bytes (gpus - 1) / gpus`.
    """
    model = config.model
    return 4 * model.num_layers * (tokens / gpus) * model.dim * BYTES_OF[dtype] * (gpus - 1) / gpus


def _speed(config: RelicConfig, device: Device, work: BlockWork, *, gpus: int, dtype: Dtype) -> Speed:
    rate = device.flops[dtype]
    compute = work.transformer_flops / (gpus * rate * ASSUMED.compute)
    read = work.read_bytes / (device.bandwidth * ASSUMED.bandwidth)
    communication = work.sent_bytes / (device.link * ASSUMED.link) if gpus > 1 else 0.0
    share = ASSUMED.compute if device.measured else ASSUMED.decode
    start = work.transformer_operators * ASSUMED.operator
    decode = work.video_flops / (max(device.flops.values()) * share)
    video = max(decode, work.video_operators * ASSUMED.operator)
    transformer = max(compute, read, start) + communication
    block = transformer + video
    frames = config.sampler.block_frames * config.model.frames_per_latent
    seen = transformer * work.denoising / work.passes + video
    period = max(block, frames / config.fps)
    return Speed(
        compute=compute,
        read=read,
        start=start,
        communication=communication,
        video=video,
        block=block,
        fps=frames / block,
        latency=period / 2 + seen,
        worst_latency=period + seen,
    )
