"""Plans against counts by hand, the real memory and networks, and what others have published."""

import dataclasses
import math

import pytest
import torch

from relic.config import COMPRESSION_SCHEDULE, MemoryConfig, ModelConfig, RelicConfig, find_preset
from relic.memory.backends import make_memory
from relic.planning.advice import advice, in_fp8
from relic.planning.assumptions import ASSUMED
from relic.planning.counting import count_flops, count_held_bytes, count_operators, count_saved_bytes
from relic.planning.hardware import GPUS, Device, find_device, find_gpu_by_title, measured_flops
from relic.planning.memory_plan import count_tokens, kv_bytes, memory_need, stored_bytes, tokens_of
from relic.planning.operations import count_activations, count_control, count_pass, count_saved_of_layer
from relic.planning.parameters import count_parameters, text_encoder_size
from relic.planning.prediction import Plan, plan_world, sent_bytes_of_pass
from relic.planning.training import StateBytes, plan_training_step
from relic.planning.video import WAN_ENCODER_PARAMETERS, video_work

H100 = GPUS["h100"]
WAN = {"wan-1.3b": (1536, 30, 8960), "wan-14b": (5120, 40, 13824)}


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def with_memory(config: RelicConfig, **changes: object) -> RelicConfig:
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, **changes))


def with_steps(config: RelicConfig, steps: int) -> RelicConfig:
    return dataclasses.replace(config, sampler=dataclasses.replace(config.sampler, steps=steps))


@pytest.mark.parametrize(("name", "published"), [("wan-1.3b", 1.42e9), ("wan-14b", 14.29e9)])
def test_parameters_are_those_of_the_formula_and_of_wan(name: str, published: float) -> None:
    dim, layers, ffn = WAN[name]
    attention = 4 * linear(dim, dim) + 2 * dim
    layer = 2 * attention + 2 * dim + linear(dim, ffn) + linear(ffn, dim) + 6 * dim
    embedders = sum(linear(width, dim) + linear(dim, dim) for width in (256, 4096)) + linear(dim, 6 * dim)
    ends = linear(16 * 4, dim) + linear(dim, 16 * 4) + 2 * dim
    counts = count_parameters(find_preset(name))
    assert counts.backbone == layers * layer + embedders + ends
    assert counts.backbone == pytest.approx(published, rel=2e-3)
    after_input = linear(dim, dim) * (1 + layers)
    assert counts.action_encoder == linear(4 * 13, dim) + after_input
    assert counts.pose_encoder == linear(4 * (9 + 3 * 11), dim) + after_input
    assert counts.guide == 0
    assert counts.total == counts.backbone + counts.action_encoder + counts.pose_encoder


def test_text_encoders_are_as_large_as_their_files() -> None:
    from safetensors import safe_open
    from transformers import UMT5Config, UMT5EncoderModel

    from relic.text import find_minilm

    with safe_open(find_minilm() / "model.safetensors", framework="pt") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
        floats = sum(math.prod(one.get_shape()) for one in slices if one.get_dtype() == "F32")
    assert text_encoder_size(384).parameters == floats
    config = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    with torch.device("meta"):
        assert text_encoder_size(4096).parameters == UMT5EncoderModel(config).num_parameters()
    with pytest.raises(ValueError, match="no known text encoder has tokens 7 wide"):
        text_encoder_size(7)


def test_wans_encoder_is_the_librarys() -> None:
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        wan = AutoencoderKLWan()
    halves = (wan.encoder, wan.quant_conv)
    assert sum(p.numel() for half in halves for p in half.parameters()) == WAN_ENCODER_PARAMETERS


def test_twenty_seconds_are_120k_tokens_of_which_30k_are_kept() -> None:
    tokens = count_tokens(find_preset("wan-14b"), 20.0)
    assert (tokens.frame, tokens.block, tokens.latent_frames, tokens.full) == (1560, 4680, 81, 81 * 1560)
    old = [math.ceil(30 / s) * math.ceil(52 / s) for s in (COMPRESSION_SCHEDULE[i % 18] for i in range(75))]
    assert tokens.read == sum(old) + 6 * 1560
    assert tokens.full == pytest.approx(120e3, rel=0.06)
    assert tokens.read == pytest.approx(30e3, rel=0.02)


def test_tokens_and_bytes_of_mini_are_those_of_the_benchmark() -> None:
    """docs/results.md, "Time of a block", measured by `relic bench block`."""
    mini = find_preset("mini")
    measured = {"compressed": (1161, 23.8), "full": (4860, 99.5), "window": (240, 4.9)}
    for policy, (count, megabytes) in measured.items():
        tokens = count_tokens(with_memory(mini, policy=policy), 20.0)
        assert tokens.read == count
        assert kv_bytes(mini, tokens.read, "fp32") == pytest.approx(megabytes * 1e6, rel=5e-3)


@pytest.mark.parametrize("storage", ["float", "fp8"])
def test_stored_bytes_are_what_the_memory_says_it_holds(storage: str) -> None:
    model = ModelConfig(dim=32, num_layers=2, num_heads=2, ffn_dim=8)
    config = RelicConfig(model=model, memory=MemoryConfig(window=2, storage=storage))
    memory = make_memory(config.memory, model)
    for _ in range(7):
        kv = torch.randn(2, 1, 1, model.tokens_per_frame, 2, 16)
        memory.append(kv, kv)
    tokens = tokens_of(config, 7)
    assert tokens.read == memory.num_tokens
    assert stored_bytes(config, tokens.read, tokens.window, "fp32") == memory.nbytes


def test_fp8_halves_bfloat16_but_for_scales_and_window() -> None:
    config = in_fp8(find_preset("wan-14b"))
    pooled, window = 21_086, 9_360
    assert stored_bytes(config, pooled + window, window, "bf16") == 2 * 40 * (
        pooled * (5120 + 4 * 40) + window * 5120 * 2
    )


def pass_by_hand(model: ModelConfig, frames: int, memory: int) -> int:
    dim, tokens = model.dim, frames * model.tokens_per_frame
    products = 6 * dim**2 + 2 * dim * model.ffn_dim  # q k v out, q out of the prompt's, two of the feed-forward
    attended = tokens + memory + model.text_tokens
    layers = model.num_layers * (2 * tokens * products + 4 * tokens * attended * dim)
    return layers + 2 * tokens * 2 * dim * model.in_channels * 4 + frames * 2 * (model.freq_dim * dim + 7 * dim**2)


@pytest.mark.parametrize("name", ["mini", *WAN])
def test_a_pass_costs_what_its_matrices_cost(name: str) -> None:
    config = find_preset(name)
    assert count_pass(config, 3, 1000) == pass_by_hand(config.model, 3, 1000)


def test_control_of_frames_is_counted_once_a_block() -> None:
    dim, layers, _ = WAN["wan-14b"]
    by_hand = 3 * 2 * ((52 + 168) * dim + 2 * dim**2 + 2 * layers * dim**2)
    assert count_control(find_preset("wan-14b"), 3) == by_hand


def test_the_tiny_decoder_of_wan_costs_what_its_convolutions_cost() -> None:
    def block(width: int) -> int:
        return (2 * width + width + width) * width * 9

    cells = 60 * 104
    stages = (
        (16 * 256 * 9 + 3 * block(256)) * cells,
        (256 * 256 + 256 * 128 * 9 + 3 * block(128)) * 4 * cells,
        (128 * 2 * 128 + 2 * (128 * 64 * 9 + 3 * block(64))) * 16 * cells,
        (2 * 64 * 2 * 64 + 4 * (64 * 64 * 9 + 64 * 3 * 9)) * 64 * cells,
    )
    assert video_work(find_preset("wan-14b")).decode == 3 * 2 * sum(stages)


def test_bytes_sent_are_the_elements_that_change_hands() -> None:
    model = ModelConfig(dim=48, num_layers=3, num_heads=6, ffn_dim=8)
    config, tokens, gpus = RelicConfig(model=model), 12, 3
    moved = sum(
        token // (tokens // gpus) != head // (model.num_heads // gpus)
        for token in range(tokens)
        for head in range(model.num_heads)
    )
    all_sent = 4 * model.num_layers * moved * model.head_dim * 2
    assert gpus * sent_bytes_of_pass(config, tokens, gpus, "bf16") == all_sent
    assert sent_bytes_of_pass(config, tokens, 1, "bf16") == 0


def test_counting_follows_what_lives() -> None:
    given = torch.zeros(10, 10)

    def job() -> torch.Tensor:
        first = given + 1
        second = first @ given
        del first
        return (second + 1).view(100)

    assert count_held_bytes(job, [given]) == 2 * 400
    assert count_held_bytes(job, [given], lambda tensor: tensor.ndim == 2) == 0
    assert count_flops(job) == 2 * 10**3
    assert count_operators(job) == 3
    weight = torch.ones(10, 10, requires_grad=True)
    assert count_saved_bytes(lambda: (given + 1) @ weight, [weight]) == 400


def test_activations_are_those_of_the_widest_moment() -> None:
    config = find_preset("wan-14b")
    tokens, size = 4680, 2
    residual, hidden = tokens * 5120 * size, tokens * 13824 * size
    held = count_activations(config, 3, torch.bfloat16)
    assert 2 * residual + 2 * hidden <= held <= 4 * (2 * residual + 2 * hidden)
    assert count_activations(config, 6, torch.bfloat16) == pytest.approx(2 * held, rel=0.05)


def test_what_autograd_keeps_of_a_layer_grows_with_its_tokens() -> None:
    config = find_preset("wan-1.3b")
    one, two = (count_saved_of_layer(config, frames, 0, torch.bfloat16) for frames in (1, 2))
    assert one > 1560 * (12 * 1536 + 2 * 8960) * 2
    assert two == pytest.approx(2 * one, rel=0.1)


def test_the_share_of_the_matrix_rate_is_the_published_timing_of_wan() -> None:
    """Wan2.2 A14B, 81 frames of 1280x720, 40 steps with guidance, eight H100: 250.7 s / 1.57."""
    model = dataclasses.replace(find_preset("wan-14b").model, latent_height=90, latent_width=160)
    assert 2 * 40 * pass_by_hand(model, 21, 0) / (250.7 / 1.57) / 8 / 989e12 == pytest.approx(ASSUMED.compute, abs=0.01)


def published() -> list[tuple[str, Plan, float]]:
    """Who, what is predicted, and the frames a second that were published."""
    big, small = find_preset("wan-14b"), find_preset("wan-1.3b")
    lingbot = with_memory(big, policy="window", window=18)
    lingbot = dataclasses.replace(lingbot, model=dataclasses.replace(lingbot.model, latent_height=58))
    return [
        ("RELIC", plan_world(big, H100, gpus=4), 16.0),
        ("14B on one H100", plan_world(big, H100), 4.0),
        ("Self-Forcing, TAEHV", plan_world(with_memory(small, policy="full"), H100, seconds=2.5), 12 / 0.344),
        ("LingBot on four H100", plan_world(lingbot, H100, gpus=4), 12 / 0.629),
    ]


def test_predictions_are_within_half_of_published_figures() -> None:
    for who, plan, fps in published():
        assert fps / 1.5 < plan.speed.fps < fps * 1.5, who


def test_the_mini_world_is_predicted_within_half_of_its_measured_block() -> None:
    """docs/planning.md: 150 GFLOP/s on both cores, and 194 ms a block after 5 s, 2 steps, by PyTorch's operators."""
    rates: dict = {"flops": {"fp32": 150e9}, "bandwidth": 20e9, "link": 0.0}
    epyc = Device(name="cpu", title="two cores of an EPYC", memory_bytes=24e9, measured=True, **rates)
    speed = plan_world(with_steps(find_preset("mini"), 2), epyc, seconds=5.0, dtype="fp32").speed
    assert 0.194 / 1.5 < speed.block < 0.194 * 1.5
    assert speed.compute / 3 == pytest.approx(0.041, rel=0.5)


def test_time_is_the_sum_that_is_printed() -> None:
    plan = plan_world(find_preset("wan-14b"), H100, gpus=4)
    work, speed = plan.work, plan.speed
    assert (work.passes, work.denoising) == (5, 4)
    assert speed.compute == work.transformer_flops / (4 * 989e12 * 0.41)
    assert speed.communication == pytest.approx(5 * 40 * 4 * (4680 / 4) * 5120 * 2 * 0.75 / (450e9 * 0.82))
    assert speed.read == pytest.approx(5 * (plan.parameters.total * 2 + plan.kv_read / 4) / (3350e9 * 0.84))
    assert speed.start == work.transformer_operators * 10e-6
    assert speed.block == max(speed.compute, speed.read, speed.start) + speed.communication + speed.video
    assert speed.fps == 12 / speed.block
    shown = 0.8 * (speed.compute + speed.communication) + speed.video
    assert speed.latency == pytest.approx(shown + speed.block / 2)
    assert speed.worst_latency == pytest.approx(shown + speed.block)


def test_a_commit_without_a_pass_of_its_own_saves_one() -> None:
    config = find_preset("wan-1.3b")
    last = dataclasses.replace(config, sampler=dataclasses.replace(config.sampler, commit="last"))
    assert plan_world(last, H100).work.passes == plan_world(config, H100).work.passes - 1


def test_small_networks_are_bound_by_starting_operators() -> None:
    speed = plan_world(find_preset("mini"), H100).speed
    assert speed.start > 10 * max(speed.compute, speed.read)


def test_gpus_share_memory_by_head_and_keep_whole_weights() -> None:
    config = find_preset("wan-14b")
    tokens = count_tokens(config, 20.0)
    one, four = (memory_need(config, tokens, gpus=gpus, dtype="bf16", on_gpu=True) for gpus in (1, 4))
    assert one.transformer == four.transformer == 2 * count_parameters(config).total
    assert one.text_encoder == 2 * 5_680_910_336
    assert one.memory == 4 * four.memory == 2 * 40 * tokens.read * 5120 * 2
    assert one.read_buffer == one.memory
    assert one.total == sum(dataclasses.astuple(one))


@pytest.mark.parametrize("gpu", ["rtx4090", "h100"])
def test_advice_makes_it_fit(gpu: str) -> None:
    plan = plan_world(find_preset("wan-14b"), GPUS[gpu])
    assert not plan.fits
    lines = advice(plan)
    assert any("--preset wan-1.3b" in line for line in lines) == (gpu == "h100")
    assert ("share memory and work among more GPUs: --gpus 2" in lines) == (gpu == "h100")
    assert plan_world(find_preset("wan-14b"), H100, gpus=2).fits
    assert any("--gpu h200" in line for line in lines)
    assert plan_world(find_preset("wan-14b"), GPUS["h200"]).fits
    assert advice(plan_world(find_preset("wan-14b"), H100, gpus=4)) == []


def test_what_does_not_go_together_is_refused() -> None:
    config = find_preset("wan-14b")
    with pytest.raises(ValueError, match="3 GPUs do not divide the 40 heads of wan-14b: choose one of 1, 2, 4, 5"):
        plan_world(config, H100, gpus=3)
    with pytest.raises(ValueError, match="0 GPUs: give at least 1"):
        plan_world(config, H100, gpus=0)
    with pytest.raises(ValueError, match="unknown GPU 'h900': choose one of a100, h100"):
        find_device("h900")
    with pytest.raises(ValueError, match="not measured in 'fp8'"):
        measured_flops(dtype="fp8")
    for seconds in (0.0, -1.0, math.nan, 121.0):
        with pytest.raises(ValueError, match=r"must be positive and at most 119\.75"):
            plan_world(config, H100, seconds=seconds)
    cpu = dataclasses.replace(H100, title="a processor", link=0.0)
    with pytest.raises(ValueError, match="a processor is alone: choose 1 instead of 2"):
        plan_world(config, cpu, gpus=2)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 PCIe", None),
        ("Tesla T4", None),
    ],
)
def test_gpus_are_known_by_the_drivers_name(title: str, name: str | None) -> None:
    found = find_gpu_by_title(title)
    assert (None if found is None else found.name) == name


def test_this_processor_is_measured() -> None:
    device = find_device("cpu", "fp32")
    assert device.measured
    assert 1e8 < device.flops["fp32"] < 1e14
    assert 1e8 < device.bandwidth < 1e13


def test_a_step_of_distillation_is_counted_by_hand() -> None:
    config = find_preset("wan-1.3b")
    state = StateBytes(weights=8, gradients=8, optimizer=16, average=8, critic=32, teacher=8)
    plan = plan_training_step(config, H100, state, critic_updates=4, gpus=8, seconds=5.0)
    assert (plan.latent_frames, plan.sequence) == (22, 4)
    reads = [tokens_of(config, begin).read for begin in range(1, 22, 3)]
    block_passes = sum(pass_by_hand(config.model, 3, read) for read in reads)
    by_hand = ((6 * 5 + 3) * block_passes + (4 * 4 + 3) * pass_by_hand(config.model, 22, 0)) / 5
    assert plan.work.flops == pytest.approx(by_hand, rel=1e-3)
    assert plan.need.state == 80 // 8
    assert plan.need.total == 10 + plan.need.gathered + max(plan.need.video, plan.need.replay)
    assert plan.need.video > 30 * 22 * 1560 * 1536 * 2 / 4
    gathers, scatters = 6 * 7 * 5 + 7 + 2 * 4 + 3, 4 + 7
    weights = count_parameters(config).total * 7 / 8
    assert plan.work.weight_bytes == pytest.approx(weights * (2 * gathers + 4 * scatters) / 5)
    assert plan.step_seconds >= plan.work.flops / (4 * 989e12 * 0.41)
