"""Where a command writes is looked at before its work: a file in the way of a folder, a name of another format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import clearcap
from PIL import Image
from tiny_captioner import save_tiny_captioner


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner, captioned photos, and a file that is in the way."""
    desk = tmp_path_factory.mktemp("desk")
    save_tiny_captioner(desk / "model")
    (desk / "photos").mkdir()
    lines = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(desk / "photos" / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "captions": ["a dog runs", "a dog"]}) + "\n")
    (desk / "photos" / "captions.jsonl").write_text("".join(lines))
    (desk / "file").write_text("mine")
    return desk


@pytest.mark.parametrize(
    "words",
    [
        "remember PHOTOS --model MODEL --out",
        "label PHOTOS --teacher MODEL --out",
        "study ladic-steps --model MODEL --data folder:PHOTOS:all --subset --out",
        "evaluate --model MODEL --data folder:PHOTOS:all --out",
        "evaluate-fill --model MODEL --data folder:PHOTOS:all --out",
        "train-scorer MODEL --data folder:PHOTOS:all train.photos=2 train.steps=1 --out",
        "export MODEL --no-graphs",
    ],
)
def test_a_file_in_the_way_is_one_line_before_any_work(words: str, desk: Path) -> None:
    told = words.replace("PHOTOS", str(desk / "photos")).replace("MODEL", str(desk / "model")).split()
    done = clearcap(*told, desk / "file")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("clearcap: ")
    assert f"{desk / 'file'}" in line
    assert (desk / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["captions.json", "captions.txt", "captions.tsv", "captions.XLSX"])
def test_a_name_of_another_format_is_no_folder(name: str, desk: Path) -> None:
    done = clearcap("caption", desk / "photos", "--model", desk / "model", "--out", desk / name)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{name}: captions are written as .jsonl, .csv, .parquet; choose one of them" in line
    assert not (desk / name).exists()


@pytest.mark.parametrize("command", ["evaluate", "evaluate-fill", "table"])
def test_a_seed_that_cannot_be_is_one_line_before_any_work(command: str, desk: Path) -> None:
    data = f"folder:{desk / 'photos'}:all"
    done = clearcap(command, "--model", desk / "model", "--data", data, "--seed", -1)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line == "clearcap: seed=-1 must be at least 0"
