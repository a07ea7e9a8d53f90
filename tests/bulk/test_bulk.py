"""Bulk captioning: every kind of input and output, and runs that are stopped at any moment."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import forks
import numpy as np
import pytest
import torch
from commands import clearcap, started
from PIL import Image
from tiny_captioner import save_tiny_captioner

from clearcap import CaptionPipeline
from clearcap.bench.throughput import measure_throughput
from clearcap.bulk.file import Tally, write_captions
from clearcap.bulk.journal import Journal
from clearcap.bulk.run import Output, Run, Sampling, Summary
from clearcap.bulk.sources import Item, Sources
from clearcap.bulk.wording import Wording
from clearcap.bulk.xmp import described
from clearcap.errors import InputError

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
FORMATS = ["jsonl", "csv", "parquet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipeline(model: Path) -> CaptionPipeline:
    return CaptionPipeline.from_pretrained(model)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty photos in two folders, one of which is cut short."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    for number in range(30):
        place = folder / ("a" if number < 20 else "b/c")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}.{'png' if number % 3 else 'jpg'}")
    (folder / "a" / "07.png").write_bytes((folder / "a" / "07.png").read_bytes()[:200])
    return folder


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "photos"))


def caption(
    pipeline: CaptionPipeline, paths: list[Path | str], out: Path | None, batch_size: int = 4, **output: Any
) -> Summary:
    run = Run(pipeline, Output(out, **output), Sampling(batch_size=batch_size, at_once=1, workers=2))
    return run(Sources([str(path) for path in paths]))


def rows(path: Path) -> list[tuple[str, str, float]]:
    """What a file, or a folder of shards, says."""
    if path.is_dir():
        return [
            row for part in sorted(path.glob("part-*")) if ".errors" not in part.name for row in rows(part)
        ]
    found: list[dict[str, Any]]
    if path.suffix == ".parquet":
        found = parquet.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        found = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    else:
        found = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["image"], row["caption"], float(row["confidence"])) for row in found]


def straight(pipeline: CaptionPipeline, paths: list[Path]) -> list[tuple[str, str]]:
    """Captions of photos, or of those among them that can be read, as the library gives them."""
    results = pipeline.stream(map(str, paths), batch_size=4)
    return [(one.image, one.caption) for one in results if not isinstance(one, InputError)]


def below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))


def names(found: list[tuple[str, str, float]]) -> list[str]:
    return [image for image, _, _ in found]


def captions(found: list[tuple[str, str, float]]) -> list[str]:
    return [text for _, text, _ in found]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_of_captions(format: str, pipeline: CaptionPipeline, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / f"x.{format}"
    summary = caption(pipeline, [photos], out)
    assert (summary.photos, summary.captions, summary.failures, summary.found) == (30, 29, 1, 0)
    assert [row[:2] for row in rows(out)] == straight(pipeline, below(photos))
    (error,) = [json.loads(line) for line in (tmp_path / f"{out.name}.errors.jsonl").read_text().splitlines()]
    assert error["image"].endswith("07.png")
    assert "cut short" in error["error"]
    assert not list(tmp_path.glob(".*.part"))
    before = out.stat()
    again = caption(pipeline, [photos], out)
    assert (again.found, again.captions, again.failures) == (30, 29, 1)
    assert out.stat() == before


def test_shards_are_whole_files(pipeline: CaptionPipeline, photos: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    caption(pipeline, [photos], whole, batch_size=5)
    for format in FORMATS:
        out = tmp_path / format
        caption(pipeline, [photos], out, shard_size=10, shard_format=format, batch_size=5)
        assert rows(out) == rows(whole)
        assert [len(rows(part)) for part in sorted(out.glob(f"part-?????.{format}"))] == [9, 10, 10]
    (tmp_path / "model").write_text("x")
    with pytest.raises(InputError, match="choose another name"):
        caption(pipeline, [photos], tmp_path / "model")


class Stopped(BaseException):
    """A kill that leaves the disk as it is."""


def invented(items: Iterable[Item]) -> Iterator[dict[str, Any] | InputError]:
    """Rows that nobody captioned; every seventh photo fails."""
    for item in items:
        row = {"image": item.name, "caption": f"it is {item.name},", "confidence": 0.5, "words": []}
        yield InputError(f"{item.name} is bad") if item.name.endswith("7") else row


def write_invented(out: Path, photos: int, **how: Any) -> Tally:
    tally = Tally()
    items = (Item(f"photo {number}", None) for number in range(photos))
    journal = out.with_name(f"{out.name}.journal")
    write_captions(out, journal, {"seed": 0}, items, invented, tally, batch=4, **how)
    return tally


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("begun", ["new", "added to", "replaced"])
def test_a_run_stopped_anywhere_goes_on_to_the_same_bytes(
    format: str, begun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"skip_existing": begun == "added to", "overwrite": begun == "replaced"}

    def name(which: str) -> Path:
        (tmp_path / which).mkdir()
        out = tmp_path / which / f"x.{format}"
        if begun != "new":
            write_invented(out, 9)
        return out

    whole = name("whole")
    write_invented(whole, 30, **how)
    stop = {"left": 0}

    def stopping(owner: Any, function: str, part: bool = False) -> None:
        real = getattr(owner, function)

        def counted(*arguments: Any, **named: Any) -> Any:
            stop["left"] -= 1
            if stop["left"] == 0:
                if part:  # half a batch has reached the disk
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Stopped
            return real(*arguments, **named)

        monkeypatch.setattr(owner, function, counted)

    stopping(Journal, "_write", part=True)
    for owner, function in ((os, "fsync"), (os, "replace"), (Path, "replace")):
        stopping(owner, function)
    for moment in range(1, 100):
        stop["left"] = 0
        out = name(f"stopped-{moment}")
        stop["left"] = moment
        try:
            write_invented(out, 30, **how)
            break
        except Stopped:
            write_invented(out, 30, **how)
        assert digests(out) == digests(whole), moment
    assert moment > 12


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of a file and its errors, or of all shards."""
    files = sorted(out.glob("part-*")) if out.is_dir() else sorted(out.parent.glob(f"{out.name}*"))
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.suffix != ".journal"
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.parametrize("format", FORMATS)
def test_processes_killed_at_random_moments_go_on_to_the_same_bytes(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    whole, out = tmp_path / "whole" / f"x.{format}", tmp_path / f"x.{format}"
    write_invented(whole, 400)
    append = Journal.append

    def slowly(journal: Journal, entries: list[dict[str, Any]]) -> None:
        time.sleep(0.001)  # 100 batches: a tenth of a second
        append(journal, entries)

    monkeypatch.setattr(Journal, "append", slowly)
    rng = random.Random(format)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            write_invented(out, 400)
            os._exit(0)
        time.sleep(rng.uniform(0.01, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    write_invented(out, 400)
    assert digests(out) == digests(whole)


def test_a_killed_command_goes_on_to_the_same_bytes(
    model: Path, pipeline: CaptionPipeline, photos: Path, tmp_path: Path
) -> None:
    def command(out: Path) -> list[str]:
        options = ["--batch-size", "2", "--model", str(model), "--backend", "torch", "--set", "steps=30"]
        return ["caption", str(photos), "--out", str(out), *options]

    out, whole = tmp_path / "x.jsonl", tmp_path / "whole.jsonl"
    journal = tmp_path / "x.jsonl.journal"
    process = started(command(out), tmp_path / "killed.log")
    while process.poll() is None and (not journal.exists() or journal.stat().st_size < 2000):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    done = clearcap(*command(out))
    assert done.returncode == 1  # one photo is cut short
    assert "30 photos, " in done.stderr
    assert "of them found done: 29 captions, 1 failures" in done.stderr
    Run(pipeline, Output(whole), Sampling({"steps": 30}, batch_size=2, at_once=1))(Sources([str(photos)]))
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["x.txt", "x.JSON", "x.jsonl.gz"])
def test_a_file_of_another_kind_is_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"captions are written as \.jsonl, \.csv, \.parquet; choose one of them, or"
    ):
        Output(tmp_path / name)
    (tmp_path / name).mkdir()
    assert Output(tmp_path / name).is_folder  # somebody's choice


def test_other_runs_and_other_photos_are_told_apart(
    pipeline: CaptionPipeline, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.jsonl"
    caption(pipeline, [photos / "a"], out)
    with pytest.raises(InputError, match="begun with prefix='', not 'a photo of '"):
        caption(pipeline, [photos / "a"], out, wording=Wording("a photo of "))
    with pytest.raises(InputError, match="begun with other photos"):
        caption(pipeline, [photos / "b"], out)
    with pytest.raises(InputError, match="begun with other photos"):
        caption(pipeline, [photos], out)  # those of a, and more
    with pytest.raises(InputError, match="begun with batch_size=4, not 3"):
        caption(pipeline, [photos / "a"], out, batch_size=3)
    caption(pipeline, [photos / "b"], out, overwrite=True)
    assert len(rows(out)) == 10
    out.write_text("mine\n")
    with pytest.raises(InputError, match="is there already"):
        caption(pipeline, [photos / "b"], out)
    out.unlink()
    assert caption(pipeline, [photos / "b"], out).found == 0  # what was deleted is made again
    with Journal(tmp_path / "x.jsonl.journal"), pytest.raises(InputError, match="another run"):
        caption(pipeline, [photos / "b"], out)


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_kept_and_others_added(
    format: str, pipeline: CaptionPipeline, photos: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / f"x.{format}", tmp_path / f"whole.{format}"
    caption(pipeline, [photos / "b", photos / "a"], whole)
    caption(pipeline, [photos / "b"], out)
    added = caption(pipeline, [photos], out, skip_existing=True)
    assert added.photos == 20
    assert [row[:2] for row in rows(out)] == [row[:2] for row in rows(whole)]
    assert caption(pipeline, [photos], out, skip_existing=True).captions == 0  # the one that fails
    assert len(rows(out)) == 29


def test_sidecars(pipeline: CaptionPipeline, photos: Path) -> None:
    files = below(photos / "a")
    files[0].with_suffix(".txt").write_text("mine")
    summary = caption(pipeline, [photos / "a"], None, sidecars=("txt", "json"))
    assert (summary.failures, summary.found) == (1, 0)
    said = dict(straight(pipeline, files))
    assert files[0].with_suffix(".txt").read_text() == "mine"
    for photo, text in list(said.items())[1:]:
        assert Path(photo).with_suffix(".txt").read_text() == f"{text}\n"
        assert json.loads(Path(photo).with_suffix(".json").read_text())["caption"] == text
    assert caption(pipeline, [photos / "a"], None, sidecars=("txt",)).found == 19
    caption(pipeline, [photos / "a"], None, sidecars=("txt",), overwrite=True, wording=Wording("x: ", "!"))
    assert files[0].with_suffix(".txt").read_text() == f"x: {said[str(files[0])]}!\n"
    with pytest.raises(InputError, match="'html' is not known"):
        caption(pipeline, [photos], None, sidecars=("html",))


OTHERS = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">old</rdf:li>
<rdf:li xml:lang="de">alt</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def test_xmp_keeps_what_else_is_said(pipeline: CaptionPipeline, photos: Path, tmp_path: Path) -> None:
    photo = below(photos)[0]
    sidecar = photo.with_suffix(".xmp")
    caption(pipeline, [photo], None, sidecars=("xmp",), wording=Wording("<&> "))
    ((_, text),) = straight(pipeline, [photo])
    assert [li.text for li in ElementTree.parse(sidecar).iter() if li.tag.endswith("}li")] == [
        f"<&> {text}"
    ] * 2
    sidecar.write_text(OTHERS)
    caption(pipeline, [photo], None, sidecars=("xmp",))
    assert sidecar.read_text() == OTHERS
    caption(pipeline, [photo], None, sidecars=("xmp",), overwrite=True)
    told = sidecar.read_text()
    assert 'xmp:Rating="4"' in told
    assert [text in told for text in ("old", ">alt<", text)] == [False, True, True]
    assert described(sidecar, text) == sidecar.read_bytes()
    sidecar.write_text("<no/>")
    with pytest.raises(InputError, match="no XMP"):
        caption(pipeline, [photo], None, sidecars=("xmp",), overwrite=True)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_the_sidecars(pipeline: CaptionPipeline, photos: Path) -> None:
    photo = below(photos)[0]
    photo.with_suffix(".xmp").write_text(OTHERS)
    caption(
        pipeline,
        [photo],
        None,
        sidecars=("xmp",),
        overwrite=True,
        wording=Wording(template="{caption} ü <b>"),
    )
    ((_, text),) = straight(pipeline, [photo])
    read = subprocess.run(["exiftool", "-j", "-G1", str(photo.with_suffix(".xmp"))], capture_output=True)
    (told,) = json.loads(read.stdout)
    assert told["XMP-dc:Description"] == told["XMP-iptcCore:AltTextAccessibility"] == f"{text} ü <b>"
    assert (told["XMP-dc:Description-de"], told["XMP-xmp:Rating"]) == ("alt", 4)


def packed(kind: str, files: list[Path], folder: Path) -> Path:
    """The photos as an archive or a table."""
    out = folder / f"photos.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"album/{file.name}")
            archive.writestr("__MACOSX/._x.jpg", b"x")
    elif kind.startswith("tar"):
        with tarfile.open(out, "w:gz" if kind == "tar.gz" else "w") as shard:
            for file in files:
                shard.add(file, f"album/{file.name}")
    else:
        import pyarrow

        cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        table = pyarrow.table({"id": list(range(len(files))), "image": cells})
        if kind == "parquet":
            parquet.write_table(table, out, row_group_size=7)
        else:
            with pyarrow.OSFile(str(out), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
    return out


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "parquet", "arrow"])
def test_archives_and_tables(kind: str, pipeline: CaptionPipeline, photos: Path, tmp_path: Path) -> None:
    files = below(photos / "a")
    archive = packed(kind, files, tmp_path)
    out = tmp_path / "x.jsonl"
    assert caption(pipeline, [archive], out).failures == 1
    assert captions(rows(out)) == [text for _, text in straight(pipeline, files)]
    first = f"{archive} row 0" if kind in ("parquet", "arrow") else f"{archive}/album/{files[0].name}"
    assert names(rows(out))[0] == first
    (tmp_path / "folder").mkdir()
    shutil.copy(archive, tmp_path / "folder")
    listed = list(Sources([str(tmp_path / "folder")]))  # a folder without photos
    assert len(listed) == len(list(Sources([f"{tmp_path}/*.{kind}"]))) == len(files)
    assert Sources([str(archive), str(photos)]).count() == (None if kind == "tar.gz" else 50)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    faults = [item.photo for item in Sources([str(archive)]) if isinstance(item.photo, InputError)]
    assert len(faults) == 1
    assert "again" in str(faults[0])


def test_shards_in_braces_lists_and_remote_addresses(
    pipeline: CaptionPipeline, photos: Path, tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec")
    files = below(photos / "b")
    for place in range(2):
        packed("tar", files[5 * place : 5 * place + 5], tmp_path).rename(tmp_path / f"shard-{place:03d}.tar")
    wanted = [text for _, text in straight(pipeline, files)]
    memory = fsspec.filesystem("memory")
    for file in (*files, *tmp_path.glob("*.tar")):
        memory.pipe_file(f"/album/{file.name}", file.read_bytes())
    (tmp_path / "names.txt").write_text("\n".join(map(str, [*files, tmp_path / "shard-000.tar"])))
    for number, (paths, count) in enumerate(
        [
            ([f"{tmp_path}/shard-{{000..001}}.tar"], 10),
            ([f"@{tmp_path / 'names.txt'}"], 15),
            (["memory://album/*.*g"], 10),
            (["memory://album/"], 10),
            (["memory://album/*.tar"], 10),
        ]
    ):
        out = tmp_path / f"{number}.jsonl"
        assert caption(pipeline, list(paths), out).failures == 0
        assert captions(rows(out))[:10] == wanted
        assert len(rows(out)) == count
    (nothing,) = Sources(["memory://nowhere/*.jpg"])
    assert "no photo there" in str(nothing.photo)
    memory.rm("/album", recursive=True)


def test_webdataset_reads_the_same_shard(photos: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as shard:
        for file in below(photos):
            shard.write({"__key__": file.stem, file.suffix[1:]: file.read_bytes(), "txt": "words"})
    ours = [item.photo.stream().read() for item in Sources([str(tmp_path / "x.tar")])]
    read = webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    assert ours == [one.get("jpg") or one.get("png") for one in read]


def test_wording() -> None:
    assert Wording("<", ">", "{name} in {folder}: {caption} ({confidence:.1f})")(
        "a dog", "x/y/z.jpg", 0.25
    ) == ("<z in y: a dog (0.2)>")
    for template, fault in (
        ("{capt}", "no field {capt}"),
        ("{caption", "cannot be filled in"),
        ("{}", "no field"),
    ):
        with pytest.raises(InputError, match=fault):
            Wording(template=template)
    with pytest.raises(InputError, match="no field"):
        Wording(template="{caption.__class__}")


def test_folders_alone_and_with_what_is_below_them(photos: Path) -> None:
    (photos / "top.jpg").write_bytes(b"x")
    assert [item.file for item in Sources([str(photos)], recursive=False)] == [photos / "top.jpg"]
    assert [item.file for item in Sources([str(photos)])] == [
        *below(photos / "a"),
        *below(photos / "b"),
        photos / "top.jpg",
    ]
    (nothing,) = Sources([str(photos / "b")], recursive=False)
    assert "no image file in this folder; name" in str(nothing.photo)


def test_batches_at_the_same_time_give_the_same_captions(pipeline: CaptionPipeline, photos: Path) -> None:
    files = [str(path) for path in below(photos)]
    torch.set_num_threads(2)

    def told(results: Iterable[Any]) -> list[tuple[str, float]]:
        return [(getattr(one, "caption", str(one)), getattr(one, "confidence", 0.0)) for one in results]

    alone = told(pipeline.stream(files, batch_size=4))
    together = told(pipeline.stream(files, batch_size=4, at_once=2, workers=1))
    assert [caption for caption, _ in together] == [caption for caption, _ in alone]
    # Two batches have one thread each, and sums of another order: the last digits differ.
    assert [trust for _, trust in together] == pytest.approx([trust for _, trust in alone], abs=1e-5)
    assert torch.get_num_threads() == 2
    first = next(pipeline.stream(files, batch_size=4, at_once=2))  # closed before its end
    assert told([first])[0][0] == alone[0][0]


def test_throughput_says_what_each_stage_takes(pipeline: CaptionPipeline, photos: Path) -> None:
    told: list[str] = []
    found = measure_throughput(
        pipeline,
        below(photos / "b"),
        batch_size=4,
        progress=lambda done, total, what: told.append(what),
        steps=2,
    )
    assert [*(stage.name for stage in found.stages), "all together"] == told
    assert sum(stage.share for stage in found.stages) == pytest.approx(1)
    assert found.of_slowest < found.of_sum
    with pytest.raises(InputError, match="no photos to time"):
        measure_throughput(pipeline, [])


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return forks.run(["caption", *map(str, arguments)], stdin=stdin)


def test_the_command(model: Path, photos: Path, tmp_path: Path) -> None:
    files = below(photos / "b")
    listed = "\n".join(map(str, files)).encode()
    done = run("-", "--out", tmp_path / "x.csv", "--sidecar", "txt", "--model", model, stdin=listed)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"10 photos: 10 captions, 0 failures" in done.stderr
    printed = run(photos / "b", "--prefix", "a photo of ", "--batch-size", "auto", "--model", model)
    lines = [line.split("\t") for line in printed.stdout.decode().splitlines()]
    assert lines == [[name, f"a photo of {text}"] for name, text, _ in rows(tmp_path / "x.csv")]
    again = run(
        "-", "--out", tmp_path / "x.csv", "--json", "--sidecar", "txt", "--model", model, stdin=listed
    )
    assert json.loads(again.stdout)["found"] == 10
    nothing = run(photos / "b", "--no-recursive", "--overwrite", "--model", model)
    assert b"are about files" in nothing.stderr


@pytest.mark.shared
def test_real_photos_by_every_way_in(shared: Path, tmp_path: Path) -> None:
    """The bundled model's captions of real photos, whatever they come in and go out as."""
    files = sorted((shared / "data" / "flickr8k" / "Images").glob("*.jpg"))[:8]
    if not files:
        pytest.skip("no photos of Flickr8k in the shared folder")
    pipeline = CaptionPipeline.from_pretrained(backend="fast")
    wanted = [one.caption for one in pipeline(map(str, files), batch_size=8)]
    (tmp_path / "album").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "album")
    (tmp_path / "names.txt").write_text("\n".join(map(str, files)))
    ways = [tmp_path / "album", f"@{tmp_path / 'names.txt'}"]
    ways += [packed(kind, files, tmp_path) for kind in ("zip", "tar", "parquet")]
    for number, way in enumerate(ways):
        out = tmp_path / f"{number}.{FORMATS[number % 3]}"
        caption(pipeline, [way], out, batch_size=8)
        assert captions(rows(out)) == wanted
    caption(pipeline, [tmp_path / "album"], None, sidecars=("txt",), batch_size=8)
    assert [file.read_text() for file in sorted((tmp_path / "album").glob("*.txt"))] == [
        f"{text}\n" for text in wanted
    ]
