"""Bulk captioning on a Ray cluster of two nodes on this machine: photos a second, a worker and the driver killed.

``python -m benchmarks.cluster PHOTOS --count 4000`` captions links to the photos of a folder with ``clearcap caption``,
with ``clearcap bulk`` by one worker and by two, and by two of whom one is killed, and then the command itself, which is
given again; it compares the bytes, and prints a JSON object a line as figures come.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.bulk import link_photos
from clearcap.data.paths import expand
from clearcap.errors import InputError

NODES = """
import sys
from ray.cluster_utils import Cluster
small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
cluster.add_node(**small)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def two_nodes() -> Iterator[str]:
    """A cluster of two nodes with a processor each, in a process of its own; its address.

    Raises:
        RuntimeError: it did not come up.
    """
    # Ray's workers are niced by 15, and starve where anything else runs.
    environment = os.environ | {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", NODES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError("Ray's cluster did not come up; see /tmp/ray/session_latest/logs")
        yield address
        process.stdin.close()


def workers_over(folder: Path) -> list[int]:
    """Processes that hold a shard's journal open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(file) for file in (process / "fd").iterdir()]
        except OSError:  # it ended, or is another's
            continue
        if any(file.startswith(f"{folder}/.journal/part-") for file in files):
            found.append(int(process.name))
    return found


def whole_shards(folder: Path) -> int:
    """How many shards are there."""
    return len([file for file in folder.glob("part-*") if ".errors" not in file.name])


def kill_worker_and_driver(command: list[str], out: Path) -> None:
    """Start a command, kill the first worker that has a shard, and once two shards are whole the command itself.

    Raises:
        RuntimeError: the command ended before that.
    """

    def wait_for(what: Callable[[], Any]) -> Any:
        while not (found := what()):
            if driver.poll() is not None:
                raise RuntimeError("the command ended before it was killed; give it more photos")
            time.sleep(0.01)
        return found

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        os.kill(wait_for(lambda: workers_over(out))[0], signal.SIGKILL)
        wait_for(lambda: whole_shards(out) >= 2 and workers_over(out))
        driver.send_signal(signal.SIGKILL)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every shard, and of every file of errors."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("part-*")}


def steady(folder: Path, size: int, actors: int) -> float:
    """Photos a second from when each worker had its first shard whole: without what starting takes."""
    whole = sorted(file.stat().st_mtime for file in folder.glob("part-*") if ".errors" not in file.name)
    later = whole[actors:]
    return size * len(later) / (later[-1] - whole[actors - 1]) if later else math.nan


def timed(command: list[str]) -> dict[str, Any]:
    """Run a command to its end; its summary."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        raise InputError(f"{' '.join(command[2:4])} failed with exit status {done.returncode}")
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure, and print a JSON object for each run."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="after --: options of both commands")
    parser.add_argument("photos", nargs="+", help="photos, folders or globs")
    parser.add_argument("--count", type=int, default=4_000, help="photos to caption")
    parser.add_argument("--shard-size", type=int, default=200, help="photos a shard")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    asked = parser.parse_args(words[:split])
    photos = [one for one in expand(asked.photos) if isinstance(one, str)]
    if not photos:
        raise InputError("no photos; name a folder of some")
    options = ["--json", "--shard-size", str(asked.shard_size), *words[split + 1 :]]
    with tempfile.TemporaryDirectory() as folder, two_nodes() as address:
        place = Path(folder)
        (place / "photos").mkdir()
        link_photos(photos, asked.count, place / "photos")

        def command(name: str, *more: str) -> list[str]:
            out = ["--out", str(place / name)] if name == "caption" else [str(place / name), *more]
            verb = "caption" if name == "caption" else "bulk"
            return [sys.executable, "-m", "clearcap", verb, str(place / "photos"), *out, *options]

        told = timed(command("caption"))
        rate = steady(place / "caption", asked.shard_size, 1)
        show("clearcap caption", told | {"once started": round(rate, 1)})
        whole = digests(place / "caption")
        for actors in (1, 2):
            name = f"{actors} workers"
            told = timed(command(name, "--address", address, "--actors", str(actors)))
            rate = steady(place / name, asked.shard_size, actors)
            show(name, told | {"once started": round(rate, 1), "equal": digests(place / name) == whole})
        killed = command("killed", "--address", address)
        kill_worker_and_driver(killed, place / "killed")
        show("killed", timed(killed) | {"equal": digests(place / "killed") == whole})


def show(what: str, figures: dict[str, Any]) -> None:
    """One JSON object with the machine's load."""
    print(json.dumps({what: figures, "load": os.getloadavg()}), flush=True)


if __name__ == "__main__":
    main()
