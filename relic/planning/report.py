"""Plans in words and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from relic.planning.advice import advice
from relic.planning.assumptions import ASSUMED
from relic.planning.memory_plan import network_of
from relic.planning.parameters import count_parameters, text_encoder_size
from relic.planning.prediction import Plan
from relic.planning.training import TrainingPlan


def plan_lines(plan: Plan) -> list[str]:
    """A plan in words."""
    return [*_size_lines(plan), *_work_lines(plan), *_speed_lines(plan), "Assumed", *_indented(ASSUMED.lines())]


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON-able values: bytes, operations, seconds."""
    return {
        "preset": plan.config.preset,
        "device": plan.device.name,
        "device_memory_bytes": plan.device.memory_bytes,
        "flops_per_second": plan.device.flops[plan.dtype],
        "gpus": plan.gpus,
        "seconds": plan.seconds,
        "dtype": plan.dtype,
        "kv_storage": plan.config.memory.storage,
        "parameters": {
            **dataclasses.asdict(plan.parameters),
            "control": plan.parameters.control,
            "total": plan.parameters.total,
        },
        "tokens": dataclasses.asdict(plan.tokens),
        "kv_bytes": {"full": plan.kv_full, "read": plan.kv_read},
        "bytes_per_gpu": {**dataclasses.asdict(plan.need), "total": plan.need.total},
        "block": dataclasses.asdict(plan.work),
        "speed": dataclasses.asdict(plan.speed),
        "fits": plan.fits,
        "advice": advice(plan),
        "assumptions": dataclasses.asdict(ASSUMED),
    }


def training_lines(plan: TrainingPlan) -> list[str]:
    """A plan of training in words."""
    state, need, groups = plan.state, plan.need, plan.gpus // plan.sequence
    total = count_parameters(network_of(plan.config)).total
    room = plan.device.memory_bytes
    return [
        f"distilling {plan.config.preset} on {plan.gpus} x {plan.device.title}, videos of {plan.latent_frames} latent "
        f"frames, passes in {plan.dtype}",
        f"  {_count(total)} parameters; {plan.sequence} share a video, {groups} {'video' if groups == 1 else 'videos'} "
        "a step",
        "Held between steps, all together",
        f"  {_size(state.weights)} weights, {_size(state.gradients)} gradients, {_size(state.optimizer)} optimiser, "
        f"{_size(state.average)} average, {_size(state.critic)} critic with its own, {_size(state.teacher)} teacher",
        "Memory of each",
        f"  {_size(need.state):>9}  its share of that",
        f"  {_size(need.gathered):>9}  whole weights of the blocks at work",
        f"  {_size(need.video):>9}  kept of a video for the critic's backward pass, or",
        f"  {_size(need.replay):>9}  kept of a block for the student's, with its memory",
        f"  {_size(need.total):>9}  of {_size(room)}: {'fits' if plan.fits else 'DOES NOT FIT: take more GPUs'}",
        "A step, in the mean",
        f"  {plan.work.flops / 1e15:.4g} PFLOP for one video; {_size(plan.work.weight_bytes)} of weights and gradients "
        f"and {_size(plan.work.sequence_bytes)} of sequence moved by each",
        f"  {_time(plan.step_seconds)} = max(computing, moving weights) + moving sequence, within one node",
        "Assumed",
        *_indented(
            [
                "float32 state shared out by FSDP2, layers recomputed in the backward pass, sequences shared (Ulysses)",
                *ASSUMED.lines()[:1],
            ]
        ),
    ]


def training_json(plan: TrainingPlan) -> dict[str, Any]:
    """A plan of training as JSON-able values: bytes, operations, seconds."""
    return {
        "preset": plan.config.preset,
        "device": plan.device.name,
        "device_memory_bytes": plan.device.memory_bytes,
        "gpus": plan.gpus,
        "sequence": plan.sequence,
        "latent_frames": plan.latent_frames,
        "dtype": plan.dtype,
        "state_bytes": {**dataclasses.asdict(plan.state), "total": plan.state.total},
        "bytes_per_gpu": {**dataclasses.asdict(plan.need), "total": plan.need.total},
        "step": dataclasses.asdict(plan.work),
        "step_seconds": plan.step_seconds,
        "fits": plan.fits,
        "assumptions": dataclasses.asdict(ASSUMED),
    }


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _size_lines(plan: Plan) -> list[str]:
    parameters, tokens, need = plan.parameters, plan.tokens, plan.need
    where = plan.device.title if plan.gpus == 1 else f"{plan.gpus} x {plan.device.title}"
    guide = f", guide {_count(parameters.guide)}" if parameters.guide else ""
    rows = [
        ("transformer", need.transformer),
        (f"text encoder ({text_encoder_size(plan.config.model.text_dim).name})", need.text_encoder),
        ("video auto-encoder and decoding", need.video),
        (f"memory, stored {_storage(plan)}", need.memory),
        ("memory, laid out for reading", need.read_buffer),
        ("activations and the prompt's keys and values", need.activations),
    ]
    room = plan.device.memory_bytes
    return [
        f"{plan.config.preset} on {where}, {plan.dtype}, after {plan.seconds:g} s",
        f"  {_count(parameters.total)} parameters: {_count(parameters.backbone)} as in Wan, action encoder "
        f"{_count(parameters.action_encoder)}, pose encoder {_count(parameters.pose_encoder)}{guide}",
        f"  {plan.config.height}x{plan.config.width} pixels: {tokens.frame} tokens a latent frame, {tokens.block} a "
        f"block of {plan.config.sampler.block_frames}",
        f"  history: {tokens.latent_frames} latent frames, {tokens.full} tokens; memory ({plan.config.memory.policy}) "
        f"holds {tokens.read}, {tokens.full / tokens.read:.1f} times fewer",
        f"  keys and values {_storage(plan)}: {_size(plan.kv_full)} full, {_size(plan.kv_read)} as held",
        "Memory" if plan.gpus == 1 else "Memory of each GPU",
        *(f"  {_size(size):>9}  {name}" for name, size in rows),
        f"  {_size(need.total):>9}  of {_size(room)}: {'fits' if plan.fits else 'DOES NOT FIT'}",
        *(f"  -> {line}" for line in advice(plan)),
    ]


def _work_lines(plan: Plan) -> list[str]:
    work = plan.work
    commit = "and a commit pass" if work.passes > work.denoising else "and no commit pass"
    return [
        "A block",
        f"  {work.passes} passes: {work.denoising} steps {commit}",
        f"  {work.transformer_flops / 1e12:.4g} TFLOP in the transformer, {work.video_flops / 1e12:.3g} in the video "
        "networks",
        f"  {_size(work.read_bytes)} of weights and memory read by each device; {_size(work.sent_bytes)} sent by each "
        "(4 layers tokens/N dim bytes (N-1)/N a pass: q, k, v and the output, all to all)",
    ]


def _speed_lines(plan: Plan) -> list[str]:
    speed, device = plan.speed, plan.device
    rate = device.flops[plan.dtype]
    source = "measured here, other load included" if device.measured else "data sheet"
    live = "real time" if speed.fps >= plan.config.fps else f"{speed.fps / plan.config.fps:.2g} of real time"
    return [
        "Predicted",
        f"  {device.title}: {rate / 1e12:.4g} TFLOP/s in {plan.dtype}, {device.bandwidth / 1e9:.4g} GB/s, link "
        f"{device.link / 1e9:.4g} GB/s ({source})",
        f"  {_time(speed.block)} a block = max(computing {_time(speed.compute)}, reading {_time(speed.read)}, "
        f"starting operators {_time(speed.start)}) + communication {_time(speed.communication)} "
        f"+ video {_time(speed.video)}",
        f"  {speed.fps:.3g} frames/s at this history ({live}; {plan.config.fps} wanted)",
        f"  key to picture {_time(speed.latency)} in the mean, {_time(speed.worst_latency)} at worst, without display",
    ]


def _storage(plan: Plan) -> str:
    return f"in {plan.dtype}" if plan.config.memory.storage == "float" else f"in fp8, the window in {plan.dtype}"


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _size(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
