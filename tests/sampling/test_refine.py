"""Back&Refine: what is kept, what restarts, and the authors' own run replayed from recorded tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_captioner import photos, tiny_captioner
from torch import Tensor

from clearcap import registry
from clearcap.captioner.generating import CaptionRequest
from clearcap.config import SamplingConfig
from clearcap.diffusion.noise import Noise, make_noise
from clearcap.errors import InputError
from clearcap.sampling.guidance import called_back, self_conditioned, shifted
from clearcap.sampling.refine import (
    BackAndRefine,
    keep_mask,
    ladic_back_and_refine,
    refined,
    restart,
    turning_point,
)
from clearcap.sampling.solvers import renoise, solver

TIMES = [999, 800, 600, 400, 200, 0]
NOISE = Noise(torch.linspace(0.999, 0.001, 1000))


def stream(seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(2, 6, 4, generator=generator)


class Network:
    """Predicts call number + position, and notes what it was shown."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.seen: list[Tensor] = []
        self.memory: list[Tensor] = []
        self.said: list[Tensor] = []

    def __call__(self, x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        self.told.append(int(t[0]))
        self.seen.append(x)
        self.memory.append(x_self)
        self.said.append(len(self.told) + torch.arange(6.0)[:, None].expand(2, 6, 4))
        return self.said[-1]


def sure_of_odd(x0: Tensor) -> Tensor:
    """More confident of later positions, most of all of odd ones."""
    return torch.tensor([0.1, 0.7, 0.2, 0.8, 0.3, 0.9]).expand(2, 6)


@pytest.mark.parametrize("name", registry.names("solver"))
def test_half_way_down_the_sure_words_stay_and_the_others_restart(name: str) -> None:
    network, steps = Network(), []

    def count(step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append((step, t))
        return {}

    def sure(x0: Tensor) -> Tensor:
        assert torch.equal(x0, network.said[-1])
        return sure_of_odd(x0)

    solve = refined(solver(name), sure, BackAndRefine(rounds=1, time=0.4, share=0.5), start=3.0)
    denoise = self_conditioned(called_back(network, count))
    last = solve(denoise, stream()(), TIMES, NOISE, stream())
    assert network.told == [999, 800, 600, 400, *TIMES[:-1]]
    assert steps == list(enumerate(network.told))
    odd, even = [1, 3, 5], [0, 2, 4]
    assert torch.equal(network.seen[4][:, odd], network.said[3][:, odd])  # clean
    fresh = network.seen[4][:, even]
    assert not torch.isclose(fresh, network.said[3][:, even]).any()
    assert torch.equal(network.memory[4], network.said[3])
    assert torch.equal(last, network.said[-1])


def test_what_restarts_is_pure_noise_of_the_given_spread() -> None:
    big = torch.Generator().manual_seed(0)

    def randn() -> Tensor:
        return torch.randn(100, 20, 10, generator=big)

    seen: list[Tensor] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    def indifferent(x0: Tensor) -> Tensor:
        return torch.zeros(x0.shape[:2])

    refined(renoise, indifferent, BackAndRefine(share=0.0), start=4.0)(denoise, randn(), TIMES, NOISE, randn)
    assert seen[4].std().item() == pytest.approx(4.0, rel=0.02)


def test_kept_words_can_be_put_at_a_noise_level() -> None:
    network, draws = Network(), []
    source = stream()

    def randn() -> Tensor:
        draws.append(source())
        return draws[-1]

    back = BackAndRefine(time=0.6, share=1.0, level=400 / 999)
    refined(solver("ddim"), sure_of_odd, back)(self_conditioned(network), stream(1)(), TIMES, NOISE, randn)
    level = torch.tensor([400, 400])
    torch.testing.assert_close(network.seen[3], NOISE.add(network.said[2], level, draws[1]))


def test_a_restart_is_of_spread_one_unless_told() -> None:
    network = Network()
    refined(renoise, sure_of_odd, BackAndRefine(share=0.0))(
        self_conditioned(network), stream()(), [999, 0], NOISE, lambda: torch.full((2, 6, 4), 5.0)
    )
    assert (network.seen[1] == 5).all()


def test_the_authors_way_written_out() -> None:
    network, draws = Network(), list(torch.randn(9, 2, 6, 4, generator=torch.Generator().manual_seed(3)))

    def sure(x0: Tensor) -> Tensor:
        assert torch.equal(x0, network.said[-1])
        return sure_of_odd(x0)

    times = [999, 600, 450, 300, 100, 0]  # 600 and 300 are not between 30% and 60% of 1000
    last = ladic_back_and_refine(
        renoise,
        self_conditioned(network),
        stream()(),
        times,
        NOISE,
        iter(draws).__next__,
        confidence=sure,
    )
    assert network.told == [999, 600, 450, 600, 450, 300, 100]
    dropped, kept = [0, 2], [1, 3, 4, 5]  # a third, the least sure
    assert torch.equal(network.seen[3][:, dropped], draws[2][:, dropped])
    at_the_next_level = NOISE.add(network.said[2], torch.tensor([300, 300]), draws[3])
    torch.testing.assert_close(network.seen[3][:, kept], at_the_next_level[:, kept])
    assert torch.equal(last, network.said[-1])
    with pytest.raises(InputError, match=r"no level of \[999, 600, 300, 0\] lies between 300 and 600"):
        ladic_back_and_refine(
            renoise,
            self_conditioned(network),
            stream()(),
            [999, 600, 300, 0],
            NOISE,
            stream(),
            confidence=sure_of_odd,
        )


def test_rounds_and_none() -> None:
    network = Network()
    refined(renoise, sure_of_odd, BackAndRefine(rounds=3, time=0.6))(
        self_conditioned(network), stream()(), TIMES, NOISE, stream()
    )
    assert network.told == [999, 800, 600] * 3 + TIMES[:-1]
    assert refined(renoise, sure_of_odd, BackAndRefine(rounds=0)) is renoise


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=12),
    st.floats(0, 1),
    st.floats(0.01, 1),
)
def test_known_positions_stay_and_do_not_count(
    positions: list[tuple[float, bool]], share: float, threshold: float
) -> None:
    """The others are kept as if they were all there is."""
    sure = torch.tensor([[confidence for confidence, _ in positions]], dtype=torch.float64)
    known = torch.tensor([[fixed for _, fixed in positions]])
    for how in ({"share": share}, {"share": share, "threshold": threshold}):
        keep = keep_mask(sure, known, **how)
        assert keep[known].all()
        if not known.all():
            torch.testing.assert_close(keep[~known], keep_mask(sure[~known][None], **how)[0])


def test_a_caption_of_given_length_keeps_words_not_its_end() -> None:
    """Half of its six words stay when a captioner goes back, whatever the ten positions after them."""
    captioner = tiny_captioner(length=18)[0]
    seen: list[tuple[int, Tensor, Tensor]] = []

    def watch(step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((t, tensors["noisy"], tensors["latents"]))
        return {}

    sampling = SamplingConfig(
        solver="renoise", steps=4, refine=1, refine_share=0.5, refine_time=0.5, guidance=0.0
    )
    captioner.sample(
        photos(2),
        [CaptionRequest(i, i, 6) for i in range(2)],
        sampler=captioner.sampler(sampling),
        callback=watch,
    )
    back = next(i for i, (t, _, _) in enumerate(seen[1:], 1) if t == seen[0][0])
    stayed = (seen[back][1] == seen[back - 1][2]).all(-1)
    assert stayed[:, 1:7].sum(1).tolist() == [3, 3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 1), st.floats(0.01, 1))
def test_kept_positions(confidence: list[float], share: float, threshold: float) -> None:
    sure = torch.tensor([confidence], dtype=torch.float64)
    keep = keep_mask(sure, share=share)[0]
    assert int(keep.sum()) == round(share * len(confidence))
    if 0 < keep.sum() < len(confidence):
        assert sure[0][keep].min() >= sure[0][~keep].max()
    assert keep_mask(sure, share=share, threshold=threshold)[0].tolist() == [
        c >= threshold for c in confidence
    ]


def test_what_is_as_sure_as_the_threshold_stays() -> None:
    assert keep_mask(torch.tensor([[0.5, 0.25, 0.75]]), share=0.0, threshold=0.5).tolist() == [
        [True, False, True]
    ]


def test_kept_words_are_noised_at_any_level_above_zero() -> None:
    x0, fresh, drawn = torch.randn(3, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(2, 6, dtype=torch.bool)
    once = restart(x0, everything, NOISE, 1, fresh, lambda: drawn)
    torch.testing.assert_close(once, NOISE.add(x0, torch.tensor([1, 1]), drawn))
    assert torch.equal(restart(x0, everything, NOISE, 0, fresh, lambda: drawn), x0)


def test_the_turning_point_is_the_nearest_level() -> None:
    assert [turning_point(TIMES, 1000, share) for share in (1.0, 0.8, 0.5, 0.2, 0.0)] == [1, 2, 4, 5, 5]


def test_the_authors_run_replayed(shared: Path) -> None:
    folder = shared / "parity" / "ladic_seed0"
    io = load_file(folder / "io.safetensors")
    recorded = {
        k.removeprefix("backrefine/inf/"): v for k, v in io.items() if k.startswith("backrefine/inf/")
    }
    about = json.loads((folder / "README.json").read_text())["variants"]["backrefine"]
    w = 1.0
    predictions = (1 + w) * recorded["cond_pred"] - w * recorded["uncond_pred"]
    seen: list[Tensor] = []
    memory: list[Tensor] = []
    told: list[int] = []

    def denoise(x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        memory.append(x_self)
        told.append(int(t[0]))
        return predictions[len(seen) - 1]

    draws = list(recorded["renoise_draws"])
    draws.insert(2, recorded["backrefine_gaussian"][0])
    last = ladic_back_and_refine(
        renoise,
        self_conditioned(shifted(denoise, 5, 999)),
        recorded["init_noise"],
        [999, 799, 599, 399, 199, 0],
        make_noise("linear", 1000),
        lambda: draws.pop(0),
        confidence=lambda x0: recorded["backrefine_confidence"],
    )
    assert told == [999, 804, 604, 804, 604, 404, 204], about
    torch.testing.assert_close(torch.stack(seen), recorded["x_t_per_step"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.stack(memory), recorded["selfcond_per_step"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, recorded["x_pred_final"], rtol=1e-5, atol=1e-5)
    assert not draws


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BackAndRefine(rounds=-1), "rounds=-1"),
        (lambda: BackAndRefine(time=1.5), "time=1.5"),
        (lambda: BackAndRefine(threshold=-0.1), "between 0 and 1"),
        (
            lambda: ladic_back_and_refine(
                renoise,
                self_conditioned(Network()),
                stream()(),
                [999, 0],
                NOISE,
                stream(),
                confidence=sure_of_odd,
            ),
            "take more steps",
        ),
    ],
)
def test_bad_settings(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
