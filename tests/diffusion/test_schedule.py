"""Noise schedules against diffusers and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from clearcap.diffusion.schedules import alpha_bars
from clearcap.errors import InputError


def test_linear_is_diffusers_linear_one_level_later() -> None:
    """Ours counts applied noisings, so level 0 is clean."""
    theirs = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02).alphas_cumprod
    ours = alpha_bars("linear", 1000)
    assert ours[0] == 1
    torch.testing.assert_close(torch.from_numpy(ours[1:]), theirs[:-1])


def test_cosine_is_diffusers_cosine_one_level_later() -> None:
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    ours = alpha_bars("cosine", 1000)
    assert ours[0] == 1
    torch.testing.assert_close(
        torch.from_numpy(ours[1:]), theirs[:-1], rtol=2e-4, atol=1e-7
    )  # theirs multiplies 1000 float32 betas


def test_values_the_papers_code_prints() -> None:
    assert alpha_bars("linear", 1000)[[1, 500, 999]].tolist() == pytest.approx(
        [0.9999, 0.0786, 4.12e-5], rel=2e-3
    )
    assert alpha_bars("cosine", 1000)[[500, 999]].tolist() == pytest.approx([0.494, 2.4e-6], rel=2e-2)


def test_sqrt_is_its_formula() -> None:
    expected = [1 - math.sqrt(t / 200 + 1e-4) for t in range(200)]
    assert alpha_bars("sqrt", 200).tolist() == pytest.approx([max(e, 1e-5) for e in expected], rel=1e-5)


def test_sqrt_never_quite_vanishes() -> None:
    assert alpha_bars("sqrt", 20_000)[-2:].tolist() == pytest.approx([1e-5, 1e-5])


def test_float32_moves_the_cosine_by_its_rounding_only() -> None:
    rounded, exact = alpha_bars("cosine-float32", 1000), alpha_bars("cosine", 1000)
    assert rounded.dtype == exact.dtype == np.float32
    np.testing.assert_allclose(np.sqrt(1 - rounded), np.sqrt(1 - exact), rtol=0, atol=5e-6)
    assert not np.array_equal(rounded, exact)


@pytest.mark.parametrize("name", ["linear", "cosine", "sqrt"])
def test_signal_falls_and_never_vanishes(name: str) -> None:
    ab = alpha_bars(name, 1000)
    assert (ab[1:] <= ab[:-1]).all()
    assert 0 < ab[-1] < 0.05


def test_an_unknown_schedule_names_those_there_are() -> None:
    with pytest.raises(InputError, match="choose one of linear, cosine"):
        alpha_bars("cubic", 10)
