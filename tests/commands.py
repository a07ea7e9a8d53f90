"""The command line as a user types it: a process of its own."""

from __future__ import annotations

import subprocess
import sys


def clearcap(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run ``clearcap ARGUMENTS`` and wait for it."""
    command = [sys.executable, "-m", "clearcap", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)
