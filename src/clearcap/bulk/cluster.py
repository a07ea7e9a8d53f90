"""Bulk captioning by many machines: Ray Data hands shards to actors that hold the model."""

from __future__ import annotations

import json
import logging
import os
import pickle
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clearcap.bulk.file import Tally
from clearcap.bulk.run import Output, Run, Sampling, Summary
from clearcap.bulk.shards import JOURNALS, begin_shards, end_shards, is_running, shard_name
from clearcap.bulk.sources import Piece, Sources, holds_several, in_pieces
from clearcap.config import number
from clearcap.data.images import is_url
from clearcap.data.writing import full, is_full
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline

log = logging.getLogger("clearcap")
PATIENCE = 60.0  # seconds until workers of a driver that is dead are gone, too
DEATHS = 20  # of workers over one shard until it is given up
BEGUN = ".begun"  # after a shard's name: a byte for each time that it was begun
COUNTS = ("photos", "captions", "failures", "found")  # of a ``Tally``, in its order


@dataclass(frozen=True)
class Job:
    """What every worker is told.

    Attributes:
        model: folder or name, the same on every node.
        output: a folder of shards that every node sees under the same path.
        sampling: how captions are sampled; on GPUs its batch size is given, for all workers shall have the same.
        loading: options of ``CaptionPipeline.from_pretrained``.
        image_column: of tables.
        before: called in each worker before the model is loaded, such as what loads plug-ins.
        place: folder that relative paths start at.
    """

    model: str
    output: Output
    sampling: Sampling
    loading: dict[str, Any] = field(default_factory=dict)
    image_column: str | None = None
    before: tuple[Callable[[], object], ...] = ()
    place: str = field(default_factory=os.getcwd)

    def __post_init__(self) -> None:
        if self.output.out is None or not self.output.is_folder:
            raise InputError(
                f"{self.output.out}: several machines write a folder of shards; name one, without a suffix"
            )

    @property
    def told(self) -> dict[str, Any]:
        """The job as the folder of shards notes it."""
        alike = replace(self, before=())  # which has no text that is the same in every process
        return dict(json.loads(json.dumps(asdict(alike), default=str)))


@dataclass(frozen=True)
class Nodes:
    """Where a job runs.

    Attributes:
        address: of a Ray cluster; None is that of ``RAY_ADDRESS``, or one that is started on this machine.
        actors: workers, each with the model; None is as many as the nodes have room for.
        cpus: processors of each worker.
        gpus: GPUs of each worker; below 1 they share one.
    """

    address: str | None = None
    actors: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.actors is not None:
            number("actors", self.actors, int, 1)
        if not number("cpus", self.cpus, float, 0) + number("gpus", self.gpus, float, 0):
            raise InputError("cpus=0 and gpus=0 let every worker onto one node; pass one of them")


class Captioner:
    """A worker: it loads the model when the first shard comes, and writes one shard after the other."""

    def __init__(self, job: Job) -> None:
        """Args:
        job: what is asked for.
        """
        self.job = job
        self.run: Run | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a shard.

        Args:
            row: the number of the ``shard`` and its ``pieces``, pickled.

        Returns:
            The shard's ``Tally``, ``faults`` of photos (JSON) and the batch size; or the ``error`` that ends the run.
        """
        told: dict[str, Any] = {"error": "", "faults": "[]", "batch_size": 0} | dict.fromkeys(COUNTS, 0)
        try:
            return told | self._write(row["shard"], pickle.loads(row["pieces"]))
        except InputError as fault:
            return told | {"error": str(fault)}
        except OSError as fault:
            if not is_full(fault):
                raise
            return told | {"error": str(full(str(self.job.output.out), fault))}

    def _write(self, shard: int, pieces: list[Piece]) -> dict[str, Any]:
        if self.run is None:
            self.run = _loaded(self.job)
        _seen(self.job, pieces)
        begun = _begun(self.job.output, shard)
        faults: list[str] = []
        tally = Tally(told=lambda tally, fault: None if fault is None else faults.append(str(fault)))
        items = Sources((), image_column=self.job.image_column).within(pieces)
        self.run.write_shard(shard, items, tally, PATIENCE)
        begun.unlink(missing_ok=True)
        counts = {name: getattr(tally, name) for name in COUNTS}
        return counts | {"faults": json.dumps(faults), "batch_size": self.run.batch_size}


def _loaded(job: Job) -> Run:
    """The model, in a worker."""
    try:
        os.chdir(job.place)
    except OSError as error:
        raise InputError(
            f"{job.place} cannot be opened on node {platform.node()} ({error.strerror}); begin where every "
            "node has a folder of that name"
        ) from error
    for prepare in job.before:
        prepare()
    return Run(CaptionPipeline.from_pretrained(job.model, **job.loading), job.output, job.sampling, job.model)


def _seen(job: Job, pieces: list[Piece]) -> None:
    """Raise InputError where this node does not see the job's files: of captions, or of photos."""
    remedy = "keep photos and shards on storage that all nodes see under the same path"
    assert job.output.out is not None
    if not is_running(job.output.out, job.told):
        raise InputError(f"{job.output.out} on node {platform.node()} is another folder; {remedy}")
    first = pieces[0].entry
    if isinstance(first, str) and not is_url(first) and not os.path.exists(first):
        raise InputError(f"{first} is not there on node {platform.node()}; {remedy}")


def _begun(output: Output, shard: int) -> Path:
    """The file that says how often a shard was begun in this run. Raises InputError where it was too often."""
    assert output.out is not None
    name = shard_name(shard, output.shard_format)
    begun = output.out / JOURNALS / f"{name}{BEGUN}"
    with open(begun, "ab") as file:
        file.write(b".")
    if begun.stat().st_size > DEATHS:
        raise InputError(
            f"{name}: {DEATHS} workers have died over it; leave out the photo after the last one that its journal "
            f"({begun.parent}) names, or give workers more memory"
        )
    return begun


def caption_on_cluster(
    job: Job,
    nodes: Nodes,
    sources: Sources,
    told: Callable[[Tally, InputError | None], None] = lambda tally, fault: None,
) -> Summary:
    """Caption photos into a folder of shards, the very bytes that ``Run`` writes on one machine.

    Each shard is one task. A worker that dies, or a driver, leaves the shard's journal, and whoever has the shard next
    goes on at the batch that was lost; a shard that is whole is left alone. So a photo has one row however often a
    shard is begun.

    Args:
        job: what is asked for.
        nodes: where.
        sources: the photos.
        told: called with a ``Tally`` after each shard, and with each fault of a photo.

    Raises:
        InputError: no Ray, no cluster, what is there is in the way, or a node does not see the files.
    """
    began = time.perf_counter()
    output = job.output
    assert output.out is not None
    if nodes.gpus and job.sampling.batch_size is None:
        raise InputError("batch_size is missing; pass one, so that all GPUs have the same")
    tally, batch_size, shards = Tally(told=told), 0, 0
    with cluster(nodes.address) as ray:
        entries = sources.entries()
        rows = [
            {"shard": shard, "pieces": pickle.dumps(pieces)}
            for shard, pieces in enumerate(in_pieces(_lengths(ray, job, entries), output.shard_size))
        ]
        begin_shards(output.out, job.told, output.overwrite)
        for begun in (output.out / JOURNALS).glob(f"*{BEGUN}"):
            begun.unlink()  # of a run that was stopped
        for done in _done(ray, job, nodes, rows):
            if done["error"]:
                raise InputError(done["error"])
            photos, captions, failures, found = (int(done[name]) for name in COUNTS)
            counts = Tally(photos, captions, failures, found)
            tally.join(counts, [InputError(fault) for fault in json.loads(done["faults"])])
            batch_size, shards = int(done["batch_size"]), shards + 1
        end_shards(output.out, shards, output.shard_format)
    seconds = time.perf_counter() - began
    return Summary(tally.photos, tally.captions, tally.failures, tally.found, batch_size, seconds)


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster until the block ends; a connection that there is already stays. Raises InputError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("several machines need Ray; pip install 'clearcap[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    connected = ray.is_initialized()
    if not connected:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            fault = " ".join(str(error).split())
            raise InputError(
                f"--address {address}: no Ray cluster answers there ({fault}); start one with ray start --head"
            ) from error
    try:
        yield ray
    except ray.exceptions.RayActorError as error:
        fault = str(error).strip().splitlines()[-1].strip()
        raise InputError(
            f"a worker cannot start ({fault}); every node needs this version of clearcap, and of Python and Ray"
        ) from error
    finally:
        if not connected:
            ray.shutdown()


def _lengths(ray: Any, job: Job, entries: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """How many photos each entry has; archives and tables are counted by the cluster."""
    listed = list(entries)
    held = [entry for entry in listed if holds_several(entry)]
    counted: dict[str, int] = {}
    if held:
        column, place = job.image_column, job.place

        def count(row: dict[str, Any]) -> dict[str, Any]:
            entry = row["entry"]
            there = entry if is_url(entry) else os.path.join(place, entry)
            return {"entry": entry, "photos": Sources((), image_column=column).length(there)}

        rows = ray.data.from_items([{"entry": entry} for entry in dict.fromkeys(held)])
        counted = {row["entry"]: int(row["photos"]) for row in rows.map(count).iter_rows()}
    for entry in listed:
        yield entry, counted[entry] if holds_several(entry) else 1


def _done(ray: Any, job: Job, nodes: Nodes, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What became of each shard, as they are done."""
    if not rows:
        return
    room = _room(ray, nodes)
    if not room:
        log.warning(
            "no node has %g CPUs and %g GPUs for a worker; waiting for one that has", nodes.cpus, nodes.gpus
        )
    actors = min(nodes.actors or max(1, room), len(rows))
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Captioner,
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        num_cpus=nodes.cpus,
        num_gpus=nodes.gpus,
    )
    yield from done.iter_rows()


def _room(ray: Any, nodes: Nodes) -> int:
    """How many workers the nodes of a cluster have room for now."""
    asked = {name: count for name, count in (("CPU", nodes.cpus), ("GPU", nodes.gpus)) if count > 0}
    return sum(
        int(min(node["Resources"].get(name, 0) / count for name, count in asked.items()))
        for node in ray.nodes()
        if node["Alive"]
    )
