"""The command line as a user types it: a process of its own, which may be killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import forks
import pytest

from clearcap.training.log import RunLog
from clearcap.training.loop import StepReport


def clearcap(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run ``clearcap ARGUMENTS`` and wait for it."""
    done = forks.run([str(word) for word in arguments], timeout)
    texts = [io.TextIOWrapper(io.BytesIO(said)).read() for said in (done.stdout, done.stderr)]
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


def started(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``clearcap ARGUMENTS`` on one thread; what it prints goes to the end of a file."""
    with log.open("ab") as words:
        return subprocess.Popen(
            [sys.executable, "-m", "clearcap", *arguments],
            stdout=words,
            stderr=words,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool], seconds: float = 300) -> None:
    """Kill a process as soon as something is so, which must be before it ends by itself."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it came to nothing"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@contextmanager
def interrupted_after(step: int) -> Iterator[None]:
    """Meanwhile training in this process is interrupted once it has reported a step; 0 is none."""
    written = RunLog.report

    def report(log: RunLog, measured: StepReport) -> None:
        written(log, measured)
        if measured.step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "report", report)
        yield
