"""The README is true: its tree is the disk's, and its commands run.

``python tests/test_readme.py`` prints the tree as the README should show it.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "clearcap"
RUN = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)```", re.DOTALL)


def sentence(module: Path) -> str:
    """The first line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return text.splitlines()[0].rstrip(".")


def tree() -> str:
    """Every module and package of clearcap with its one sentence."""
    lines = ["src/clearcap/"]
    for entry in sorted(PACKAGE.iterdir()):
        if entry.suffix == ".py" and not entry.name.startswith("__"):
            lines.append(f"  {entry.name:<15} {sentence(entry)}")
        elif (entry / "__init__.py").is_file():
            lines.append(f"  {entry.name + '/':<15} {sentence(entry / '__init__.py')}")
        elif entry.is_dir() and entry.name in ("configs", "model"):
            what = {"configs": "Presets: one TOML file each", "model": "The bundled model and its card"}
            lines.append(f"  {entry.name + '/':<15} {what[entry.name]}")
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


@pytest.mark.parametrize("number", range(2))
def test_commands_run(desk: Path, number: int) -> None:
    language, code = RUN.findall((ROOT / "README.md").read_text())[number]
    shell = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*shell, code],
        cwd=desk,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


if __name__ == "__main__":
    print(tree())
