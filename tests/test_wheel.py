"""The wheel: what is in it, and the README's tour in an environment that holds it and what it asks for, nothing else.

The environment is made of links to the distributions that the wheel's own metadata require, found among those of the
tests, so that no package is fetched; ``make release`` does the same in a fresh one, with the extras.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
RUN = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("dist")
    code = f"import hatchling.build; print(hatchling.build.build_wheel({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def metadata(wheel: Path) -> str:
    inside = zipfile.ZipFile(wheel)
    return inside.read(next(name for name in inside.namelist() if name.endswith("/METADATA"))).decode()


def required(wheel: Path) -> dict[str, Distribution]:
    """The distributions that the wheel asks for without an extra, and those that they ask for."""
    asked = [
        line.partition(": ")[2] for line in metadata(wheel).splitlines() if line.startswith("Requires-Dist: ")
    ]
    found: dict[str, Distribution] = {}
    while asked:
        one = Requirement(asked.pop())
        key = one.name.lower().replace("_", "-")
        if key not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found[key] = distribution(one.name)
            asked += found[key].requires or []
    return found


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel, unpacked, and links to what it requires."""
    home = tmp_path_factory.mktemp("alone")
    zipfile.ZipFile(wheel).extractall(home)
    for one in required(wheel).values():
        for file in one.files or ():
            top = file.parts[0]
            place = Path(str(one.locate_file(top)))
            if top not in ("..", "__pycache__") and place.exists() and not (home / top).exists():
                (home / top).symlink_to(place)
    return home


def test_the_wheel_brings_no_torch(wheel: Path) -> None:
    names = set(required(wheel))
    assert {"numpy", "pillow", "tokenizers", "onnxruntime", "typer"} <= names
    assert not names & {"torch", "transformers", "safetensors", "matplotlib", "onnx", "scipy", "pandas"}


def test_what_the_index_shows_has_no_relative_links(wheel: Path) -> None:
    text = metadata(wheel)
    assert "](https://raw.githubusercontent.com/" in text
    assert re.findall(r"\]\((?!https?://|#|mailto:)[^)]*\)", text) == []


@pytest.mark.parametrize("number", [0, 1])
def test_the_tour_runs_where_nothing_else_is(alone: Path, tmp_path: Path, number: int) -> None:
    language, code = RUN.findall((ROOT / "README.md").read_text())[number]
    shutil.copy(ROOT / "src/clearcap/bench/photo.jpg", tmp_path / "photo.jpg")
    shutil.copytree(ROOT / "docs/photos", tmp_path / "photos")
    python = tmp_path / "python"  # -S: without the packages of the tests; -P: without this folder
    python.write_text(f'#!/bin/sh\nPYTHONPATH={alone} exec {sys.executable} -S -P "$@"\n')
    command = tmp_path / "clearcap"
    command.write_text(f'#!/bin/sh\nexec {python} -m clearcap "$@"\n')
    for one in (python, command):
        one.chmod(0o755)
    shell = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [str(python), "-c"]
    found = subprocess.run(
        [python, "-c", "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('pytest'))"],
        capture_output=True,
        text=True,
    )
    assert found.stdout == "None None\n", found.stderr
    assert importlib.util.find_spec("pytest")
    done = subprocess.run(
        [*shell, code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 5
