"""Mutation testing of the core: ``python -m tests.mutation [ROOM ...]``, or ``make mutation`` for every room.

mutmut writes the mutants (``[tool.mutmut]`` in pyproject.toml says of what and where), keeps their results in
``mutants/`` and shows them: ``mutmut results``, ``mutmut show NAME``. Running them is done here, because ``mutmut run``
starts pytest again for every mutant, which takes longer than the tests that kill most of them. Here the tests are
collected once; every mutant is a fork of that process, which runs the tests that reach the mutated function, the
quickest module first, and ends at the first failure. Functions under ``torch.no_grad()`` are mutated too; mutmut by
itself leaves decorated ones out.

A run that was stopped goes on where it was; a function that changed is tested again; ``--survivors`` tests again what
survived, after tests were added. ``rm -r mutants`` begins anew.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any
from unittest import mock

import hypothesis
import libcst
import pytest
import torch
from _pytest.runner import runtestprotocol
from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import change_cwd
from mutmut.utils.format_utils import mangled_name_from_mutant_name

DEAD = {"killed", "timeout", "segfault"}
FAILED, NO_TESTS = 1, 33  # mutmut's exit codes
TIMEOUT = 30  # seconds of a mutant, on the processor
BUDGET = (
    3.0  # seconds of tests that a mutant is worth: what survives the quick ones rarely dies of a slow one
)


class Mutation:
    """A pytest plugin that runs the mutants of some rooms in place of the tests themselves."""

    def __init__(self, rooms: list[str], survivors: bool, jobs: int) -> None:
        self.prefixes = tuple(f"clearcap.{room}." for room in rooms)
        self.survivors = survivors
        self.jobs = jobs

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what is pending, keeping each result as it comes."""
        with change_cwd(".."):  # mutmut's files are named from the project's root
            pending = list(self.pending())
        reached, seconds = reach(session)
        warm(session.items)
        gc.freeze()  # or each fork's collector would touch, and so copy, all of this process's memory
        running: dict[int, tuple[Any, str]] = {}
        for done, (room_data, name) in enumerate(pending):
            ids = reached.get(mangled_name_from_mutant_name(name), [])
            if not ids:
                self.keep(room_data, name, NO_TESTS)
                continue
            items = in_order(session, ids, seconds)
            while len(running) >= self.jobs:
                self.collect(running)
            pid = fork(lambda items=items, name=name: run_mutant(items, name))
            running[pid] = (room_data, name)
            if done % 50 == 0:
                print(f"{time.strftime('%H:%M')} {done} of {len(pending)}: {name}", flush=True)
        while running:
            self.collect(running)
        return True

    def pending(self) -> Iterator[tuple[Any, str]]:
        """Mutants to run, those without a result or those that survived; shuffled, so a stopped run is a sample."""
        every = mutmut.collect_source_file_mutation_data(mutant_names=[])[0]
        random.Random(0).shuffle(every)
        for data, name, code in every:
            alive = code is not None and status_by_exit_code[code] not in DEAD
            if name.startswith(self.prefixes) and (alive if self.survivors else code is None):
                yield data, name

    def collect(self, running: dict[int, tuple[Any, str]]) -> None:
        """Wait for one mutant."""
        pid, status = os.wait()
        self.keep(*running.pop(pid), os.waitstatus_to_exitcode(status))

    def keep(self, room_data: Any, name: str, code: int) -> None:
        """Write one result down."""
        room_data.exit_code_by_key[name] = code
        with change_cwd(".."):
            room_data.save()


def fork(work: Callable[[], int]) -> int:
    """Do something in a child process whose exit status is the answer; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        code = work()
    except BaseException:  # a mutant may raise anything, SystemExit included
        code = FAILED
    os._exit(code)


def reach(session: pytest.Session) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Which tests reach each function, and how long each takes: all tests once, in a child, unmutated."""
    file = Path("reach.json").resolve()
    pid = fork(lambda: measure(session.items, file))
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        pytest.exit("the tests fail before anything is mutated", returncode=1)
    reached, seconds = json.loads(file.read_text())
    return reached, seconds


def measure(items: list[pytest.Item], file: Path) -> int:
    """Run tests, noting the functions each reaches and its time; nonzero where one fails."""
    set_mutant_under_test("stats")
    reached, seconds = defaultdict(list), {}
    for item, following in zip(items, [*items[1:], None], strict=True):
        state()._stats.clear()
        start = time.process_time()
        reports = runtestprotocol(item, log=False, nextitem=following)
        seconds[item.nodeid] = time.process_time() - start
        for function in state()._stats:
            reached[function].append(item.nodeid)
        for report in reports:
            if report.failed:
                print(report.nodeid, report.longrepr, flush=True)
                return FAILED
    file.write_text(json.dumps([reached, seconds]))
    return 0


def warm(items: list[pytest.Item]) -> None:
    """Run all tests in this process, so that forks find everything imported and compiled, and nothing cached.

    Tests that call ``backward`` are skipped: autograd refuses to work in forks of a process that used it.
    """
    set_mutant_under_test("")
    absent = pytest.skip.Exception("not in the parent")
    with mock.patch.object(torch.Tensor, "backward", side_effect=absent):
        for item, following in zip(items, [*items[1:], None], strict=True):
            runtestprotocol(item, log=False, nextitem=following)
    for found in gc.get_objects():
        if type(found) is functools._lru_cache_wrapper and is_ours(found.__wrapped__):
            found.cache_clear()


def is_ours(function: Any) -> bool:
    """Whether the package or its tests define a function."""
    written = isinstance(function, FunctionType)
    return written and Path(function.__code__.co_filename).is_relative_to(Path.cwd())


def in_order(session: pytest.Session, ids: list[str], seconds: dict[str, float]) -> list[pytest.Item]:
    """The quickest tests of those names, quick modules first; a module's together, for its fixtures' sake."""
    chosen, spent = set(ids), 0.0
    items = []
    for item in sorted(session.items, key=lambda item: seconds[item.nodeid]):
        spent += seconds[item.nodeid] if item.nodeid in chosen else 0
        if item.nodeid in chosen and (spent < BUDGET or not items):
            items.append(item)
    of_module: Counter[str] = Counter()
    for item in items:
        of_module[item.path.name] += seconds[item.nodeid]
    return sorted(items, key=lambda item: (of_module[item.path.name], item.path.name))


def run_mutant(items: list[pytest.Item], name: str) -> int:
    """Run tests on one mutant until one fails: 1 where one does, 0 where it survives."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(
        resource.RLIMIT_CPU, (TIMEOUT, TIMEOUT)
    )  # ends by SIGXCPU, which mutmut counts as a timeout
    set_mutant_under_test(name)
    with tempfile.TemporaryDirectory() as folder:
        items[0].config._tmp_path_factory._basetemp = Path(
            folder
        )  # thousands of runs would fill pytest's own
        for item, following in zip(items, [*items[1:], None], strict=True):
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                return FAILED
    return 0


def mutate_under_no_grad() -> None:
    """Have mutmut mutate functions decorated by ``torch.no_grad()``, which is safe to apply to every copy."""
    skip = MutationVisitor._skip_node_and_children
    code = libcst.Module([]).code_for_node

    def skip_others(self: MutationVisitor, node: libcst.CSTNode) -> bool:
        if isinstance(node, libcst.FunctionDef):
            left = [d for d in node.decorators if code(d.decorator) != "torch.no_grad()"]
            return skip(self, node.with_changes(decorators=left))
        return skip(self, node)

    MutationVisitor._skip_node_and_children = skip_others


def score(rooms: list[str]) -> None:
    """Print each room's figures and, by name, what survived."""
    total: Counter[str] = Counter()
    alive = []
    print(f"{'room':<12}{'mutants':>8}{'killed':>8}{'survived':>10}{'no test':>9}{'pending':>9}{'score':>8}")
    for room in rooms:
        found: Counter[str] = Counter()
        for _, name, code in mutmut.collect_source_file_mutation_data(mutant_names=[])[0]:
            if name.startswith(f"clearcap.{room}."):
                status = status_by_exit_code[code]
                found["killed" if status in DEAD else status] += 1
                if status not in DEAD and code is not None:
                    alive.append(name)
        total += found
        row(room, found)
    if len(rooms) > 1:
        row("all", total)
    print("\nalive (mutmut show NAME):", *alive, sep="\n  ")


def row(label: str, found: Counter[str]) -> None:
    """One line of the table; the score is of those that were run."""
    pending = found["not checked"]
    run = found.total() - pending
    share = f"{found['killed'] / run:.1%}" if run else "-"
    print(
        f"{label:<12}{found.total():>8}{found['killed']:>8}{found['survived']:>10}{found['no tests']:>9}"
        f"{pending:>9}{share:>8}"
    )


def main() -> int:
    """Write mutants, run those of some rooms, print the score."""
    every = [Path(pattern).parent.name for pattern in config().only_mutate]
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Mutation testing of the core."
    )
    parser.add_argument("rooms", nargs="*", help=f"of {', '.join(every)}; default all, in that order")
    parser.add_argument("--survivors", action="store_true", help="test again what survived")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (default 1)")
    parser.add_argument("--score", action="store_true", help="print the score so far and run nothing")
    asked = parser.parse_args()
    rooms = asked.rooms or every
    if asked.score:
        score(rooms)
        return 0
    mutate_under_no_grad()
    os.environ.setdefault("CLEARCAP_SHARED", str(Path("..", "shared").resolve()))  # tests run a folder deeper
    Path("mutants").mkdir(exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it names every file
        for write in (mutmut.copy_src_dir, mutmut.copy_also_copy_files, mutmut.setup_source_paths):
            write()
        mutmut.create_mutants(1)
    hypothesis.settings.register_profile(
        "mutation",
        database=None,
        deadline=None,
        derandomize=True,
        max_examples=20,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    arguments = [*config().pytest_add_cli_args_test_selection, *config().pytest_add_cli_args]
    with change_cwd("mutants"):
        failed = pytest.main(
            ["--rootdir=.", *arguments], plugins=[Mutation(rooms, asked.survivors, asked.jobs)]
        )
    if not failed:
        score(rooms)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
