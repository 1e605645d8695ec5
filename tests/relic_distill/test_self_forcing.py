import gc
import weakref

import pytest
import torch
from torch import Tensor

from relic.config import MemoryConfig, SamplerConfig, SamplerKind
from relic.model.transformer import RelicTransformer
from relic_distill.causal_loss import ClipBatch
from relic_distill.self_forcing import SelfRollout, redraw, replay, roll_out
from tests.tiny_networks import TINY, lively_model, random_camera

MEMORY = MemoryConfig(window=2, schedule=(1, 4, 2), max_frames=50, max_age=50)


def some_batch(frames: int, batch: int = 2, dtype: torch.dtype = torch.float64) -> ClipBatch:
    return ClipBatch(
        latents=torch.randn(batch, 4, frames, 6, 10, dtype=dtype),
        camera=random_camera(batch, frames),
        text=torch.randn(batch, 3, 8, dtype=dtype),
    )


def gradients_of(model: RelicTransformer) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


class FixedGuide:
    """Guides that depend on what was shown, as a screen's do."""

    def __init__(self) -> None:
        self.shown = torch.zeros(1)

    def guide(self, camera: object) -> Tensor:
        return self.shown.repeat(1, 3, 1, 1, 1).expand(-1, -1, self.frames, -1, -1).tanh()

    def show(self, latents: Tensor, camera: object) -> None:
        self.shown, self.frames = latents.mean(dim=2, keepdim=True), 1


@pytest.mark.parametrize("kind", ["euler", "renoise"])
@pytest.mark.parametrize("exit_step", [None, 0, 1])
def test_replayed_gradients_are_those_of_one_graph(kind: SamplerKind, exit_step: int | None) -> None:
    model = lively_model().double()
    sampler = SamplerConfig(kind=kind, steps=2)
    batch = some_batch(9)
    generator = torch.Generator().manual_seed(3)
    drawn = roll_out(model, batch, MEMORY, sampler, generator, FixedGuide(), exit_step)  # type: ignore[arg-type]
    assert drawn.guide is not None
    assert drawn.guide.shape == (2, 12, 8, 6, 10)
    gradients = torch.randn(2, 4, 8, 6, 10).double()

    latents = torch.cat(list(redraw(model, drawn, MEMORY, sampler)), dim=2)
    torch.testing.assert_close(latents, drawn.latents[:, :, 1:], rtol=0, atol=1e-10)
    latents.backward(gradients)
    plain = gradients_of(model)
    replay(model, drawn, gradients, MEMORY, sampler)
    replayed = gradients_of(model)

    assert replayed.keys() == plain.keys()
    assert {
        "blocks.0.attn1.to_q.weight",
        "blocks.1.ffn.net.2.bias",
        "guide_embedding.weight",
        "guide_skip.weight",
    } <= plain.keys()
    for name, gradient in plain.items():
        assert (replayed[name] - gradient).norm() <= 1e-10 * gradient.norm(), name
        assert gradient.norm() > 0 or name.endswith("to_k.bias"), name


def test_only_the_exit_pass_carries_gradients() -> None:
    model = lively_model().double()
    batch = some_batch(3)
    sampler = SamplerConfig(steps=2)
    ones = torch.ones(2, 4, 2, 6, 10).double()
    found = []
    for exit_step in (None, 1):
        drawn = roll_out(model, batch, MEMORY, sampler, torch.Generator().manual_seed(0), exit_step=exit_step)
        replay(model, drawn, ones, MEMORY, sampler)
        found.append((drawn.latents, gradients_of(model)["proj_out.weight"]))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


def peak_saved_bytes(model: RelicTransformer, drawn: SelfRollout, sampler: SamplerConfig, replayed: bool) -> int:
    live, peak = 0, 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal live, peak
            self.tensor = tensor
            live += tensor.nbytes
            peak = max(peak, live)
            weakref.finalize(self, let_go, tensor.nbytes)

    def let_go(count: int) -> None:
        nonlocal live
        live -= count

    gradients = torch.ones_like(drawn.latents[:, :, 1:])
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        if replayed:
            replay(model, drawn, gradients, MEMORY, sampler)
        else:
            torch.cat(list(redraw(model, drawn, MEMORY, sampler)), dim=2).backward(gradients)
    gc.collect()
    assert live == 0
    return peak


def test_the_memory_of_a_replay_hardly_grows_with_its_length() -> None:
    model = lively_model(TINY)
    sampler = SamplerConfig(steps=1)
    peaks: dict[bool, list[int]] = {True: [], False: []}
    for frames in (9, 33):
        batch = some_batch(frames, batch=1, dtype=torch.float32)
        drawn = roll_out(model, batch, MEMORY, sampler, torch.Generator().manual_seed(0))
        for replayed in (True, False):
            peaks[replayed].append(peak_saved_bytes(model, drawn, sampler, replayed))
    assert peaks[True][1] < 1.5 * peaks[True][0]  # the memory that a block reads is longer
    assert peaks[False][1] > 3.5 * peaks[False][0]
    assert peaks[True][1] < 0.1 * peaks[False][1]


def test_gradients_of_another_length_are_refused() -> None:
    model = lively_model(TINY)
    batch = some_batch(4, batch=1, dtype=torch.float32)
    drawn = roll_out(model, batch, MEMORY, SamplerConfig(steps=1), torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="gradients of 2 latent frames for a rollout of 3"):
        replay(model, drawn, torch.zeros(1, 4, 2, 6, 10), MEMORY, SamplerConfig(steps=1))
