"""Solvers against diffusers' schedulers fed the same predictions, and the laws a seed must keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from tiny_captioner import photos, tiny_captioner
from torch import Tensor

from clearcap import registry
from clearcap.diffusion.noise import Noise
from clearcap.errors import InputError
from clearcap.sampling.early_exit import EarlyExit
from clearcap.sampling.guidance import Callback, called_back, self_conditioned, shifted
from clearcap.sampling.randomness import normal, randn_rows
from clearcap.sampling.solvers import plain, renoise, solver

SOLVERS = registry.names("solver")
TIMES = [990, 801, 640, 333, 200, 71]
SHAPE = (2, 5, 8)
SETTINGS = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}


LIBRARIES = {"torch": torch.as_tensor, "numpy": np.asarray}
both = pytest.mark.parametrize("library", LIBRARIES)


class Recorded:
    """A denoiser that answers from a list drawn beforehand and notes what it was asked."""

    def __init__(self, calls: int, library: str = "torch") -> None:
        answers = torch.randn(calls, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.answers = LIBRARIES[library](answers)
        self.asked: list[Tensor] = []
        self.remembered: list[Tensor] = []
        self.told: list[int] = []

    def __call__(self, x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        self.asked.append(x)
        self.remembered.append(x_self)
        self.told.append(int(t[0]))
        return self.answers[len(self.asked) - 1]


def stream(seed: int, library: str = "torch") -> Callable[[], Any]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: LIBRARIES[library](torch.randn(SHAPE, generator=generator, dtype=torch.float64))


def stacked(arrays: Sequence[Any]) -> Tensor:
    """Of either library."""
    return torch.stack([torch.as_tensor(one) for one in arrays])


def note(steps: list[tuple[int, int, Tensor]]) -> Callback:
    """A callback that notes each step's number, time and prediction."""

    def callback(step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append((step, t, tensors["latents"]))
        return {}

    return callback


def run(name: str, noise: Noise, library: str = "torch", **options: float) -> Recorded:
    recorded = Recorded(len(TIMES), library)
    randn = stream(2, library)
    solver(name, **options)(self_conditioned(recorded), noise.factor * randn(), [*TIMES, 0], noise, randn)
    return recorded


def scheduled(scheduler, step: Callable[[Tensor, int, Tensor], Tensor]) -> list[Tensor]:
    """What diffusers feeds the network at each of our times, given the same predictions."""
    recorded, randn = Recorded(len(TIMES)), stream(2)
    x, seen = randn(), []
    for i, t in enumerate(TIMES):
        seen.append(x)
        x = step(x, t, recorded.answers[i])
    return seen


def the_noise(scheduler, library: str) -> Noise:
    return Noise(LIBRARIES[library](scheduler.alphas_cumprod.double()))


@both
def test_ddpm_is_diffusers_ddpm(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    scheduler = DDPMScheduler(**SETTINGS, clip_sample=False)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(timesteps=TIMES)
    randn = stream(2)
    randn()  # the start
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kwargs: randn())
    seen = scheduled(scheduler, lambda x, t, x0: scheduler.step(x0, t, x).prev_sample)
    ours = run("ddpm", the_noise(scheduler, library), library)
    torch.testing.assert_close(stacked(ours.asked), torch.stack(seen), rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_diffusers_ddim(eta: float, library: str) -> None:
    spaced = [999, 799, 599, 399, 199]
    scheduler = DDIMScheduler(**SETTINGS, clip_sample=False, timestep_spacing="trailing")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == spaced
    randn, recorded, theirs = stream(2), Recorded(5), []
    x = randn()
    for i, t in enumerate(spaced):
        theirs.append(x)
        fresh = randn() if eta and i < 4 else torch.zeros_like(x)
        x = scheduler.step(recorded.answers[i], t, x, eta=eta, variance_noise=fresh).prev_sample
    randn, recorded = stream(2, library), Recorded(5, library)
    solver("ddim", eta)(
        self_conditioned(recorded), randn(), [*spaced, 0], the_noise(scheduler, library), randn
    )
    torch.testing.assert_close(stacked(recorded.asked), torch.stack(theirs), rtol=1e-6, atol=1e-6)


@both
def test_dpm_solver_is_diffusers_second_order_multistep(library: str) -> None:
    scheduler = DPMSolverMultistepScheduler(**SETTINGS, solver_order=2, final_sigmas_type="zero")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(timesteps=TIMES)
    seen = scheduled(scheduler, lambda x, t, x0: scheduler.step(x0, t, x).prev_sample)
    ours = run("dpm-solver", the_noise(scheduler, library), library)
    torch.testing.assert_close(stacked(ours.asked), torch.stack(seen), rtol=2e-6, atol=1e-6)


def test_renoise_and_plain_are_their_closed_forms() -> None:
    noise, randn = Noise(torch.linspace(1, 0.01, 1000, dtype=torch.float64)), stream(2)
    ours = run("renoise", noise)
    expected = [randn()]
    for i, s in enumerate(TIMES[1:]):
        ab = noise.alpha_bar[s]
        expected.append(ab.sqrt() * ours.answers[i] + (1 - ab).sqrt() * randn())
    torch.testing.assert_close(torch.stack(ours.asked), torch.stack(expected))
    fed_back = run("plain", noise)
    torch.testing.assert_close(torch.stack(fed_back.asked[1:]), fed_back.answers[:-1])


@pytest.mark.parametrize(("name", "eta"), [*((n, 0.0) for n in SOLVERS if n != "plain"), ("ddim", 0.6)])
def test_the_noise_factor_stretches_the_noise_only(name: str, eta: float) -> None:
    """With the truth as every prediction, x_t - a x0 at factor k is k times that at factor 1."""
    truth = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def noises(factor: float) -> Tensor:
        noise = Noise(torch.linspace(0.99, 0.01, 1000, dtype=torch.float64), factor)
        randn, seen = stream(2), []

        def know(x: Tensor, t: int) -> Tensor:
            seen.append(x - noise.scales(t)[0] * truth)
            return truth

        start = noise.add(truth, torch.full((2,), TIMES[0]), randn())
        solver(name, eta)(know, start, [*TIMES, 0], noise, randn)
        return torch.stack(seen)

    torch.testing.assert_close(noises(3.0), 3 * noises(1.0))


@pytest.mark.parametrize("name", SOLVERS)
def test_each_call_gets_its_time_and_the_last_prediction(name: str) -> None:
    recorded, randn, steps = Recorded(len(TIMES)), stream(0), []
    first = randn()
    denoise = called_back(shifted(recorded, 15, 999), note(steps))
    last = solver(name)(
        self_conditioned(denoise, first),
        randn(),
        [*TIMES, 0],
        Noise(torch.linspace(0.99, 0.01, 1000, dtype=torch.float64)),
        randn,
    )
    assert recorded.told == [999, 816, 655, 348, 215, 86]
    assert [(step, t) for step, t, _ in steps] == list(enumerate(TIMES))
    torch.testing.assert_close(torch.stack(recorded.remembered), torch.stack([first, *recorded.answers[:-1]]))
    assert torch.equal(last, recorded.answers[-1])


@pytest.mark.parametrize(("name", "eta"), [*((name, 0.0) for name in SOLVERS), ("ddim", 0.5)])
def test_noise_is_drawn_for_every_level_but_the_last_and_only_by_solvers_that_need_it(
    name: str, eta: float
) -> None:
    recorded, drawn, source = Recorded(3), [], stream(2)

    def randn() -> Tensor:
        drawn.append(source())
        return drawn[-1]

    noise = Noise(torch.linspace(0.99, 0.01, 10, dtype=torch.float64))
    solver(name, eta)(self_conditioned(recorded), stream(3)(), [9, 5, 1, 0], noise, randn)
    assert len(drawn) == (2 if eta or name in ("renoise", "ddpm") else 0)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not torch.equal(recorded.asked[one], recorded.asked[other])


def test_ddim_of_eta_one_has_the_variance_of_ddpm() -> None:
    noise = Noise(torch.linspace(0.99, 0.01, 1000))

    def spread(name: str, eta: float = 0.0) -> Tensor:
        generator, seen = torch.Generator().manual_seed(0), []

        def ignorant(x: Tensor, t: int) -> Tensor:
            seen.append(x)
            return torch.zeros_like(x)

        def randn() -> Tensor:
            return torch.randn(200, 10, 10, generator=generator)

        solver(name, eta)(ignorant, torch.zeros(200, 10, 10), [900, 500, 0], noise, randn)
        return seen[1].std()

    torch.testing.assert_close(spread("ddim", 1.0), spread("ddpm"), rtol=1e-5, atol=0)


def test_unknown_solver_and_eta_without_ddim() -> None:
    with pytest.raises(InputError, match="renoise, ddpm, ddim, dpm-solver, plain"):
        solver("euler")
    with pytest.raises(InputError, match="solver=ddim"):
        solver("ddpm", eta=0.5)


# The same seed gives the same captions, whatever else is drawn with them.


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("extra", [{}, {"early_exit": 1}, {"refine": 1}], ids=["", "early-exit", "refine"])
def test_same_seed_same_captions(name: str, extra: dict[str, int]) -> None:
    captioner, _ = tiny_captioner()
    image = photos(4)
    how = replace(captioner.defaults, solver=name, candidates=3, **extra)
    ids = captioner.generate(image=image, sampling=how, seed=7).ids
    assert torch.equal(ids, captioner.generate(image=image, sampling=how, seed=7).ids)
    for i in range(4):  # a batch of one
        assert torch.equal(captioner.generate(image=image[i : i + 1], sampling=how, seed=7).ids[0], ids[i])
    fewer = captioner.generate(image=image, sampling=replace(how, candidates=1), seed=7).ids
    assert torch.equal(fewer[:, 0], ids[:, 0])
    if name != "plain":  # which forgets where it began
        assert not torch.equal(captioner.generate(image=image, sampling=how, seed=8).ids, ids)


def test_names_make_draws_differ_between_photos() -> None:
    captioner, _ = tiny_captioner()
    image = photos(1).expand(2, -1, -1)
    same = captioner.generate(image=image).ids
    named = captioner.generate(image=image, names=[1, 2]).ids
    assert torch.equal(same[0], same[1])
    assert not torch.equal(named[0], named[1])
    assert torch.equal(captioner.generate(image=image[:1], names=[2]).ids[0], named[1])


def test_a_row_depends_on_its_stream_alone() -> None:
    together, alone = randn_rows(3, [4, 5, 4], 6, 7), randn_rows(3, [5], 6, 7)
    seen = []
    for _ in range(3):
        rows = together()
        assert np.array_equal(rows[1], alone()[0])
        assert np.array_equal(rows[0], rows[2])
        seen += [rows[0], rows[1]]
    assert len({one.tobytes() for one in seen}) == 6
    other = [normal(*place, 42) for place in ((3, 4, 0), (4, 4, 0), (3, 4, 1), (3, 4 + 2**64, 0))]
    assert np.array_equal(other[0], other[3])
    assert not np.array_equal(other[0], other[1])
    assert np.array_equal(other[0], seen[0].ravel())
    assert np.array_equal(normal(3, 4, 0, 7), other[0][:7])


def test_noise_is_what_philox_and_box_and_muller_make_of_a_seed_forever() -> None:
    """Salmon et al.'s generator, written out in Python's integers."""
    word, half = (1 << 64) - 1, (1 << 32) - 1
    counter, key = [1, 0, 0, 2], [7, 9]  # draw 2; NumPy counts before it draws
    for _ in range(10):
        wide = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [
            (wide[1] >> 64) ^ counter[1] ^ key[0],
            wide[1] & word,
            (wide[0] >> 64) ^ counter[3] ^ key[1],
            wide[0] & word,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & word, (key[1] + 0xBB67AE8584CAA73B) & word]
    expected = []
    for bits in counter:
        radius = math.sqrt(-2 * math.log(((bits >> 32) + 0.5) / 2**32))
        angle = (bits & half) * 2 * math.pi / 2**32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    assert normal(7, 9, 2, 8).tolist() == pytest.approx(expected, rel=1e-6)


def test_noise_is_standard_normal() -> None:
    drawn = np.stack([normal(0, stream, 0, 2560) for stream in range(100)]).astype(float)
    assert abs(drawn.mean()) < 0.006  # three deviations of a mean of 256,000
    assert abs(drawn.std() - 1) < 0.005
    assert abs((drawn**4).mean() - 3) < 0.06
    neighbours = [np.corrcoef(drawn.ravel()[:-lag], drawn.ravel()[lag:])[0, 1] for lag in (1, 2, 3, 2560)]
    assert max(map(abs, neighbours)) < 0.008


@pytest.mark.parametrize("name", SOLVERS)
def test_tensors_are_made_where_their_inputs_are(name: str) -> None:
    """Another default device stands for a GPU: what does not say where it is made would meet the CPU's there."""
    noise = Noise(torch.linspace(0.99, 0.01, 1000))
    with torch.device("meta"):
        denoise = EarlyExit(lambda rows: lambda x, x_self, t: x + x_self, words)
        randn = randn_rows(0, [1, 2], 3, 4, lambda x: torch.asarray(x, device="cpu"))
        x0 = solver(name)(self_conditioned(denoise), randn(), [*TIMES, 0], noise, randn)
    assert x0.device.type == "cpu"


# Early exit.


def words(x0: Tensor) -> Tensor:
    """Logits of a two-word vocabulary: the sign of the first channel."""
    return torch.stack((x0[..., 0], -x0[..., 0]), -1)


def test_early_exit_shrinks_the_batch_and_keeps_what_settled() -> None:
    noise = Noise(torch.linspace(0.99, 0.01, 1000))
    calls: list[list[int]] = []
    count = 0

    def build(rows: Tensor | None):
        def denoise(x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
            nonlocal count
            mine = torch.arange(3) if rows is None else rows
            calls.append(mine.tolist())
            signs = torch.tensor([[1, 1, 1, 1, 1], [1, -1, -1, 1, 1], [1, -1, 1, -1, 1]])[mine, count]
            count += 1
            return (signs * count)[:, None, None].expand(-1, 2, 4).float()

        return denoise

    steps: list[tuple[int, int, Tensor]] = []
    x0 = renoise(
        self_conditioned(called_back(EarlyExit(build, words), note(steps))),
        torch.zeros(3, 2, 4),
        [900, 700, 500, 300, 100, 0],
        noise,
        lambda: torch.zeros(3, 2, 4),
    )
    assert calls == [[0, 1, 2], [0, 1, 2], [1, 2], [2], [2]]
    assert x0[:, 0, 0].tolist() == [2, -3, 5]
    assert len(steps) == 5


@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_is_called_once_all_settled_and_a_rising_time_wakes_everyone(sign: int) -> None:
    calls: list[int] = []

    def build(rows: Tensor | None):
        def denoise(x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
            calls.append(len(x))
            return sign * torch.ones_like(x)

        return denoise

    denoise = EarlyExit(build, words, patience=2)
    noise = Noise(torch.linspace(0.99, 0.01, 1000))
    for _ in range(2):
        step = self_conditioned(denoise)
        plain(step, torch.zeros(4, 2, 3), [9, 7, 5, 3, 1, 0], noise, lambda: torch.zeros(4, 2, 3))
    assert calls == [4, 4, 4] * 2


@pytest.mark.parametrize("name", SOLVERS)
def test_early_exit_gives_what_waiting_would_where_the_words_had_settled(name: str) -> None:
    captioner, _ = tiny_captioner()
    how = replace(captioner.defaults, solver=name, candidates=4, steps=12)
    history: list[tuple[int, int, Tensor]] = []
    full = captioner.generate(image=photos(5), sampling=how, callback_on_step_end=note(history))
    ids = torch.stack([captioner.text.decode(x0).argmax(-1) for _, _, x0 in history])
    early = captioner.generate(image=photos(5), sampling=replace(how, early_exit=1)).ids.flatten(0, 1)
    repeated = (ids[1:] == ids[:-1]).all(-1)
    for row in range(20):
        settled = np.flatnonzero(repeated[:, row].numpy())
        expected = ids[settled[0] + 1, row] if len(settled) else full.ids.flatten(0, 1)[row]
        assert torch.equal(early[row], expected)


def test_early_exit_may_begin_at_any_level() -> None:
    denoise = EarlyExit(lambda rows: lambda x, x_self, t: x + t[:, None, None], words)
    for x, level in enumerate((0, 5, 5, 5), 1):  # a level that does not fall begins anew
        shown = torch.full((2, 3, 4), float(x))
        assert torch.equal(denoise(shown, shown, torch.tensor([level, level])), shown + level)


def test_patience_must_be_positive() -> None:
    with pytest.raises(InputError, match="at least 1"):
        EarlyExit(lambda rows: lambda x, x_self, t: x, words, 0)
