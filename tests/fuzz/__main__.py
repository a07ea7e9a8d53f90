"""``python -m tests.fuzz KIND [KIND ...] --count N --seed S``: how many inputs ended how, and every fault."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import torch

from tests.fuzz import Answer, fuzz

KINDS = {  # kind -> where it is
    "photos": "tests.fuzz.photos:Photos",
    "configs": "tests.fuzz.configs:Configs",
    "checkpoints": "tests.fuzz.checkpoints:Checkpoints",
    "captions": "tests.fuzz.captions:Captions",
    "results": "tests.fuzz.results:Results",
}
ARGUMENTS = "arguments"  # of the Python API; drawn by Hypothesis


def show(answer: Answer) -> None:
    """Tell of a fault, and in a terminal how far it came."""
    if sys.stderr.isatty() and answer.number % 50 == 0:
        print(f"\r{answer.number:,}", end="", file=sys.stderr, flush=True)
    if answer.end == "fault":
        print(f"input {answer.number} ({answer.about}): {answer.told.rstrip()}\n", flush=True)


def main() -> int:
    """Exit status 1 where there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=[*KINDS, ARGUMENTS], help="what is mutated")
    parser.add_argument("--count", type=int, default=1000, help="inputs of each kind (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same inputs (default 0)")
    parser.add_argument("--only", type=int, help="the input of this number alone")
    parser.add_argument("--verbose", action="store_true", help="every answer, not the faults alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # children are forks, which other threads do not survive
    numbers = range(asked.count) if asked.only is None else range(asked.only, asked.only + 1)
    faults = 0
    for name in asked.kinds:
        told = print if asked.verbose else show
        if name == ARGUMENTS:
            from tests.fuzz.arguments import fuzz_arguments

            with tempfile.TemporaryDirectory() as folder:
                report = fuzz_arguments(Path(folder), asked.count, asked.seed, told)
        else:
            module, _, kind = KINDS[name].partition(":")
            report = fuzz(getattr(importlib.import_module(module), kind), numbers, asked.seed, told)
        print(f"{name}, seed {asked.seed}: {report}", flush=True)
        faults += len(report.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
