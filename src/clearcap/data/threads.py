"""How many threads compute."""

from __future__ import annotations

import os
import sys
import threading

OWN = (
    threading.local()
)  # of a thread: ``count`` is what ``set_threads`` said in it, absent where it said nothing


def threads() -> int:
    """As many as torch has where it is imported; else OMP_NUM_THREADS, or a thread for each processor."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdecimal() and int(asked) else here


def set_threads(count: int) -> None:
    """How many threads compute for this thread: torch's where it is imported, and those of graphs."""
    OWN.count = count
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
