"""What the last stage of training takes: distribution matching of whole videos by self-forcing (paper, section 4.4).

Taken as given: weights, gradients and optimisers are float32 and shared out over all GPUs by FSDP2; passes run in the
plan's precision; every layer keeps only its input for the backward pass and is computed again there; as many GPUs as
divide both the heads and the GPUs share a video's sequence, and the others draw videos of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from relic.config import RelicConfig
from relic.planning.assumptions import ASSUMED
from relic.planning.hardware import BYTES_OF, Device, Dtype
from relic.planning.memory_plan import TORCH_DTYPES, count_tokens, kv_bytes, network_of, tokens_of
from relic.planning.operations import count_pass, count_saved_of_layer
from relic.planning.parameters import count_parameters
from relic.planning.prediction import check_precision, passes_of_block, sent_bytes_of_pass

_BACKWARD = 2.0
"""Operations of a backward pass, in forward passes."""
_AGAIN = 1.0
"""The forward pass that a checkpointed backward pass repeats."""
_SCORES = 3
"""Passes over the video for its score map: the teacher with and without prompt, and the critic."""
_GATHERED_BLOCKS = 2
"""Transformer blocks whose whole weights a GPU holds: the one that runs and the one that is fetched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBytes:
    """Bytes that training holds between steps, all GPUs together.

    Attributes:
        weights: of the student.
        gradients: of the student.
        optimizer: its moments.
        average: exponential moving average of the student.
        critic: weights, gradients and moments.
        teacher: weights.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    critic: int = 0
    teacher: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.average + self.critic + self.teacher


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingNeed:
    """Bytes on each GPU.

    Attributes:
        state: its share of what is held between steps.
        gathered: whole weights of the blocks at work.
        video: what a checkpointed backward pass of the critic over a video keeps.
        replay: the same of one block of the student, with the memory it reads.
    """

    state: int
    gathered: int
    video: int
    replay: int

    @property
    def total(self) -> int:
        """The most at one moment: critic and student are never trained at once."""
        return self.state + self.gathered + max(self.video, self.replay)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepWork:
    """What a step takes in the mean over a cycle of the critic's updates and one of the student's, for one video.

    Attributes:
        flops: operations of drawing the video, scoring it, and learning from it.
        weight_bytes: that each GPU receives to have whole weights, and sends to share out gradients.
        sequence_bytes: that each GPU sends to the others that share its video.
    """

    flops: float
    weight_bytes: float
    sequence_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """The last stage of training on a machine.

    Attributes:
        config: the world.
        device: one GPU, or the processor.
        gpus: in all.
        sequence: of them that share a video.
        latent_frames: of a video.
        dtype: of passes.
        state: between steps, all GPUs together.
        need: bytes on each GPU.
        work: of a step.
        step_seconds: predicted: the larger of computing and moving weights, then the exchanges within a sequence.
    """

    config: RelicConfig
    device: Device
    gpus: int
    sequence: int
    latent_frames: int
    dtype: Dtype
    state: StateBytes
    need: TrainingNeed
    work: StepWork
    step_seconds: float

    @property
    def fits(self) -> bool:
        """Whether each GPU has the memory."""
        return self.need.total <= self.device.memory_bytes


def plan_training_step(
    config: RelicConfig,
    device: Device,
    state: StateBytes,
    *,
    critic_updates: int,
    gpus: int = 1,
    seconds: float = 20.0,
    dtype: Dtype = "bf16",
) -> TrainingPlan:
    """Plan the distillation of videos of `seconds`.

    Args:
        config: the world.
        device: one GPU, or the processor.
        state: what is held between steps.
        critic_updates: of the critic, for each of the student.
        gpus: any number.
        seconds: of a video.
        dtype: of passes.

    Raises:
        ValueError: for no GPU, several processors, a bad length or an unknown rate.
    """
    check_precision(device, gpus, dtype)
    sequence = math.gcd(config.model.num_heads, gpus)
    frames = whole_blocks(config, seconds)
    work = _step_work(config, frames, critic_updates, gpus=gpus, sequence=sequence, dtype=dtype)
    compute = work.flops / (sequence * device.flops[dtype] * ASSUMED.compute)
    link = device.link * ASSUMED.link if gpus > 1 else math.inf
    return TrainingPlan(
        config=config,
        device=device,
        gpus=gpus,
        sequence=sequence,
        latent_frames=frames,
        dtype=dtype,
        state=state,
        need=_need(config, state, frames, gpus=gpus, sequence=sequence, dtype=dtype),
        work=work,
        step_seconds=max(compute, work.weight_bytes / link) + work.sequence_bytes / link,
    )


def _need(
    config: RelicConfig, state: StateBytes, frames: int, *, gpus: int, sequence: int, dtype: Dtype
) -> TrainingNeed:
    model, network, size = config.model, network_of(config), BYTES_OF[dtype]
    block = config.sampler.block_frames
    memory = _memory_tokens(config, frames)[-1]
    gathered = 0
    if gpus > 1:
        gathered = _GATHERED_BLOCKS * size * count_parameters(network).total // model.num_layers

    def kept(count: int, read: int) -> int:
        inputs = model.num_layers * count * model.tokens_per_frame * model.dim * size
        return (inputs + count_saved_of_layer(network, count, read, TORCH_DTYPES[dtype])) // sequence

    return TrainingNeed(
        state=state.total // gpus,
        gathered=gathered,
        video=kept(frames, 0),
        replay=kept(block, memory) + 2 * kv_bytes(config, memory, dtype) // sequence,
    )


def _step_work(
    config: RelicConfig, frames: int, critic_updates: int, *, gpus: int, sequence: int, dtype: Dtype
) -> StepWork:
    network, block = network_of(config), config.sampler.block_frames
    passes, before = passes_of_block(config), _memory_tokens(config, frames)
    blocks, per_frame = len(before), config.model.tokens_per_frame
    block_pass = count_pass(network, block, round(sum(before) / blocks))
    video_pass = count_pass(network, frames)
    cycle = critic_updates + 1
    drawn = cycle + 1
    flops = (
        drawn * blocks * passes * block_pass
        + blocks * (_AGAIN + _BACKWARD) * block_pass
        + (critic_updates * (1 + _AGAIN + _BACKWARD) + _SCORES) * video_pass
    )
    weights = count_parameters(network).total * (gpus - 1) / gpus
    gathers = drawn * blocks * passes + blocks + 2 * critic_updates + _SCORES
    scatters = critic_updates + blocks
    block_sent, video_sent = (
        sent_bytes_of_pass(config, count * per_frame, sequence, dtype) for count in (block, frames)
    )
    sequence_bytes = (drawn * blocks * passes + blocks * (_AGAIN + 1)) * block_sent + (
        critic_updates * (1 + _AGAIN + 1) + _SCORES
    ) * video_sent
    return StepWork(
        flops=flops / cycle,
        weight_bytes=weights * (gathers * BYTES_OF[dtype] + scatters * BYTES_OF["fp32"]) / cycle,
        sequence_bytes=sequence_bytes / cycle,
    )


def _memory_tokens(config: RelicConfig, frames: int) -> list[int]:
    """Tokens that each block of a video reads; the start picture is there before the first."""
    return [tokens_of(config, begin).read for begin in range(1, frames, config.sampler.block_frames)]


def whole_blocks(config: RelicConfig, seconds: float) -> int:
    """Latent frames of a video of at least `seconds`: the start picture and whole blocks.

    Raises:
        ValueError: for a length that memory does not keep.
    """
    block = config.sampler.block_frames
    return 1 + -(-(count_tokens(config, seconds).latent_frames - 1) // block) * block
