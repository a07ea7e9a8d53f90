"""A fresh ``clearcap caption PHOTO``: time on the clock and of the processor, and memory, side by side in one run.

    python -m benchmarks.cold_start --photo photo.jpg torch=/a/bin/python light=/b/bin/python

Each system is a Python that has clearcap installed; they take turns, and ratios are to the first. What other jobs do
to the clock they hardly do to the processor's time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        wall: seconds from start to end.
        cpu: seconds of the processor, all threads together.
        memory: greatest resident size, in MB.
    """

    wall: float
    cpu: float
    memory: float


def caption(python: str, arguments: list[str]) -> Run:
    """Run ``clearcap caption`` in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    command = [python, "-m", "clearcap", "caption", *arguments]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    said, fault = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status or not said.strip():
        raise RuntimeError(f"{' '.join(command)}: {fault.strip() or status}")
    return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    """Print a table of medians and their ratios to the first system's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "systems", nargs="+", metavar="NAME=PYTHON", help="what to compare; the first is the base"
    )
    parser.add_argument("--photo", type=Path, required=True, help="photo to caption")
    parser.add_argument("--repeats", type=int, default=10, help="counted processes of each")
    parser.add_argument("--arguments", nargs="*", default=[], help="further arguments of clearcap caption")
    asked = parser.parse_args()
    systems = dict(one.split("=", 1) for one in asked.systems)
    arguments = [str(asked.photo), *asked.arguments]
    runs: dict[str, list[Run]] = {name: [] for name in systems}
    for round_ in range(-1, asked.repeats):  # the first reads files into the system's cache
        for name, python in systems.items():
            run = caption(python, arguments)
            if round_ >= 0:
                runs[name].append(run)
    base = next(iter(runs))
    print(
        f"{'system':<12}{'seconds':>9}{'least':>9}{'CPU s':>9}{'MB':>7}   ratios to {base}: time, CPU, memory"
    )
    for name, done in runs.items():
        row, first = (
            [statistics.median(getattr(run, field) for run in one) for field in ("wall", "cpu", "memory")]
            for one in (done, runs[base])
        )
        ratios = ", ".join(f"{mine / theirs:.2f}" for mine, theirs in zip(row, first, strict=True))
        least = min(run.wall for run in done)
        print(f"{name:<12}{row[0]:>9.2f}{least:>9.2f}{row[1]:>9.2f}{row[2]:>7.0f}   {ratios}")
    print(
        f"median of {asked.repeats} processes each, in turn; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
