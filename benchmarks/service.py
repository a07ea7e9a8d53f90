"""``python -m benchmarks.service``: clearcap serve under load, beside captioning one photo at a time, in one run."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console

from benchmarks.hostile import attacks, is_refused, redirecting_server, slow_attacks
from benchmarks.load import Load, closed_loop, open_loop
from benchmarks.served import Service, running_service
from clearcap.bench.latency import sample_photo
from clearcap.cli.options import number_list, show_table
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline

UPLOAD_SECONDS, MAX_BYTES = 5, 2_000_000


def service(
    photos: Annotated[
        Path | None, typer.Option(help="folder of photos; default is parts of one that ships")
    ] = None,
    limit: Annotated[int, typer.Option(help="photos of it")] = 200,
    model: Annotated[str, typer.Option(help="folder or hub name")] = "default",
    workers: Annotated[int, typer.Option(help="processes of the service")] = 1,
    threads: Annotated[
        int,
        typer.Option(
            help="of each worker; 0 shares out the cores, all of which captioning one at a time has"
        ),
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="photos of a forward pass at most")] = 4,
    queue: Annotated[int, typer.Option(help="photos that may wait in each worker")] = 32,
    clients: Annotated[str, typer.Option(help="how many ask at once")] = "1,8,32",
    seconds: Annotated[float, typer.Option(help="that each load lasts")] = 10.0,
    hostile: Annotated[int, typer.Option(help="hostile requests")] = 500,
    rounds: Annotated[int, typer.Option(help="turns in which each load and one at a time alternate")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Latency and throughput at several clients, overload at twice that, hostile requests, an end under load."""
    counts = number_list(clients, int, "--clients")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = photos_of(photos, limit) if photos else parts_of(sample_photo(), Path(folder), limit)
        pipeline = CaptionPipeline.from_pretrained(model, backend="fast")
        expected = {path: one.caption for path, one in zip(paths, pipeline(paths), strict=True)}
        limits = ("--upload-timeout", UPLOAD_SECONDS, "--max-bytes", MAX_BYTES)
        urls = ("--allow-urls", "--allow-network", "127.0.0.2/32")
        shape = ("--workers", workers, "--threads", threads, "--batch-size", batch_size, "--queue", queue)
        options = ("--model", model, *shape, *limits, *urls)
        found: dict[str, Any] = {"photos": len(paths), "workers": workers, "batch_size": batch_size}
        loads: dict[str, Load] = {}
        beside: dict[str, Load] = {}
        with running_service(*options) as started:
            for count in counts:
                name = f"{count} clients"
                console.print(name, highlight=False)
                loads[name], beside[name] = Load(), Load()
                for turn in range(rounds):
                    first = turn * len(paths) // rounds
                    photos_now = [*paths[first:], *paths[:first]]
                    beside[name].add(one_at_a_time(pipeline, photos_now, expected, seconds / rounds))
                    loads[name].add(
                        closed_loop(started, photos_now, expected, clients=count, seconds=seconds / rounds)
                    )
            most = max(load.rate for load in loads.values())
            lasting = max(
                seconds, 4 * queue * workers / most
            )  # it takes a quarter of that to fill the queues
            console.print(f"{2 * most:.1f} requests a second for {lasting:.0f} s", highlight=False)
            name = f"{2 * most:.1f} requests a second"
            loads[name] = open_loop(started, paths, expected, rate=2 * most, seconds=lasting)
            console.print(f"{hostile} hostile requests", highlight=False)
            found["hostile"] = attack(started, hostile)
            found["end under load"] = end_under_load(started, paths, expected)
    found["loads"] = {name: summary(load, beside.get(name)) for name, load in loads.items()}
    print(json.dumps(found)) if as_json else show(found)


def photos_of(folder: Path, limit: int) -> list[Path]:
    """Photos of a folder. Raises InputError."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        raise InputError(f"{folder} has no .jpg or .png; name a folder of photos")
    return found[:limit]


def parts_of(photo: Path, folder: Path, limit: int) -> list[Path]:
    """Parts of one photo, which are photos, too."""
    whole = Image.open(photo).convert("RGB")
    draw = np.random.default_rng(0)
    found = []
    for number in range(limit):
        left, top = (int(draw.integers(0, side // 2)) for side in whole.size)
        part = whole.crop((left, top, left + whole.width // 2, top + whole.height // 2))
        found.append(folder / f"{number:04}.jpg")
        part.save(found[-1])
    return found


def one_at_a_time(
    pipeline: CaptionPipeline, photos: Sequence[Path], expected: Mapping[Path, str], seconds: float
) -> Load:
    """Captions in this process, one photo after the other, while the service has nothing to do."""
    load = Load()
    pipeline(photos[0])  # what rested is woken
    began = time.perf_counter()
    for photo in itertools.cycle(photos):
        start = time.perf_counter()
        load.wrong += pipeline(photo).caption != expected[photo]
        load.latencies.append(time.perf_counter() - start)
        load.seconds = time.perf_counter() - began
        if load.seconds > seconds:
            return load
    raise InputError("no photos; name a folder of some")


def attack(started: Service, count: int) -> dict[str, Any]:
    """Hostile requests in turn, eight at once, and the slow ones beside them; names of those not refused in a line."""
    with redirecting_server("http://127.0.0.1:1/photo.jpg") as url:
        quick, slow = attacks(MAX_BYTES, url), slow_attacks(UPLOAD_SECONDS)
        names = list(quick)
        turns = [names[number % len(names)] for number in range(max(0, count - len(slow)))]
        with ThreadPoolExecutor(8) as pool, ThreadPoolExecutor(len(slow)) as waiting:
            dripping = {name: waiting.submit(run, started.port) for name, run in slow.items()}
            answers = list(zip(turns, pool.map(lambda name: quick[name](started.port), turns), strict=True))
            answers += [(name, answer.result()) for name, answer in dripping.items()]
    bad = sorted({f"{name}: {answer.status}" for name, answer in answers if not is_refused(answer)})
    return {
        "sent": len(answers),
        "refused in a line": sum(is_refused(answer) for _, answer in answers),
        "others": bad,
    }


def end_under_load(started: Service, photos: Sequence[Path], expected: Mapping[Path, str]) -> dict[str, Any]:
    """Sixteen requests, then SIGTERM: what became of those that the service had."""
    load = Load()

    def run(photo: Path) -> None:
        client = started.client()
        answer = client.post_form("/v1/captions", [photo.read_bytes()], candidates=10, select="confidence")
        load.statuses[answer.status] += 1

    with ThreadPoolExecutor(16) as pool:
        running = [pool.submit(run, photo) for photo in photos[:16]]
        watch = started.client()
        until = time.monotonic() + 60
        while started.metric("clearcap_open_requests", watch) < len(running) + 1 and time.monotonic() < until:
            time.sleep(0.01)
        started.process.send_signal(signal.SIGTERM)
        lost = sum(one.exception() is not None for one in running)
    return {
        "asked": len(running),
        "answered": load.statuses[200],
        "lost": lost,
        "exit": started.process.wait(120),
    }


def summary(load: Load, one: Load | None) -> dict[str, Any]:
    """A load's figures, and its captions a second against those one at a time, which alternated with it."""
    told = {
        "p50_ms": round(load.percentile(0.5), 1),
        "p99_ms": round(load.percentile(0.99), 1),
        "captions_a_second": round(load.rate, 2),
        "asked": load.asked,
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "lost": load.lost,
        "wrong": load.wrong,
        "without_retry_after": load.silent,
        "megabytes": round(load.megabytes),
    }
    if one is None:
        return told
    alone = {"p50_ms": round(one.percentile(0.5), 1), "p99_ms": round(one.percentile(0.99), 1)}
    return told | {
        "one_at_a_time": alone | {"captions_a_second": round(one.rate, 2), "wrong": one.wrong},
        "ratio": round(load.rate / one.rate, 2),
    }


def show(found: Mapping[str, Any]) -> None:
    """Print everything."""
    rows = [
        (
            name,
            f"{one['p50_ms']:.0f}",
            f"{one['p99_ms']:.0f}",
            f"{one['captions_a_second']:.1f}",
            f"{one['ratio']:.2f}" if "ratio" in one else "",
            " ".join(f"{status}: {count}" for status, count in one["statuses"].items()),
            f"{one['lost']}, {one['wrong']}, {one['without_retry_after']}",
            f"{one['megabytes']:,}" if one["megabytes"] else "",
        )
        for name, one in found["loads"].items()
    ]
    console = show_table(
        (
            "load",
            "p50 ms",
            "p99 ms",
            "captions/s",
            "of one at a time",
            "answers",
            "lost, wrong, silent",
            "MB",
        ),
        rows,
        title=f"{found['workers']} workers, batches of {found['batch_size']}, {found['photos']} photos",
        words=("load", "answers"),
        width=130,
    )
    told, end = found["hostile"], found["end under load"]
    console.print(
        f"hostile: {told['refused in a line']} of {told['sent']} refused in a line; {told['others']}"
    )
    console.print(
        f"end under load: {end['answered']} of {end['asked']} answered, {end['lost']} lost, exit {end['exit']}"
    )


if __name__ == "__main__":
    try:
        typer.run(service)
    except InputError as fault:
        print(f"benchmarks.service: {fault}", file=sys.stderr)
        sys.exit(1)
