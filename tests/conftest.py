"""Shape and type checking for every test, and where the shared real data lives."""

from __future__ import annotations

import os

# The tests' tensors are tiny: a second thread would spin, waiting for work, and burn ten times the work itself. Of the
# processes that tests start the same holds, and tests that ask for two threads share the processors with other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)

_HOOK = install_import_hook("clearcap", "beartype.beartype")  # shapes in signatures are checked while testing

# How long an example takes by the clock says nothing where other tests run beside it.
hypothesis.settings.register_profile(
    "beside others", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("beside others")

SHARED = Path(os.environ.get("CLEARCAP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and recorded tensors; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data folder at {SHARED} (set CLEARCAP_SHARED)")
    return SHARED


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # whatever the test before asked for


@pytest.fixture(autouse=True)
def _the_tiny_captioner_untrained() -> Iterator[None]:
    yield
    for name in ("tiny_captioner", "tests.tiny_captioner"):  # the rooms know it by either
        if name in sys.modules:
            sys.modules[name].forget_the_spoilt()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
