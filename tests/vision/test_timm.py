"""The adapter to timm, tested in a process of its own.

As soon as torchvision, which timm needs, can be imported, transformers imports it too, and fails where its compiled
half does not fit torch. So both live in a folder that only this test's process sees: ``make install`` fills it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def timm_folder() -> Path:
    """Where timm and torchvision are; the test is skipped where they are not."""
    folder = Path(os.environ.get("CLEARCAP_TIMM", Path(sys.prefix) / "timm"))
    if not (folder / "timm").is_dir():
        pytest.skip(f"no timm in {folder} (pip install --no-deps --target {folder} timm torchvision)")
    return folder


def test_timm_encoders() -> None:
    path = os.pathsep.join([str(timm_folder()), *filter(None, [os.environ.get("PYTHONPATH")])])
    checks = Path(__file__).with_name("timm_checks.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
