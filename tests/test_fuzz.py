"""A fuzz short enough for every day: each input gives a result or one line (``python -m tests.fuzz`` tries more).

In processes of their own, without the tests' type checker: it would refuse arguments that the product must.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import Answer, Report

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("count", "kinds"),
    [
        (2000, ["photos"]),
        (300, ["configs", "captions", "results"]),
        (150, ["checkpoints", "arguments"]),
    ],
)
def test_every_input_gives_a_result_or_one_line(count: int, kinds: list[str]) -> None:
    command = [sys.executable, "-m", "tests.fuzz", *kinds, "--count", str(count), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("; 0 faults; ") == len(kinds)


def test_a_fault_is_told_by_its_number_and_ends_the_command_with_1() -> None:
    report = Report()
    report.add(Answer(3, "PNG cut", "one line", 0.5, 2**20, "cut short"))
    report.add(Answer(7, "PNG bits", "fault", 2.0, 0, "Traceback"))
    assert [fault.number for fault in report.faults] == [7]
    assert str(report) == (
        "2 inputs in 0 s: 1 one line; 1 faults; longest 2.0 s (processor), most memory 1 MiB"
    )
