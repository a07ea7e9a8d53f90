"""``Sampler``: what the settings say reaches the network, the solver and the callback, in that order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_captioner import photos, tiny_captioner
from torch import Tensor

from clearcap.captioner.generating import CaptionRequest
from clearcap.config import SamplingConfig
from clearcap.diffusion.noise import make_noise
from clearcap.errors import InputError
from clearcap.sampling.early_exit import EarlyExit
from clearcap.sampling.guidance import FixedLatents
from clearcap.sampling.refine import BackAndRefine, refined
from clearcap.sampling.sampler import build_sampler
from clearcap.sampling.solvers import ddim, plain, renoise

NOISE = make_noise("cosine", 1000, 2.0)
SHAPE = (2, 6, 4)


class Network:
    """Answers with noise drawn beforehand and notes what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.memory: list[Tensor] = []
        self.told: list[int] = []
        self.answers = torch.randn(30, *SHAPE, generator=torch.Generator().manual_seed(1))

    def __call__(self, x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        self.seen.append(x)
        self.memory.append(x_self)
        self.told.append(int(t[0]))
        return self.answers[len(self.seen) - 1]


def stream() -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(SHAPE, generator=generator)


def logits(x0: Tensor) -> Tensor:
    return torch.cat((x0, -x0), -1)


def run(network: Network, fixed: FixedLatents | None = None, **how: float | str) -> list[tuple[int, int]]:
    """Sample with those settings; the callback's steps and times."""
    steps: list[tuple[int, int]] = []

    def callback(step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append((step, t))
        return {}

    build_sampler(SamplingConfig(**how), NOISE).run(lambda rows: network, logits, stream(), fixed, callback)
    return steps


def test_a_caption_starts_from_noise_of_the_given_spread_without_a_prediction() -> None:
    network, randn = Network(), stream()
    run(network, start=3.0, steps=4)
    assert torch.equal(network.seen[0], 3.0 * randn())
    assert not network.memory[0].any()
    assert torch.equal(torch.stack(network.memory[1:]), network.answers[:3])


@torch.inference_mode()
@pytest.mark.parametrize("self_condition", [True, False])
def test_the_network_sees_its_last_prediction_if_the_settings_say_so(self_condition: bool) -> None:
    captioner, _ = tiny_captioner()
    how = SamplingConfig(guidance=0.0, self_condition=self_condition)
    denoise = captioner.sampler(how).denoise(captioner.denoiser, captioner.image_context(photos(1)))
    x, x_self = torch.randn(2, 1, 10, 24, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500])
    blind = denoise(x, torch.zeros_like(x), t)
    assert torch.equal(denoise(x, x_self, t), blind) != self_condition


def test_the_network_is_told_a_later_time_and_the_callback_the_level_itself() -> None:
    network = Network()
    steps = run(network, steps=4, time_offset=15)
    assert network.told == [999, 764, 515, 265]  # 250 is rounded from 249.75
    assert steps == [(0, 999), (1, 749), (2, 500), (3, 250)]


def test_fixed_latents_are_what_the_network_sees_and_what_comes_back() -> None:
    fixed = FixedLatents(torch.full(SHAPE, 7.0), torch.tensor([[True, False] * 3, [False] * 6]))
    network = Network()
    sampler = build_sampler(SamplingConfig(steps=3, solver="renoise"), NOISE)
    x0 = sampler.run(lambda rows: network, logits, stream(), fixed)
    for shown in (*network.seen, *network.memory, x0):
        assert (shown[0, ::2] == 7).all()
        assert not (shown[0, 1::2] == 7).any()
        assert not (shown[1] == 7).any()


def test_each_prediction_but_the_last_is_clamped() -> None:
    """The next call is shown the words nearest to the prediction, and so is the noise that is added to."""
    network = Network()
    sampler = build_sampler(SamplingConfig(steps=3, solver="renoise", clamp=True, length=2), NOISE)
    x0 = sampler.run(lambda rows: network, logits, lambda: torch.zeros(SHAPE), nearest=torch.round)
    said = [memory.clone() for memory in network.memory[1:]]
    for shown, seen, time in zip(said, network.seen[1:], (666, 333), strict=True):
        assert torch.equal(shown, shown.round())
        torch.testing.assert_close(seen, NOISE.scales(time)[0] * shown)
    assert not torch.equal(x0, x0.round())


def test_captions_that_go_on_keep_their_own_fixed_latents() -> None:
    latent = torch.arange(3.0).view(3, 1, 1).expand(3, 2, 4)
    fixed = FixedLatents(latent, torch.tensor([[True, False]] * 3))
    calls: list[list[int]] = []

    def build(rows: Tensor | None):
        mine = torch.arange(3) if rows is None else rows

        def denoise(x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
            calls.append(mine.tolist())
            assert (x[:, 0, 0] == mine).all()
            changes = (-1.0) ** len(calls) * (mine > 0) + (mine == 0)  # caption 0 settles, the others never
            return changes[:, None, None].expand(-1, 2, 4).float()

        return denoise

    how = SamplingConfig(solver="renoise", steps=4, early_exit=1)
    x0 = build_sampler(how, NOISE).run(build, logits, lambda: torch.randn(3, 2, 4), fixed)
    assert calls == [[0, 1, 2], [0, 1, 2], [1, 2], [1, 2]]
    assert torch.equal(x0[:, 0], latent[:, 0])


def test_what_a_callback_returns_is_what_the_next_call_is_shown() -> None:
    network, target = Network(), torch.full(SHAPE, 5.0)
    sampler = build_sampler(SamplingConfig(steps=3, solver="plain"), NOISE)
    x0 = sampler.run(lambda rows: network, logits, stream(), None, lambda *step: {"latents": target})
    assert torch.equal(x0, target)
    for shown in (network.seen[1], network.memory[2]):
        assert torch.equal(shown, target)


def test_back_and_refine_is_put_around_the_solver() -> None:
    asked = {"refine_time": 0.7, "refine_share": 0.3, "refine_level": 0.2, "start": 3.0, "steps": 5}
    mine, theirs, randn = Network(), Network(), stream()
    steps = run(mine, solver="renoise", refine=2, **asked)
    back = BackAndRefine(rounds=2, time=0.7, share=0.3, threshold=0.0, level=0.2)
    solve = refined(renoise, lambda x0: logits(x0).softmax(-1).amax(-1), back, 3.0)
    last = [torch.zeros(SHAPE)]

    def denoise(x: Tensor, t: int) -> Tensor:
        last.append(theirs(x, last[-1], torch.tensor([t, t])))
        return last[-1]

    solve(denoise, 3.0 * randn(), (999, 799, 599, 400, 200, 0), NOISE, randn)
    assert torch.equal(torch.stack(mine.seen), torch.stack(theirs.seen))
    assert mine.told == theirs.told
    assert [t for _, t in steps] == mine.told


def test_settings_become_parts() -> None:
    sampler = build_sampler(SamplingConfig(steps=2, guidance_low=0.2, guidance_high=0.6), NOISE)
    assert (sampler.solve, sampler.times, sampler.refine) == (ddim, (999, 500, 0), None)
    assert (sampler.guided_levels, sampler.guidance) == ((200, 599), 1.0)
    assert build_sampler(SamplingConfig(), NOISE).guided_levels == (0, 999)
    assert build_sampler(SamplingConfig(solver="plain"), NOISE).solve is plain
    assert build_sampler(SamplingConfig(eta=0.5), NOISE).solve.keywords == {"eta": 0.5}
    how = SamplingConfig(refine=1, refine_time=0.1, refine_share=0.2, refine_threshold=0.3, refine_level=0.4)
    assert build_sampler(how, NOISE).refine == (1, 0.1, 0.2, 0.3, 0.4)
    with pytest.raises(InputError, match="pass 1 <= steps < 1000"):
        build_sampler(SamplingConfig(steps=1000), NOISE)


def test_early_exit_waits_as_long_as_its_patience_in_every_round() -> None:
    calls: list[list[int]] = []

    def build(rows: Tensor | None):
        def denoise(x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
            calls.append([0, 1] if rows is None else rows.tolist())
            return torch.ones_like(x)

        return denoise

    how = SamplingConfig(solver="plain", steps=6, early_exit=3)
    build_sampler(how, NOISE).run(build, logits, stream())
    assert len(calls) == 4
    with pytest.raises(InputError, match="patience=0"):
        EarlyExit(build, logits, 0)


@torch.inference_mode()
def test_without_a_photo_the_null_context_stands_for_it_and_nothing_guides() -> None:
    captioner, _ = tiny_captioner()
    sampler = captioner.sampler(SamplingConfig(steps=2, guidance=2.0))
    batches: list[int] = []
    handle = captioner.denoiser.blocks[0].register_forward_hook(lambda m, a, o: batches.append(len(a[0])))
    blind = captioner.sample(None, [CaptionRequest(0, 5)], sampler=sampler)
    handle.remove()
    assert batches == [1, 1]
    unguided = captioner.sampler(SamplingConfig(steps=2, guidance=0.0))
    null = captioner.denoiser.null_image[None]  # what the adapter is shown for no photo
    torch.testing.assert_close(blind, captioner.sample(null, [CaptionRequest(0, 5)], sampler=unguided))
    seen = captioner.sample(photos(1), [CaptionRequest(0, 5)], sampler=unguided)
    assert not torch.allclose(seen, blind, atol=1e-2)
