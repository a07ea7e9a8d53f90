"""The README is true: its tree is the disk's, and its commands run (those of its tour in tests/test_wheel.py).

``python tests/test_readme.py`` prints the tree as the README should show it.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from test_package import FLOORS

from clearcap import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "clearcap"
RUN = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)```", re.DOTALL)


def sentence(module: Path) -> str:
    """The first line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return text.splitlines()[0].rstrip(".")


def tree() -> str:
    """Every module and room of clearcap with its one sentence, floor by floor from the ground."""
    lines = ["src/clearcap/"]
    for floor in FLOORS:
        for room in sorted(floor):
            module, package = PACKAGE / f"{room}.py", PACKAGE / room / "__init__.py"
            if module.is_file() and not room.startswith("__"):
                lines.append(f"  {module.name:<13} {sentence(module)}")
            elif package.is_file():
                lines.append(f"  {room + '/':<13} {sentence(package)}")
    rooms = {name for floor in FLOORS for name in floor}
    for entry in sorted(PACKAGE.iterdir()):
        stem = entry.name.removesuffix(".py")
        assert entry.name in ("py.typed", "configs", "model", "__pycache__") or stem in rooms, entry
    lines += [
        "  configs/      Presets: one TOML file each",
        "  model/        The bundled models and their card",
    ]
    return "\n".join(lines)


def test_tree_is_the_disks() -> None:
    assert tree() in (ROOT / "README.md").read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the photos that the README speaks of."""
    import matplotlib

    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    shutil.copy(photo, tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    for name in ("one.jpg", "two.jpg"):
        shutil.copy(photo, tmp_path / "photos" / name)
    return tmp_path


@pytest.mark.parametrize(("page", "number"), [("README.md", 2), ("docs/bulk.md", 0)])
def test_commands_run(desk: Path, page: str, number: int) -> None:
    language, code = RUN.findall((ROOT / page).read_text())[number]
    own = desk / "bin"
    own.mkdir()
    (own / "clearcap").write_text(f'#!/bin/sh\nexec {forks.for_scripts()["CLEARCAP"]} "$@"\n')
    (own / "clearcap").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        code = code.replace("8765", str(free.getsockname()[1]))  # others test on this machine, too
    shell = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
    path = os.pathsep.join([str(own), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*shell, code],
        cwd=desk,
        capture_output=True,
        text=True,
        env={**os.environ, **forks.for_scripts(), "PATH": path},
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_command_that_is_installed_is_the_one_that_pages_call() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "clearcap", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"clearcap {__version__}\n"), done.stderr


if __name__ == "__main__":
    print(tree())
