"""Shape and type checking for every test, and where the shared real data lives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

_HOOK = install_import_hook("clearcap", "beartype.beartype")  # shapes in signatures are checked while testing

SHARED = Path(os.environ.get("CLEARCAP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and recorded tensors; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data folder at {SHARED} (set CLEARCAP_SHARED)")
    return SHARED


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
