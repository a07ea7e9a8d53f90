"""Kills: a command that is ended by SIGKILL at any moment and started again leaves what it leaves otherwise.

``python -m tests.kills [COMMAND ...] --kills 10 --seed 0`` runs each command that writes on tiny models: once to its
end, then killed at random moments of its processor time and run again each time, and prints how often the files were
the same, byte for byte. Seconds that something took are left out of the comparison, as nothing repeats them. After a
kill every file under a final name must be whole. ``--full`` gives it a disk of random size instead (a small tmpfs,
which only root may mount): that is one line of error, what was there stays whole, and with room the command goes on to
the same files.

A command runs in a fork of this process, where everything is imported, so that a kill costs no second start of Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save

TIMES = {
    "seconds",
    "ms",
    "ms_per_photo",
    "ms_per_reference",
    "encode_ms",
    "encode_ms_per_photo",
    "photos_per_second",
}  # what files say of how long it took
UNFINISHED = re.compile(r"(^|/)\.new-|\.new(/|$)|\.old(/|$)")  # names of what is being written
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes of which a disk in memory is made
LARGE = 2**30  # bytes of a disk with room
FINISHED_BY = {  # arrays that are filled in place -> the file beside that says how far
    "tokens.npy": "index.json",
    "x0.npy": "progress.json",
    "ids.npy": "progress.json",
}


@dataclass(frozen=True)
class Command:
    """How a command is run.

    Attributes:
        words: its command line, given the folder it writes to.
        prints: whether what it writes is standard output, which goes to ``captions.jsonl`` in that folder.
        around: what has to hold while it runs.
    """

    words: Callable[[Path], list[str]]
    prints: bool = False
    around: Callable[[], Any] = contextlib.nullcontext


@dataclass
class Ended:
    """How a run ended: its exit status (-9 where it was killed), its processor time and its words on standard error."""

    status: int
    seconds: float
    words: str


@dataclass
class Kills:
    """A line of the table."""

    command: str
    done: int = 0
    equal: int = 0
    late: int = 0  # runs that ended before they were killed
    faults: list[str] = field(default_factory=list)


def run(command: Command, out: Path, *, kill_at: float | None = None) -> Ended:
    """Run a command in a child process.

    Args:
        command: what.
        out: the folder it writes to, alone in the one above, beside which its standard error goes.
        kill_at: seconds of its processor time after which it is killed.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    errors = out.parent.with_name(out.parent.name + ".stderr")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be(command, out, errors)
    killed = False
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if kill_at is not None and not killed and _seconds_of(child) >= kill_at:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.001)
    return Ended(
        os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, errors.read_text(errors="replace")
    )


def _be(command: Command, out: Path, errors: Path) -> None:
    """Become the command; never returns."""
    code = 70
    try:
        words = command.words(out)
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
        if command.prints:
            out.mkdir(exist_ok=True)
        os.dup2(os.open(out / "captions.jsonl" if command.prints else os.devnull, flags), 1)
        os.dup2(os.open(errors, flags), 2)
        torch.set_num_threads(1)
        sys.argv = ["clearcap", *words]
        from clearcap.cli import main

        with command.around():
            main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _seconds_of(process: int) -> float:
    """Processor time that a process has used."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def kill(
    name: str, command: Command, folder: Path, whole: Path, seconds: float, rng: np.random.Generator
) -> Kills:
    """Kill a command once, run it again, and compare with what it wrote whole.

    Args:
        name: of the command.
        command: it.
        folder: to write to.
        whole: the folder of an uninterrupted run.
        seconds: of processor time that that took.
        rng: chooses the moment.
    """
    found, at = Kills(name), float(rng.uniform(0, seconds))
    ended = run(command, folder, kill_at=at)
    found.done, found.late = 1, int(ended.status != -signal.SIGKILL)
    found.faults += [f"{name}, killed at {at:.2f} s: {fault}" for fault in half_written(folder)]
    again = run(command, folder)
    if again.status:
        found.faults.append(f"{name}, killed at {at:.2f} s and run again: {again.words[-2000:]}")
    _compare(found, f"killed at {at:.2f} s", folder, whole)
    return found


def fill_disk(name: str, command: Command, folder: Path, whole: Path, rng: np.random.Generator) -> Kills:
    """Give a command a disk too small for what it writes, then run it again with room, and compare."""
    found = Kills(name)
    needed = sum(-(-path.stat().st_size // PAGE) for path in whole.rglob("*") if path.is_file())
    room = int(rng.integers(1, max(2, needed))) * PAGE
    with small_disk(folder.parent) as resize:
        command.words(folder)  # makes what has to be there before
        resize(room + sum(path.stat().st_blocks * 512 for path in folder.parent.rglob("*") if path.is_file()))
        ended = run(command, folder)
        found.done, found.late = 1, int(ended.status == 0)
        told = [line for line in ended.words.splitlines() if line.startswith("clearcap:")]
        if "Traceback" in ended.words or (ended.status and len(told) != 1) or ended.status not in (0, 1):
            found.faults.append(f"{name}, {room:,} bytes of room: exit {ended.status}, {ended.words[-2000:]}")
        found.faults += [f"{name}, {room:,} bytes of room: {fault}" for fault in half_written(folder)]
        resize(LARGE)
        again = run(command, folder)
        if again.status:
            found.faults.append(f"{name}, {room:,} bytes of room, run again with room: {again.words[-2000:]}")
        _compare(found, f"{room:,} bytes of room", folder, whole)
    return found


@contextlib.contextmanager
def small_disk(at: Path) -> Iterator[Callable[[int], None]]:
    """A disk in memory, and what gives it so many bytes. Raises CalledProcessError where it cannot be mounted."""

    def mount(options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], check=True, capture_output=True
        )

    at.mkdir(parents=True)
    mount(f"size={LARGE}")
    try:
        yield lambda size: mount(f"remount,size={size}")
    finally:
        subprocess.run(["umount", str(at)], check=True)


def _compare(found: Kills, how: str, folder: Path, whole: Path) -> None:
    mine, theirs = contents(folder), contents(whole)
    other = sorted(place for place in mine.keys() | theirs.keys() if mine.get(place) != theirs.get(place))
    found.equal += not other
    if other:
        found.faults.append(f"{found.command}, {how}: differs in {', '.join(other)}")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its place, without what it says of times and of the folder itself."""
    return {
        place: without_times(path, folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix != ".log"
        and not UNFINISHED.search(place := str(path.relative_to(folder)))
    }


def without_times(path: Path, folder: Path) -> bytes:
    """What a file says whenever, and wherever, it is written."""
    data = path.read_bytes()
    if path.name in ("timing.json", "times.json"):
        return b""
    if path.name in ("table.png", "sweep.png"):  # they show milliseconds
        return b"a picture"
    if path.suffix in (".json", ".jsonl"):
        lines = [data] if path.suffix == ".json" else data.splitlines()
        kept = [json.dumps(_timeless(json.loads(line)), ensure_ascii=False) for line in lines]
        return "\n".join(kept).replace(str(folder), "OUT").encode()
    if path.name == "tokens.safetensors" or path.parent.name == "tokens":
        return save({name: tensor for name, tensor in load(data).items() if name != "ms"})
    return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def half_written(folder: Path) -> list[str]:
    """What is not whole under its final name, one sentence each."""
    found = []
    for path in sorted(folder.rglob("*")):
        place = str(path.relative_to(folder))
        if not path.is_file() or UNFINISHED.search(place):
            continue
        marker = FINISHED_BY.get(path.name)
        if marker is not None and not (path.parent / marker).is_file():
            continue  # it says itself that it is not finished
        try:
            _read(path)
        except Exception as fault:
            found.append(f"{place} is half written ({type(fault).__name__}: {fault})")
    return found


def _read(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        for line in path.read_bytes().split(b"\n")[:-1]:
            json.loads(line)
    elif path.suffix == ".safetensors":
        load(path.read_bytes())
    elif path.suffix == ".npy":
        np.load(path, mmap_mode="r")
    elif path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.read_table(path)
    elif path.suffix == ".gz":
        import gzip

        json.loads(gzip.decompress(path.read_bytes()))
    elif path.suffix == ".onnx":
        import onnx

        onnx.load_from_string(path.read_bytes())
