"""The command line as people type it: processes, pipes, and encodings that cannot write every name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import forks
import numpy as np
import pytest
from commands import clearcap
from PIL import Image
from tiny_captioner import save_tiny_captioner

import clearcap as package


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("model"))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(rng.integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def run(*arguments: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    words = [str(word) for word in arguments]
    if environment.keys() <= {"PYTHONIOENCODING"}:
        return forks.run(words, stdin=stdin, environment=environment)
    command = [sys.executable, "-m", "clearcap", *words]
    return subprocess.run(command, input=stdin, capture_output=True, env={**os.environ, **environment})


def test_every_photo_that_is_not_read_is_named_and_counted(model: Path, album: Path) -> None:
    for name in ("c.HEIC", "d.jxl", "e.svg", "f.CR2", "g.avif"):
        (album / name).write_bytes(b"\0\0\0\x1cftypxxxx" + bytes(40))
    done = clearcap("caption", album, "--model", model)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    *named, last = done.stderr.splitlines()
    assert [Path(line.split(" is ")[0]).name[:1] for line in named] == list("cdefg")
    assert last == "clearcap: 5 of 7 photos failed"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--batch-size", 0], "batch_size=0 must be at least 1"),
        (["--batch-size", -1], "batch_size=-1 must be at least 1"),
        (["--seed", -1], "seed=-1 must be at least 0"),
        (["--seed", 2**70], "seed=1180591620717411303424 must be at most"),
        (["--steps", 0], "sampling.steps=0 must be at least 1"),
        (["--guidance", "nan"], "sampling.guidance=nan must be finite"),
        (["--guidance", "inf"], "sampling.guidance=inf must be finite"),
        (["--set", "start=inf"], "sampling.start=inf must be finite"),
        (["--set", "steps=2.5"], "steps=2.5 must be of type int"),
        (["--set", "stepz=2"], "unknown setting 'stepz'"),
        (["--diverse", -1], "--diverse=-1 must be at least 0"),
    ],
)
def test_numbers_that_cannot_be_are_one_line_before_any_work(
    options: list[object], fault: str, model: Path, album: Path
) -> None:
    done = clearcap("caption", album, "--model", model, *options)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert fault in line


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "utf-16", "utf-8:surrogateescape"])
def test_json_is_utf8_whatever_standard_output_is(encoding: str, model: Path, album: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.jpg"), "emoji\U0001f600.jpg", "grün.jpg", "two\nlines\t.jpg"]
    for name in names:
        os.link(album / "a.jpg", album / name)
    done = run("caption", album, "--json", "--model", model, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("utf-16" if encoding == "utf-16" else "utf-8")
    told = {Path(json.loads(line)["image"]).name for line in text.splitlines()}
    assert told == {"a.jpg", "b.png", *names}
    plain = run("caption", album, "--model", model, PYTHONIOENCODING=encoding)
    assert plain.returncode == 0, plain.stderr
    assert plain.stderr == b""
    if encoding != "utf-16":
        assert len(plain.stdout.splitlines()) == len(told)


def test_lists_and_photos_from_standard_input(model: Path, album: Path) -> None:
    names = f"{album / 'a.jpg'}\n{album / 'b.png'}\n".encode()
    (album / "names.txt").write_bytes(names)
    direct = run("caption", album / "a.jpg", album / "b.png", "--model", model)
    assert direct.returncode == 0
    assert run("caption", "-", "--model", model, stdin=names).stdout == direct.stdout
    assert run("caption", f"@{album / 'names.txt'}", "--model", model).stdout == direct.stdout
    one = run("caption", "-", "--model", model, stdin=(album / "b.png").read_bytes())
    assert one.stdout == run("caption", (album / "b.png").as_uri(), "--model", model).stdout
    none = run("caption", "-", "--model", model)
    assert none.returncode == 1
    assert b"standard input names no photo" in none.stderr


@pytest.mark.parametrize("out", ["missing/x.png", "x.jpg", "x", "folder.png"])
def test_a_picture_that_cannot_be_written_is_said_before_the_work(out: str, album: Path) -> None:
    (album / "folder.png").mkdir()
    done = clearcap("watch", album / "nosuch.jpg", "--out", album / out, "--model", "nosuch")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert out in line
    assert "nosuch" not in line


def test_version_and_help() -> None:
    assert clearcap("--version").stdout == f"clearcap {package.__version__}\n"
    assert clearcap("-h").stdout == clearcap("--help").stdout != ""
    assert "--batch-size" in clearcap("caption", "-h").stdout
    script = run(_CLEARCAP_COMPLETE="source_bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert b"Traceback" not in script.stderr
    assert "--install-completion" in clearcap("--help").stdout


def test_quiet_and_verbose_stand_anywhere(model: Path, album: Path) -> None:
    photos = (album / "a.jpg", album / "no.jpg", "--model", model)
    usual = clearcap("caption", *photos)
    assert [line.split(":")[0] for line in usual.stderr.splitlines()] == ["clearcap"] * 2
    for quiet in (clearcap("-q", "caption", *photos), clearcap("caption", *photos, "--quiet")):
        assert quiet.stdout == usual.stdout
        assert len(quiet.stderr.splitlines()) == 1
        assert "no.jpg" in quiet.stderr
    for verbose in (clearcap("-v", "caption", *photos), clearcap("caption", "-v", *photos)):
        assert verbose.stdout == usual.stdout
        assert f"{model} on cpu in torch.float32" in verbose.stderr
        assert "2 photos in" in verbose.stderr
    old = clearcap("caption", album / "a.jpg", "--words", 5, "--model", model, "-q")
    assert old.stderr == ""


def test_info_fits_a_screen_unless_all_is_asked_for() -> None:
    brief, every = clearcap("info").stdout.splitlines(), clearcap("info", "--all").stdout.splitlines()
    assert len(brief) <= 24 < len(every)
    assert any("5,399,168" in line for line in brief)
    code = (
        "import sys\nsys.argv = ['clearcap', 'info', '--json']\nfrom clearcap.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('onnx', 'onnxscript', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_models_at_hand(model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("a" * 40)
    other = tmp_path / "hub" / "models--someone--bert" / "snapshots" / ("b" * 40)
    for folder, text in ((snapshot, (model / "config.json").read_text()), (other, '{"model_type": "bert"}')):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(text)
    for repository, commit in (("tiny", "a"), ("bert", "b")):
        refs = tmp_path / "hub" / f"models--someone--{repository}" / "refs"
        refs.mkdir()
        (refs / "main").write_text(commit * 40)
    done = run("models", model.parent, "--json", HF_HUB_CACHE=str(tmp_path / "hub"))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["model"] for one in found if one["found"] == "ships"] == ["default", "german"]
    assert [one for one in found if one["found"] == "hub cache"] == [
        {"model": "someone/tiny", "found": "hub cache", "folder": str(snapshot)}
    ]
    assert str(model) in [one["folder"] for one in found if one["found"] == "folder"]
    none = run("models", HF_HUB_CACHE=str(tmp_path / "empty"))
    assert (none.returncode, len(none.stdout.splitlines())) == (0, 2)
    assert b"no such folder" in run("models", tmp_path / "nosuch").stderr
