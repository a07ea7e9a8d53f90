"""Bulk captioning on Ray, started for real: two nodes, a worker and then the driver killed."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_captioner import save_tiny_captioner

from benchmarks.cluster import digests, kill_worker_and_driver, two_nodes, whole_shards
from clearcap import CaptionPipeline
from clearcap.bulk.cluster import DEATHS, Captioner, Job, Nodes, caption_on_cluster
from clearcap.bulk.run import Output, Run, Sampling
from clearcap.bulk.shards import begin_shards
from clearcap.bulk.sources import Piece, Sources, in_pieces
from clearcap.errors import InputError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_captioner(tmp_path / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty photos in a folder, one of which is cut short."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:200])
    return folder


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here to find the workers in")
def test_a_worker_and_then_the_driver_are_killed(model: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    out, alone = tmp_path / "out", tmp_path / "alone"
    options = ["--model", model, "--backend", "torch", "--set", "steps=40", "--batch-size", 1]
    with two_nodes() as address:
        command = ["bulk", photos, out, "--address", address, "--shard-size", 5, *options]
        line = [sys.executable, "-m", "clearcap", *map(str, command)]
        kill_worker_and_driver(line, out)
        assert whole_shards(out) < 8
        again = subprocess.run(line, capture_output=True, text=True)
    assert "of them found done: 39 captions, 1 failures" in again.stderr
    assert again.returncode == 1
    run = Run(
        CaptionPipeline.from_pretrained(model, backend="torch"),
        Output(alone, shard_size=5),
        Sampling({"steps": 40}, batch_size=1, at_once=1),
    )
    run(Sources([str(photos)]))
    assert digests(out) == digests(alone)
    same = Run(run.pipeline, Output(out, shard_size=5), run.sampling, str(model))
    assert same(Sources([str(photos)])).found == 40  # to clearcap caption it is a run of its own
    assert len(digests(out)) == 9  # one of them of errors
    assert sorted({file.suffix for file in (out / ".journal").iterdir()}) == [".journal"]


def test_pieces_share_out_what_was_named(photos: Path, tmp_path: Path) -> None:
    album = shutil.make_archive(str(tmp_path / "album"), "zip", photos)
    sources = Sources([str(photos / "00.png"), album, str(tmp_path / "missing.png")])
    assert sources.count() == 42
    pieces = list(in_pieces(((entry, sources.length(entry)) for entry in sources.entries()), 15))
    assert [sum(piece.stop - piece.start for piece in shard) for shard in pieces] == [15, 15, 12]
    named = [item.name for shard in pieces for item in sources.within(shard)]
    assert named == [item.name for item in sources]


def work(job: Job, shard: int, *entries: str) -> dict[str, Any]:
    """What a worker says of a shard."""
    return Captioner(job)({"shard": shard, "pieces": pickle.dumps([Piece(one, 0, 1) for one in entries])})


def test_a_worker_that_cannot_work_says_why(model: Path, photos: Path, tmp_path: Path) -> None:
    out, photo = tmp_path / "out", str(photos / "00.png")
    job = Job(str(model), Output(out), Sampling(batch_size=4), {"backend": "torch"})
    begin_shards(out, job.told, overwrite=False)
    done = work(job, 0, photo, str(photos / "07.png"))
    assert [done[name] for name in ("error", "photos", "captions", "failures")] == ["", 2, 1, 1]
    assert "cut short" in done["faults"]
    assert "missing.png is not there on node" in work(job, 1, str(tmp_path / "missing.png"))["error"]
    assert "no such folder" in work(replace(job, model=str(tmp_path / "none")), 1, photo)["error"]
    assert (
        "steps=0 must be at least 1"
        in work(replace(job, sampling=Sampling({"steps": 0}, batch_size=4)), 1, photo)["error"]
    )
    assert "is another folder" in work(replace(job, image_column="other"), 1, photo)["error"]
    (out / ".journal" / "part-00002.parquet.begun").write_bytes(b"." * DEATHS)
    assert "20 workers have died over it" in work(job, 2, photo)["error"]


def test_jobs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    sampling = Sampling(batch_size=4)
    with pytest.raises(InputError, match="write a folder of shards"):
        Job("default", Output(tmp_path / "x.jsonl"), sampling)
    with pytest.raises(InputError, match="batch_size is missing"):
        caption_on_cluster(Job("default", Output(tmp_path / "x"), Sampling()), Nodes(gpus=1.0), Sources([]))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file/x cannot be made"):
        begin_shards(tmp_path / "file" / "x", {}, overwrite=False)
    with pytest.raises(InputError, match="cpus=0 and gpus=0"):
        Nodes(cpus=0.0)
    with pytest.raises(InputError, match="actors=0 must be at least 1"):
        Nodes(actors=0)
