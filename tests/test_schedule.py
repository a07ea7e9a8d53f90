"""Noise schedules and spacings against diffusers and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from clearcap.diffusion.schedules import alpha_bars
from clearcap.errors import InputError
from clearcap.sampling.solvers import SPACINGS, times_of


def test_linear_is_diffusers_linear_one_level_later() -> None:
    """Ours counts applied noisings, so level 0 is clean."""
    theirs = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02).alphas_cumprod
    ours = alpha_bars("linear", 1000)
    assert ours[0] == 1
    torch.testing.assert_close(ours[1:], theirs[:-1])


def test_cosine_is_diffusers_cosine_one_level_later() -> None:
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    ours = alpha_bars("cosine", 1000)
    assert ours[0] == 1
    torch.testing.assert_close(
        ours[1:], theirs[:-1], rtol=2e-4, atol=1e-7
    )  # theirs multiplies 1000 float32 betas


def test_values_the_papers_code_prints() -> None:
    assert alpha_bars("linear", 1000)[[1, 500, 999]].tolist() == pytest.approx(
        [0.9999, 0.0786, 4.12e-5], rel=2e-3
    )
    assert alpha_bars("cosine", 1000)[[500, 999]].tolist() == pytest.approx([0.494, 2.4e-6], rel=2e-2)


def test_sqrt_is_its_formula() -> None:
    expected = [1 - math.sqrt(t / 200 + 1e-4) for t in range(200)]
    assert alpha_bars("sqrt", 200).tolist() == pytest.approx([max(e, 1e-5) for e in expected], rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine", "sqrt"])
def test_signal_falls_and_never_vanishes(name: str) -> None:
    ab = alpha_bars(name, 1000)
    assert (ab[1:] <= ab[:-1]).all()
    assert 0 < ab[-1] < 0.05


@pytest.mark.parametrize(("spacing", "steps"), [("uniform", 10), ("trailing", 10), ("trailing", 30)])
def test_spacings_are_diffusers_spacings(spacing: str, steps: int) -> None:
    if spacing == "trailing":
        scheduler = DDIMScheduler(timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        expected = scheduler.timesteps.tolist()
    else:
        expected = np.linspace(999, 0, steps + 1).round().astype(int)[:-1].tolist()
    assert times_of(spacing, 1000, steps) == [*expected, 0]


def test_quadratic_is_dense_near_the_words() -> None:
    visited = times("quadratic", 1000, 10)
    assert visited[:3] == [999, 809, 639]
    gaps = -np.diff(visited)
    assert (gaps[1:] <= gaps[:-1]).all()


def test_log_snr_rises_evenly_between_its_bounds() -> None:
    ab = alpha_bars("cosine", 1000).double()
    ratio = ((1 - ab) / ab).sqrt()
    visited = times("log-snr", 1000, 10)
    assert visited[0] == 999
    steps = ratio[visited[1:-1]].log().diff()
    assert ratio[visited[1]].item() == pytest.approx(20 * 0.1 ** (1 / 18), rel=0.05)
    assert ratio[visited[-2]].item() == pytest.approx(20 * 0.1 ** (17 / 18), rel=0.05)
    assert steps.tolist() == pytest.approx([math.log(0.1) / 9] * 8, abs=0.02)  # levels are whole numbers
    assert times("log-snr", 1000, 1) == [999, 0]


def test_ladics_strides() -> None:
    assert times_of("stride", 1000, 200) == [999, 799, 599, 399, 199, 0]
    assert len(times_of("stride", 1000, 30)) - 1 == 34


@given(st.sampled_from(sorted(set(SPACINGS) - {"stride"})), st.integers(2, 300), st.data())
def test_times_fall_strictly_from_the_noisiest_to_zero(
    spacing: str, train_steps: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(1, train_steps - 1))
    visited = times_of(spacing, train_steps, steps)
    assert len(visited) == steps + 1
    assert visited[0] == train_steps - 1
    assert visited[-1] == 0
    assert all(a > b for a, b in pairwise(visited))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alpha_bars("cubic", 10), "choose one of linear, cosine"),
        (lambda: times("cubic", 10, 2), "uniform, quadratic, trailing, stride, log-snr"),
        (lambda: times_of("uniform", 1000, 2000), "pass 1 <= steps < 1000"),
        (lambda: times("trailing", 1000, 0), "pass 1 <= steps < 1000"),
        (lambda: times_of("stride", 1000, 1000), "between 1 and 999"),
    ],
)
def test_bad_requests(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
