"""Fuzzing: whatever the product is given, it answers with a result or with one line of error.

``python -m tests.fuzz photos --count 10000 --seed 0`` draws that many inputs of a kind, each from a good one, and tells
which of them ended otherwise: in another exception than ``InputError``, in an error of several lines, in words on
standard error, in more than 10 seconds of the processor, in much memory, or in the end of the process. The kinds are
modules beside this one. An input is known by its number: ``--seed 0 --only 17`` tries it again.

Inputs are tried in a child process, which is replaced where one of them ends it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clearcap.errors import InputError, RenamedWarning

SECONDS = 10.0  # of the processor that an input may take
SILENCE = 180.0  # seconds without an answer after which the process is ended
MEMORY = 2**31  # bytes that an input may add to those of the process
ADDRESSES = 6 * 2**30  # bytes of address space that it may ask for besides: what asks for more is refused


class Kind(ABC):
    """One kind of input: how it is made from a seed, and what is done with it."""

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Make the good inputs, in a folder of one's own."""

    @abstractmethod
    def case(self, rng: np.random.Generator) -> tuple[str, Callable[[], str | None]]:
        """What an input is, in a few words, and what tries it; that may say how far it came (default ``result``)."""

    def restore(self) -> None:  # noqa: B027  nothing to do for most
        """Make everything good again after an input that ended the process."""


class TooLong(BaseException):
    """Raised where an input takes too long; not an Exception, which decoders' callers catch."""


@dataclass(frozen=True)
class Answer:
    """What an input led to: ``result`` (or another word of the kind's own), ``one line`` or ``fault``."""

    number: int
    about: str
    end: str
    seconds: float = 0.0
    memory: int = 0  # bytes at most, beyond those before
    told: str = ""


@dataclass
class Report:
    """All answers, counted."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    longest: float = 0.0
    most: int = 0

    def add(self, answer: Answer) -> None:
        """Count one."""
        self.ends[answer.end] += 1
        self.longest, self.most = max(self.longest, answer.seconds), max(self.most, answer.memory)
        if answer.end == "fault":
            self.faults.append(answer)

    def __str__(self) -> str:
        ends = ", ".join(f"{count:,} {end}" for end, count in sorted(self.ends.items()) if end != "fault")
        return (
            f"{self.ends.total():,} inputs in {self.seconds:.0f} s: {ends}; {len(self.faults)} faults; "
            f"longest {self.longest:.1f} s (processor), most memory {self.most / 2**20:.0f} MiB"
        )


def fuzz(
    make: Callable[[Path], Kind],
    numbers: Iterator[int] | range,
    seed: int,
    told: Callable[[Answer], None] = lambda answer: None,
) -> Report:
    """Try the inputs of some numbers.

    Args:
        make: the kind.
        numbers: of the inputs.
        seed: that they are drawn from.
        told: called with each answer.
    """
    report, begun, waiting = Report(), time.monotonic(), list(numbers)
    with tempfile.TemporaryDirectory() as folder:
        kind = make(Path(folder))
        while waiting:
            for answer in _in_child(kind, waiting, seed):
                waiting.pop(0)
                report.add(answer)
                told(answer)
    report.seconds = time.monotonic() - begun
    return report


def _in_child(kind: Kind, numbers: list[int], seed: int) -> Iterator[Answer]:
    """The answers to some inputs, as far as one child process comes; the last may be that it ended."""
    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            _answer_all(kind, numbers, seed, write)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    os.close(write)
    answered, rest = 0, b""
    try:
        while answered < len(numbers):
            ready, _, _ = select.select([read], [], [], SILENCE)
            part = os.read(read, 2**16) if ready else b""
            if not part:
                how = "ended the process" if ready else f"no answer within {SILENCE:.0f} s"
                yield Answer(numbers[answered], "?", "fault", told=how)
                return
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                answered += 1
                yield Answer(**json.loads(line))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)


def _answer_all(kind: Kind, numbers: list[int], seed: int, write: int) -> None:
    """Try inputs and write an answer a line."""
    kind.restore()
    limit = address_space() + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with tempfile.TemporaryFile() as words:
        os.dup2(words.fileno(), 2)
        for number in numbers:
            answer = _answer(kind, number, seed, words)
            os.write(write, json.dumps(answer.__dict__).encode() + b"\n")


def _answer(kind: Kind, number: int, seed: int, words: Any) -> Answer:
    """Try one input."""
    before = _restart_peak()
    started = time.process_time()
    about = "?"
    try:
        with warnings.catch_warnings(record=True) as warned, limited(SECONDS):
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", module="PIL")  # as the command line has it
            about, work = kind.case(np.random.default_rng([seed, number]))
            end, told = _attempt(work)
    except TooLong:
        end, told = "fault", f"took more than {SECONDS:.0f} s"
        warned = []
    seconds, memory = time.process_time() - started, _peak() - before
    sys.stderr.flush()
    words.seek(0)
    said = words.read().decode(errors="replace")
    words.seek(0)
    words.truncate()
    said += "".join(f"{w.message}\n" for w in warned if not issubclass(w.category, RenamedWarning))
    if end != "fault" and said:
        end, told = "fault", f"wrote to standard error: {said}"
    if end != "fault" and memory > MEMORY:
        end, told = "fault", f"took {memory / 2**20:.0f} MiB ({told})"
    return Answer(number, about, end, seconds, memory, told)


def _attempt(work: Callable[[], str | None]) -> tuple[str, str]:
    """How an input ended, and what was said."""
    try:
        return work() or "result", ""
    except InputError as fault:
        text = str(fault)
        bad = len(text.splitlines()) != 1 or not text.isprintable() or len(text) > 1000
        return ("fault", f"an error of {len(text)} characters: {text!r}") if bad else ("one line", text)
    except Exception:
        return "fault", traceback.format_exc()


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooLong in the block after so many seconds of the processor, which others may use besides."""

    def stop(*about: object) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _restart_peak() -> int:
    """Forget the most memory this process had; returns what it has now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    """The most memory this process had since then, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
