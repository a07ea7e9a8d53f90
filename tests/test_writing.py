"""Files are whole under their names or not there, errors are one line, and a full disk is one of them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from commands import clearcap
from tiny_captioner import save_tiny_captioner

from clearcap.data.writing import new_array, whole_file, whole_folder, write_json, write_text
from clearcap.errors import InputError
from tests.kills import small_disk


@contextmanager
def files_of(largest: int) -> Iterator[None]:
    """No file grows beyond so many bytes in the block, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_there_stays_until_a_file_is_written_and_where_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": "é"})
    assert file.read_text(encoding="utf-8") == '{\n "a": "é"\n}\n'
    with whole_file(file) as fresh:
        assert fresh.suffix == ".json"
        fresh.write_text("{}")
        assert "é" in file.read_text(encoding="utf-8")
    assert file.read_text() == "{}"

    def fails() -> None:
        with whole_file(file) as fresh:
            fresh.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert os.listdir(tmp_path) == ["a.json"]
    assert file.read_text() == "{}"


def test_a_folder_s_files_move_in_together_and_others_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for turn in ("one", "two"):
        with whole_folder(out) as fresh:
            (fresh / "deep").mkdir()
            write_text(fresh / "deep" / "a.txt", turn)
            assert turn == "one" or (out / "deep" / "a.txt").read_text() == "one"
        assert (out / "deep" / "a.txt").read_text() == turn
        write_text(out / "mine.txt", "kept")
    assert sorted(os.listdir(out)) == ["deep", "mine.txt"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "before")
    with files_of(1000):
        with pytest.raises(InputError, match=r"a\.txt cannot be written \(File too large\); make room"):
            write_text(file, "x" * 2000)
        with pytest.raises(InputError, match=r"big\.npy cannot be written"):
            new_array(tmp_path / "big.npy", np.float32, (1000,))
        with (
            pytest.raises(InputError, match="out cannot be written"),
            whole_folder(tmp_path / "out") as fresh,
        ):
            (fresh / "b.bin").write_bytes(b"x" * 2000)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert file.read_text() == "before"
    array = new_array(tmp_path / "big.npy", np.float32, (1000,))
    assert array.shape == (1000,)
    assert (tmp_path / "big.npy").stat().st_blocks * 512 >= 4000  # its room is taken


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["info", "--json"], ["caption", "PHOTO"], ["models"]])
def test_standard_output_on_a_full_disk_is_one_line(tmp_path: Path, words: list[str]) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    command = [word.replace("PHOTO", str(tmp_path / "a.png")) for word in words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "clearcap", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    told = "clearcap: the output cannot be written (No space left on device); make room, then run"
    assert done.stderr.splitlines() == [f"{told} the same command again"]


def test_an_export_to_a_full_disk_leaves_the_model_that_was_there(tmp_path: Path) -> None:
    """A small tmpfs, which only root may mount."""
    disk = tmp_path / "disk"
    with ExitStack() as mounted:
        try:
            resize = mounted.enter_context(small_disk(disk))
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a small disk needs root; RLIMIT_FSIZE stands for it in the tests beside")
        resize(300 * 1024)
        model = save_tiny_captioner(tmp_path / "model")
        assert clearcap("export", model, disk / "out").returncode == 0
        before = {path.name: path.read_bytes() for path in (disk / "out").iterdir()}
        (disk / "filler").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 8192))
        done = clearcap("export", save_tiny_captioner(tmp_path / "other", seed=1), disk / "out")
        assert done.returncode == 1
        assert [line for line in done.stderr.splitlines() if line.startswith("clearcap: ")]
        assert "Traceback" not in done.stderr
        assert "No space left on device" in done.stderr.splitlines()[-1]
        assert {path.name: path.read_bytes() for path in (disk / "out").iterdir()} == before
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "out"]


def test_an_error_is_one_line_whatever_it_names() -> None:
    assert str(InputError("a\nb\x00\u2028")) == r"a\nb\x00\u2028"
    assert str(InputError("é 😀 " + "x" * 700)) == "é 😀 " + "x" * 700
    long = str(InputError("begins " + "x" * 9000 + "; the remedy"))
    assert len(long) < 1000
    assert long.startswith("begins")
    assert long.endswith("; the remedy")
