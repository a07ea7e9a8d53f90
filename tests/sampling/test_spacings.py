"""Spacings of noise levels against diffusers and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from clearcap import registry
from clearcap.diffusion.schedules import alpha_bars
from clearcap.errors import InputError
from clearcap.sampling.solvers import times_of

SPACINGS = registry.names("spacing")


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
    visited = times_of("quadratic", 1000, 10)
    assert visited[:3] == [999, 809, 639]
    gaps = -np.diff(visited)
    assert (gaps[1:] <= gaps[:-1]).all()


def test_log_snr_rises_evenly_between_its_bounds() -> None:
    ab = torch.from_numpy(alpha_bars("cosine", 1000)).double()
    ratio = ((1 - ab) / ab).sqrt()
    visited = times_of("log-snr", 1000, 10)
    assert visited[0] == 999
    steps = ratio[visited[1:-1]].log().diff()
    assert ratio[visited[1]].item() == pytest.approx(20 * 0.1 ** (1 / 18), rel=0.05)
    assert ratio[visited[-2]].item() == pytest.approx(20 * 0.1 ** (17 / 18), rel=0.05)
    assert steps.tolist() == pytest.approx([math.log(0.1) / 9] * 8, abs=0.02)  # levels are whole numbers
    assert times_of("log-snr", 1000, 1) == [999, 0]


def test_ladics_strides() -> None:
    assert times_of("stride", 1000, 200) == [999, 799, 599, 399, 199, 0]
    assert len(times_of("stride", 1000, 30)) - 1 == 34
    assert times_of("stride", 5, 1) == [4, 3, 2, 1, 0]
    assert times_of("stride", 5, 4) == [4, 0]


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


@pytest.mark.parametrize("spacing", sorted(set(SPACINGS) - {"stride"}))
@pytest.mark.parametrize("levels", [2, 3, 5, 40])
def test_as_many_steps_as_there_are_levels_visit_each(spacing: str, levels: int) -> None:
    assert times_of(spacing, levels, levels - 1) == list(range(levels - 1, -1, -1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: times_of("cubic", 10, 2), "uniform, quadratic, trailing, stride, log-snr"),
        (lambda: times_of("uniform", 1000, 2000), "pass 1 <= steps < 1000"),
        (lambda: times_of("trailing", 1000, 0), "pass 1 <= steps < 1000"),
        (lambda: times_of("stride", 1000, 1000), "between 1 and 999"),
        (lambda: times_of("stride", 1000, 0), "between 1 and 999"),
    ],
)
def test_bad_spacings(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
