"""What replayed back-propagation costs: memory and time beside one graph over the whole rollout.

Each measurement runs in a process of its own, so that one's memory does not hide another's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from relic.config import SamplerConfig, mini
from relic.model.conditioning import CameraConditioning
from relic.model.transformer import RelicTransformer
from relic.world import world_intrinsics
from relic_distill.causal_loss import ClipBatch
from relic_distill.self_forcing import redraw, replay, roll_out

Kind = Literal["replay", "plain"]
KINDS: tuple[Kind, ...] = ("replay", "plain")
_SAMPLER = SamplerConfig(kind="renoise", steps=4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One way at one length.

    Attributes:
        kind: `replay`, or `plain`: one graph over the whole rollout, memory detached between blocks.
        frames: latent frames of the rollout.
        peak_mb: by which the process's peak memory grew over what it held after the rollout, MB.
        seconds: forward and backward passes, median of the repeats.
    """

    kind: Kind
    frames: int
    peak_mb: float
    seconds: float


def measure(kind: Kind, frames: int, repeats: int = 1) -> Measured:
    """Roll the mini network out with random weights, exit at its last pass, and propagate random gradients back."""
    torch.manual_seed(0)
    world = mini()
    model = RelicTransformer(world.model, world_intrinsics(world))
    batch = _random_batch(frames)
    drawn = roll_out(
        model, batch, world.memory, _SAMPLER, torch.Generator().manual_seed(0), exit_step=_SAMPLER.steps - 1
    )
    gradients = torch.randn_like(drawn.latents[:, :, 1:])
    before, seconds = _peak_mb(), []
    for _ in range(repeats):
        started = time.perf_counter()
        if kind == "replay":
            replay(model, drawn, gradients, world.memory, _SAMPLER)
        else:
            torch.cat(list(redraw(model, drawn, world.memory, _SAMPLER)), dim=2).backward(gradients)
        seconds.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    return Measured(kind=kind, frames=frames, peak_mb=_peak_mb() - before, seconds=statistics.median(seconds))


def measure_apart(frames: Sequence[int], repeats: int = 1) -> list[Measured]:
    """`measure` of both kinds at each length, each in its own process."""
    found = []
    for length in frames:
        for kind in KINDS:
            command = [sys.executable, "-m", __name__, "--kind", kind, "--frames", str(length)]
            command += ["--repeats", str(repeats)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found.append(Measured(**json.loads(told.splitlines()[-1])))
    return found


def _random_batch(frames: int) -> ClipBatch:
    config = mini().model
    pixel = config.frames_per_latent
    camera = CameraConditioning(
        actions=torch.rand(1, frames, pixel, config.num_actions) * 0.05,
        rotations_w2c=torch.linalg.qr(torch.randn(1, frames, pixel, 3, 3)).Q,
        positions=torch.randn(1, frames, pixel, 3),
    )
    latents = torch.randn(1, config.in_channels, frames, config.latent_height, config.latent_width)
    return ClipBatch(latents=latents, camera=camera, text=torch.randn(1, config.text_tokens, config.text_dim))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """One measurement, printed as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    sys.stdout.write(json.dumps(asdict(measure(given.kind, given.frames, given.repeats))) + "\n")


if __name__ == "__main__":
    main()
