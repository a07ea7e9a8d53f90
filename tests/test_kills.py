"""Kills short enough for every day, of the quickest commands (``python -m tests.kills`` kills all of them)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import small_disk

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("how", [["--kills", "2"], ["--kills", "2", "--full"]])
def test_a_killed_command_goes_on_to_the_same_files(how: list[str], tmp_path: Path) -> None:
    if "--full" in how:
        try:
            with small_disk(tmp_path / "disk"):
                pass
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a small disk cannot be mounted; RLIMIT_FSIZE stands for it in tests/test_writing.py")
    commands = ["caption", "evaluate", "remember", "pretrain-text"]
    command = [sys.executable, "-m", "tests.kills", *commands, *how, "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1 + len(commands)
