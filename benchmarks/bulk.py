"""Bulk captioning at length: photos a second, memory, and runs that are killed.

``python -m benchmarks.bulk PHOTOS --count 20000`` captions links to the photos of a folder with ``clearcap caption``,
beside a measurement of each stage alone, and prints JSON lines as figures come. ``--kills 5`` then captions
``--killed-count`` of them into each of ``--formats``, by processes killed at random moments, and compares the bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clearcap.bench.throughput import Throughput, measure_throughput
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


def run_watched(arguments: list[str], journal: Path, count: int) -> dict[str, Any]:
    """Run a command to its end; its summary, and its memory in the second and the last quarter of the photos."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    quarters: dict[int, list[float]] = {}
    done, seen = 0, 0
    while process.poll() is None:
        time.sleep(0.25)
        try:
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE / 2**20
            with open(journal, "rb") as file:
                file.seek(seen)
                fresh = file.read()
        except (OSError, IndexError):
            continue
        seen += len(fresh)
        done += fresh.count(b"\n")
        quarters.setdefault(min(3, 4 * done // count), []).append(resident)
    summary = json.loads(process.stdout.read()) if process.stdout else {}
    memory = {quarter: statistics.median(found) for quarter, found in quarters.items()}
    return summary | {"megabytes": {"second quarter": memory.get(1), "last quarter": memory.get(3)}}


def killed_runs(folder: Path, out: Path, kills: int, options: list[str], seconds: float) -> bytes:
    """SHA-256 of what a command writes that is killed at random moments, and given again each time."""
    rng = random.Random(out.suffix)
    killed = 0
    while killed < kills:
        process = subprocess.Popen(command(folder, out, options), stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0, 2 * seconds / (kills + 1)))
            break  # it was sooner
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    subprocess.run(command(folder, out, options), check=True, stdout=subprocess.DEVNULL)
    return hashlib.sha256(out.read_bytes()).digest()


def main() -> None:
    """Measure, and print a JSON object for the stages, the run, and the killed runs of each format."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="after --: options of clearcap caption")
    parser.add_argument("photos", nargs="+", help="photos, folders or globs")
    parser.add_argument("--count", type=int, default=20_000, help="photos to caption")
    parser.add_argument("--model", default="default", help="folder, hub name, or one of those that ship")
    parser.add_argument("--stages", type=int, default=256, help="photos that each stage is timed with")
    parser.add_argument("--kills", type=int, default=0, help="kills in each format")
    parser.add_argument(
        "--formats", nargs="+", default=FORMATS, choices=FORMATS, help="of runs that are killed"
    )
    parser.add_argument("--killed-count", type=int, default=500, help="photos of the runs that are killed")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    asked = parser.parse_args(words[:split])
    options = ["--model", asked.model, *words[split + 1 :]]
    photos = [one for one in expand(asked.photos) if isinstance(one, str)]
    if not photos:
        raise InputError("no photos; name a folder of some")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "all").mkdir()
        (place / "some").mkdir()
        link_photos(photos, asked.count, place / "all")
        link_photos(photos, asked.killed_count, place / "some")
        pipeline = CaptionPipeline.from_pretrained(asked.model, backend="fast")
        show("stages", alone := measure_throughput(pipeline, photos[: asked.stages]))
        del pipeline
        out = place / "x.jsonl"
        told = run_watched(command(place / "all", out, options), place / "x.jsonl.journal", asked.count)
        shares = {
            "of the slowest stage's limit": told["photos_per_second"] / min(one.rate for one in alone.stages),
            "of stages that take turns": told["photos_per_second"]
            * sum(1 / one.rate for one in alone.stages),
        }
        show(asked.model, told | shares)
        for format in asked.formats if asked.kills else ():
            whole = place / f"whole.{format}"
            began = time.perf_counter()
            subprocess.run(command(place / "some", whole, options), check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - began
            killed = killed_runs(place / "some", place / f"killed.{format}", asked.kills, options, seconds)
            equal = killed == hashlib.sha256(whole.read_bytes()).digest()
            show(format, {"kills": asked.kills, "photos": asked.killed_count, "equal": equal})


def show(what: str, figures: Throughput | dict[str, Any]) -> None:
    """One JSON object with the machine's load."""
    told = figures.to_json() if isinstance(figures, Throughput) else figures
    print(json.dumps({what: told, "load": os.getloadavg()}), flush=True)


if __name__ == "__main__":
    main()
