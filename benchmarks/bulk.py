"""Bulk captioning at length: photos a second, memory, and runs that are killed.

``python -m benchmarks.bulk PHOTOS --count 20000`` captions links to the photos of a folder with ``clearcap caption``,
and lets it stand still ``--rounds`` times to measure each stage alone; it prints JSON lines as figures come.
``--kills 5`` then captions ``--killed-count`` of them into each of ``--formats``, by processes killed at random
moments, and compares the rows with those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clearcap.bench.throughput import Throughput, measure_throughput
from clearcap.config import SamplingConfig, changes
from clearcap.data.paths import expand
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline

FORMATS = ("jsonl", "csv", "parquet")
PAGE = os.sysconf("SC_PAGE_SIZE")


def link_photos(photos: list[str], count: int, folder: Path) -> Path:
    """A folder of ``count`` links to photos, each used about equally often."""
    for number in range(count):
        original = Path(photos[number % len(photos)]).resolve()
        (folder / f"{number:06d}{original.suffix}").symlink_to(original)
    return folder


def command(folder: Path, out: Path, options: list[str]) -> list[str]:
    """The command that captions a folder into a file."""
    return [sys.executable, "-m", "clearcap", "caption", str(folder), "--out", str(out), "--json", *options]


@dataclass
class Watched:
    """A run as it is seen from outside.

    Attributes:
        process: that runs.
        journal: the file to which it adds a line a photo.
        count: photos that it will caption.
        megabytes: resident memory, by quarter of the photos.
        done: lines of the journal.
    """

    process: subprocess.Popen[str]
    journal: Path
    count: int
    megabytes: dict[int, list[float]] = field(default_factory=dict)
    done: int = 0
    _seen: int = 0

    def look(self) -> None:
        """Note its memory, and how far it has come."""
        try:
            resident = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE / 2**20
            with open(self.journal, "rb") as file:
                file.seek(self._seen)
                fresh = file.read()
        except (OSError, IndexError):  # not yet, or no longer
            return
        self._seen += len(fresh)
        self.done += fresh.count(b"\n")
        self.megabytes.setdefault(min(3, 4 * self.done // self.count), []).append(resident)

    def of_quarter(self, quarter: int) -> dict[str, float]:
        """The median and the most of a quarter's memory."""
        found = self.megabytes.get(quarter) or [math.nan]
        return {"median": round(statistics.median(found)), "most": round(max(found))}


def run_beside_stages(
    arguments: list[str], journal: Path, count: int, stages: Callable[[], Throughput], rounds: int
) -> dict[str, Any]:
    """Run a command to its end, and let it stand still a few times to measure each stage alone in between.

    What else a machine does so weighs on the run as much as on the stages, which are compared with the photos a second
    of the stretches just before and after.

    Args:
        arguments: the command.
        journal: to which it adds a line a photo.
        count: photos.
        stages: measures them.
        rounds: how often.

    Returns:
        Its summary, memory, processor time, and shares of what the stages could do: of each round, and their medians.
    """
    spent = processor_seconds()
    run = Watched(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True), journal, count)
    stretches: list[float] = []
    alone: list[Throughput] = []

    def go_on(goal: float) -> None:
        began, before = time.perf_counter(), run.done
        while run.process.poll() is None and run.done < goal:
            time.sleep(0.25)
            run.look()
        stretches.append((run.done - before) / (time.perf_counter() - began))

    for turn in range(1, rounds + 1):
        go_on(turn * count / (rounds + 1))
        run.process.send_signal(signal.SIGSTOP)
        try:
            alone.append(stages())
        finally:
            run.process.send_signal(signal.SIGCONT)
    go_on(math.inf)
    summary = json.loads(run.process.stdout.read()) if run.process.stdout else {}
    rates = [statistics.fmean(stretches[i : i + 2]) for i in range(len(alone))]
    slowest = [
        rate * max(1 / one.rate for one in found.stages) for rate, found in zip(rates, alone, strict=True)
    ]
    turns = [
        rate * sum(1 / one.rate for one in found.stages) for rate, found in zip(rates, alone, strict=True)
    ]
    milliseconds = {
        one.name: round(statistics.median(found.stages[i].cpu for found in alone), 2)
        for i, one in enumerate(alone[0].stages)
    }
    cpu = 1000 * (processor_seconds() - spent) / count
    return {
        "photos": summary["photos"],
        "captions": summary["captions"],
        "photos a second": round(statistics.median(rates), 2),
        "share of the slowest stage alone": spread(slowest),
        "the most that share can be where stages take turns": spread(
            [a / b for a, b in zip(slowest, turns, strict=True)]
        ),
        "share of what stages that take turns can do": spread(turns),
        "CPU ms a photo": round(cpu, 2),
        "CPU ms of each stage alone": milliseconds,
        "share of the processor time in stages": round(sum(milliseconds.values()) / cpu, 3),
        "megabytes": {"second quarter": run.of_quarter(1), "last quarter": run.of_quarter(3)},
    }


def processor_seconds() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spread(found: list[float]) -> dict[str, float]:
    """The median of several figures, the least and the most."""
    named = {"median": statistics.median(found), "least": min(found), "most": max(found)}
    return {name: round(value, 3) for name, value in named.items()}


def killed_runs(arguments: list[str], journal: Path, kills: int, seconds: float) -> list[int]:
    """Run a command to its end that is killed at random moments, and given again each time.

    Args:
        arguments: the command.
        journal: to which it adds a line a photo.
        kills: how often.
        seconds: that it takes when nobody kills it.

    Returns:
        Lines of the journal at each kill.

    Raises:
        RuntimeError: it ended before it was killed.
    """
    rng = random.Random(journal.name)
    written = []
    for _ in range(kills):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        # all of them together end before the photos do, and many fall into the first second, as the model loads
        time.sleep(rng.uniform(0, seconds / kills))
        if process.poll() is not None:
            raise RuntimeError("the command ended before it was killed; give it more photos")
        process.send_signal(signal.SIGKILL)
        process.wait()
        written.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    return written


def rows_digest(file: Path) -> tuple[int, str]:
    """How many rows a file of captions has, and the SHA-256 of their photos, captions and confidences, in order."""
    columns = ("image", "caption", "confidence")
    if file.suffix == ".parquet":
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(file).to_pylist()
    elif file.suffix == ".csv":
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
    else:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    told = [
        [row["image"], row["caption"], f"{float(row['confidence']):.4f}"]
        for row in rows
        if set(columns) <= set(row)
    ]
    return len(told), hashlib.sha256(json.dumps(told).encode()).hexdigest()


def main() -> None:
    """Measure, and print a JSON object for the run, and for the killed runs of each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", help="photos, folders or globs")
    parser.add_argument("--count", type=int, default=20_000, help="photos to caption; 0: kills alone")
    parser.add_argument("--model", default="default", help="folder or hub name")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="sampling setting")
    parser.add_argument("--stages", type=int, default=64, help="photos that each stage is timed with")
    parser.add_argument("--rounds", type=int, default=8, help="times that the stages are timed")
    parser.add_argument("--kills", type=int, default=0, help="kills in each format")
    parser.add_argument(
        "--formats", nargs="+", default=FORMATS, choices=FORMATS, help="of runs that are killed"
    )
    parser.add_argument("--killed-count", type=int, default=500, help="photos of the runs that are killed")
    asked = parser.parse_args()
    options = ["--model", asked.model, *(word for setting in asked.set for word in ("--set", setting))]
    photos = [one for one in expand(asked.photos) if isinstance(one, str)]
    if not photos:
        raise InputError("no photos; name a folder of some")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def begun(name: str, count: int) -> tuple[list[str], Path]:
            links = place / f"{count} photos"
            if not links.exists():
                links.mkdir()
                link_photos(photos, count, links)
            return command(links, place / name, options), place / f"{name}.journal"

        if asked.count:
            pipeline = CaptionPipeline.from_pretrained(asked.model, backend="fast")
            how = changes(SamplingConfig, asked.set)
            stages = partial(measure_throughput, pipeline, photos[: asked.stages], **how)
            run, journal = begun("x.jsonl", asked.count)
            show(asked.model, run_beside_stages(run, journal, asked.count, stages, asked.rounds))
            del pipeline, stages
        if not asked.kills:
            return
        run, _ = begun("whole.jsonl", asked.killed_count)
        began = time.perf_counter()
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        whole = rows_digest(place / "whole.jsonl")
        show("not killed", {"rows": whole[0], "SHA-256 of rows": whole[1], "seconds": round(seconds, 1)})
        for format in asked.formats:
            file = place / f"killed.{format}"
            killed = killed_runs(*begun(file.name, asked.killed_count), asked.kills, seconds)
            rows = rows_digest(file)
            told = {
                "killed at lines": killed,
                "rows": rows[0],
                "SHA-256 of rows": rows[1],
                "equal": rows == whole,
            }
            show(format, told)


def show(what: str, figures: dict[str, Any]) -> None:
    """One JSON object with the machine's load."""
    print(json.dumps({what: figures, "load": os.getloadavg()}), flush=True)


if __name__ == "__main__":
    main()
