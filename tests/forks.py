"""Commands as forks of one process that has the libraries imported, but nothing of clearcap: ``import torch`` alone
takes longer than what most tests have a command do.

``run(WORDS)`` is ``python -m clearcap WORDS`` otherwise: a process of its own with its own environment, folder and
files, which imports clearcap, runs it as ``__main__`` and ends as Python ends. ``python -S tests/forks.py -- WORDS``,
which starts in no time, does the same for shell scripts, in the environment of ``for_scripts()``.

What Python itself reads as it starts (but for ``PYTHONIOENCODING``), the seed of its hashes, and what libraries read as
they are imported, are as they were for the first command. Tests that change such things, and what is to be
killed, start Python itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LIBRARIES = (
    "accelerate",
    "numpy",
    "PIL.Image",
    "rich.console",
    "safetensors.torch",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
)
SOCKET = "CLEARCAP_TESTS_SOCKET"  # where in the environment the scripts' commands find it
_server: list[Path] = []  # the running one's socket


class Forked:
    """A command that runs.

    Args:
        words: of its command line.
        files: its standard input, output and error.
        where: the socket that is asked for it.
        environment: variables beside this process's.
    """

    def __init__(
        self,
        words: list[str],
        files: tuple[int, int, int],
        where: str | os.PathLike[str],
        environment: dict[str, str] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._line.connect(os.fspath(where))
        socket.send_fds(self._line, [b"+"], files)
        asked = {"words": words, "folder": os.getcwd(), "environment": {**os.environ, **(environment or {})}}
        self._line.sendall(json.dumps(asked).encode())
        self._line.shutdown(socket.SHUT_WR)
        self._said = self._line.makefile("r")
        self.pid = int(self._said.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status; negative where a signal ended it."""
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("clearcap", timeout or 0)
            self.returncode = int(self._said.readline())
            self._said.close()
            self._line.close()
        return self.returncode

    def kill(self, which: int = signal.SIGKILL) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        if self.returncode is None:
            os.kill(self.pid, which)


def for_scripts() -> dict[str, str]:
    """The environment in which shell scripts call the command ``$CLEARCAP``."""
    return {"CLEARCAP": f"{sys.executable} -S {Path(__file__).resolve()} --", SOCKET: str(server())}


def run(
    words: list[str], timeout: float = 300, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run ``clearcap WORDS`` to its end.

    Args:
        words: of its command line.
        timeout: seconds after which it is killed, which is an error.
        stdin: what comes out of the pipe that is its standard input.
        environment: variables beside this process's.
    """
    where = server()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given, giving = os.pipe()
        try:
            process = Forked(words, (given, out.fileno(), err.fileno()), where, environment)
        finally:
            os.close(given)
            threading.Thread(target=_give, args=(giving, stdin)).start()
        try:
            process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, process.wait(), out.read(), err.read())


def _give(pipe: int, data: bytes) -> None:
    """Write everything into a pipe, unless its reader has ended, and close it."""
    with contextlib.suppress(BrokenPipeError), open(pipe, "wb", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


def server() -> Path:
    """The socket of this process's server, which is started for the first command and ends with this process."""
    if not _server:
        where = Path(tempfile.mkdtemp(prefix="clearcap-")) / "socket"
        command = [sys.executable, __file__, where]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

        def end() -> None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

        atexit.register(end)
        while not where.exists():
            assert process.poll() is None, "the libraries cannot be imported"
            time.sleep(0.02)
        _server.append(where)
    return _server[0]


def serve(where: str) -> None:
    """Import the libraries, then fork for whoever asks, until standard input ends; returns in each command."""
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of tests
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each fork's collector would touch, and so copy, all of this process's memory
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(where + ".new")
    listening.listen(64)
    os.rename(where + ".new", where)
    while True:
        asking = select.select([listening, 0], [], [])[0]
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if 0 in asking:
            shutil.rmtree(Path(where).parent)
            sys.exit()
        line, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            return become(line)
        line.close()


def become(line: socket.socket) -> None:
    """Fork once more: the parent tells how the command ends, the child returns as it."""
    _, files, _, _ = socket.recv_fds(line, 1, 3)
    with line.makefile("r") as said:
        asked = json.load(said)
    child = os.fork()
    if child:
        for file in (0, 1, 2, *files):
            os.close(file)  # who reads the command's output waits for its end, not for ours
        line.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):
            line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    line.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    how = {"encoding": encoding or sys.stdout.encoding, "errors": errors or sys.stdout.errors}
    if encoding and not errors:
        how["errors"] = "strict"
    into, out, err = (io.FileIO(number, "wr"[number == 0], closefd=False) for number in range(3))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(into), **how)
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.BufferedWriter(out), **how)
    how |= {"errors": "backslashreplace", "line_buffering": True}
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(io.BufferedWriter(err), **how)
    sys.path.insert(0, os.getcwd())
    sys.argv = ["clearcap", *asked["words"]]
    importlib.import_module("numpy").random.seed()  # anew, as in every process


def main() -> None:
    """The server, or what asks one for a command."""
    where, *words = sys.argv[1:]
    if where == "--":
        asked = Forked(words, (0, 1, 2), os.environ[SOCKET])
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, lambda number, frame: asked.kill(number))
        status = asked.wait()
        sys.exit(status if status >= 0 else 128 - status)
    serve(where)
    runpy.run_module("clearcap", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
