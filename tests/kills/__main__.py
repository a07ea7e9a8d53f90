"""``python -m tests.kills [COMMAND ...] --kills N --seed S [--full]``: the table, and every fault."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.kills import Kills, fill_disk, kill, run
from tests.kills.commands import make_commands


def main() -> int:
    """Exit status 1 where anything is lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("commands", nargs="*", help="such as train; default all that write")
    parser.add_argument("--kills", type=int, default=10, help="of each command (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--full", action="store_true", help="fill the disk instead")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # children are forks, which other threads do not survive
    lost = 0
    what = "disks" if asked.full else "kills"
    print(f"{'command':<18}{what:>7}{'too late':>10}{'bytes equal':>13}{'a whole run':>13}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        commands = make_commands(root)
        for number, name in enumerate(asked.commands or commands):
            rng = np.random.default_rng([asked.seed, number])
            whole, total = root / f"whole-{number}" / "out", Kills(name)
            ended = run(commands[name], whole)
            if ended.status:
                total.faults.append(f"{name} by itself: exit {ended.status}, {ended.words[-3000:]}")
            for turn in range(asked.kills if not ended.status else 0):
                out = root / f"{number}-{turn}" / "out"
                if asked.full:
                    found = fill_disk(name, commands[name], out, whole, rng)
                else:
                    found = kill(name, commands[name], out, whole, ended.seconds, rng)
                total.done, total.late = total.done + found.done, total.late + found.late
                total.equal, total.faults = total.equal + found.equal, total.faults + found.faults
            print(
                f"{name:<18}{total.done:>7}{total.late:>10}{total.equal:>13}{ended.seconds:>11.1f} s",
                flush=True,
            )
            for fault in total.faults:
                print(f"  {fault}", flush=True)
            lost += len(total.faults)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
