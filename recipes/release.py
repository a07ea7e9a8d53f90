"""Builds what is published, checks it, tries it in an empty environment: ``python recipes/release.py [--tag]``.

Checked are the wheel and the source archive: what is in them, metadata and README as the index shows it (twine), the
model's files against their committed hashes, licences of what the wheel needs, and every command of the README's tour,
run in an environment that holds the wheel and nothing else. Needs ``pip install build twine``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HASHES = ROOT / "recipes" / "model.sha256"
RUN = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)```", re.DOTALL)
FREE = re.compile(r"apache|mit|bsd|psf|python software|isc|mpl|unlicen[sc]e|hpnd|cc0|0bsd|zlib", re.I)
EXTRAS = {"curl": "serve"}  # a word of a block -> the extra that it needs


class Fault(Exception):
    """What keeps this from being released, in one line."""


def require(ok: object, message: str) -> None:
    """Raise ``Fault`` unless ``ok``."""
    if not ok:
        raise Fault(message)


def run(*command: object) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run([str(one) for one in command], text=True, capture_output=True, cwd=ROOT)
    require(done.returncode == 0, f"{command}: {done.stdout}{done.stderr}")
    return str(done.stdout)


def build(out: Path) -> tuple[Path, Path]:
    """The wheel and the source archive, made anew."""
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", out)
    (wheel,), (archive,) = out.glob("*.whl"), out.glob("*.tar.gz")
    for made in (wheel, archive):
        print(f"{made.name}: {made.stat().st_size / 2**20:.1f} MiB")
    return wheel, archive


def check_contents(wheel: Path, archive: Path) -> None:
    """The package, its licences and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    foreign = [name for name in names if not re.match(r"clearcap(-[\d.]+\.dist-info)?/", name)]
    require(not foreign, f"{wheel.name} holds {foreign[:3]}; the wheel is for the package alone")
    left = [name for name in names if re.search(r"__pycache__|\.pyc$|\.orig$|\.ipynb|runs/|results/", name)]
    require(not left, f"{wheel.name} holds {left[:3]}; clean the checkout")
    tracked = set(run("git", "ls-files", "src/clearcap").split())
    inside = {f"src/{name}" for name in names if name.startswith("clearcap/")}
    require(inside == tracked, f"the wheel and git differ: {sorted(inside ^ tracked)[:5]}")
    for licence in ("LICENSE", "NOTICE"):
        require(any(name.endswith(f"licenses/{licence}") for name in names), f"{wheel.name} lacks {licence}")
    with tarfile.open(archive) as files:
        members = {name.partition("/")[2] for name in files.getnames()}
    for wanted in ("README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "pyproject.toml"):
        require(wanted in members, f"{archive.name} lacks {wanted}")


def check_metadata(wheel: Path, archive: Path) -> None:
    """As the index will show it: valid, with links and pictures that are not relative."""
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, archive)
    inside = zipfile.ZipFile(wheel)
    text = inside.read(
        next(name for name in inside.namelist() if name.endswith(".dist-info/METADATA"))
    ).decode()
    relative = re.findall(r"\]\((?!https?://|#|mailto:)([^)]*)\)", text)
    require(
        not relative, f"the description links to {relative[:3]}; links for the index must be whole addresses"
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    require(f"\nVersion: {version}\n" in text, f"the wheel is not version {version}")
    require(f'__version__ = "{version}"' in (ROOT / "src/clearcap/config.py").read_text(), "versions differ")
    require(
        f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(), "CITATION.cff has another version"
    )
    require(
        f"## {version}" in (ROOT / "CHANGELOG.md").read_text(), f"CHANGELOG.md has no section on {version}"
    )


def hashes() -> dict[str, str]:
    """SHA-256 of the bundled models' weights, graphs, settings and vocabulary."""
    model = ROOT / "src/clearcap/model"
    kept = [file for file in sorted(model.rglob("*")) if file.suffix in (".safetensors", ".onnx", ".json")]
    return {
        file.relative_to(model).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept
    }


def check_model(wheel: Path) -> None:
    """The model's files in the wheel are those whose hashes are committed."""
    known = dict(reversed(line.split()) for line in HASHES.read_text().splitlines())
    inside = zipfile.ZipFile(wheel)
    for name, digest in known.items():
        found = hashlib.sha256(inside.read(f"clearcap/model/{name}")).hexdigest()
        require(found == digest, f"model/{name} is not the file in {HASHES.name}; after a change: --hashes")
    require(set(known) == set(hashes()), f"{HASHES.name} and src/clearcap/model name different files")


def check_licences(python: Path) -> None:
    """Whatever the wheel brings with it has a licence that lets anyone use it."""
    code = (
        "from importlib.metadata import distributions\n"
        "for one in distributions():\n"
        "    about = one.metadata\n"
        "    told = [about.get('License-Expression') or '', *(about.get_all('Classifier') or [])]\n"
        "    told = [t for t in told if t and ('License' in t or not t.count('::'))] or [about.get('License') or '']\n"
        "    print(about['Name'], '|', ' '.join(told).replace(chr(10), ' ')[:300])\n"
    )
    for line in run(python, "-c", code).splitlines():
        name, _, licence = line.partition(" | ")
        require(FREE.search(licence), f"{name}: its licence is {licence!r}; see whether it may be needed")


def tour(wheel: Path) -> list[str]:
    """Run the README's tour in an environment of the wheel alone; its commands in their order.

    Blocks that need an extra run last, once it is installed.
    """
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        venv.create(home / "env", with_pip=True)
        python = home / "env" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
        check_licences(python)
        there = run(
            python,
            "-c",
            "import importlib.util as u; print([n for n in ('torch', 'transformers') if u.find_spec(n)])",
        )
        require(there.strip() == "[]", f"the wheel alone brings {there.strip()}")
        desk = home / "desk"
        desk.mkdir()
        shutil.copy(ROOT / "src/clearcap/bench/photo.jpg", desk / "photo.jpg")
        shutil.copytree(ROOT / "docs/photos", desk / "photos")
        ran = []
        blocks = RUN.findall((ROOT / "README.md").read_text())
        for language, code in sorted(blocks, key=_extra_of):
            if extra := _extra_of((language, code)):
                run(
                    python,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "-c",
                    ROOT / "constraints.txt",
                    f"{wheel}[{extra}]",
                )
            shell = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [python, "-I", "-c"]
            path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
                "PATH": path,
                "HF_HUB_OFFLINE": "1",
            }
            done = subprocess.run([*shell, code], cwd=desk, env=environment, capture_output=True, text=True)
            require(
                done.returncode == 0,
                f"the README's tour ends with status {done.returncode}: {done.stderr[-2000:]}",
            )
            ran += [line for line in code.splitlines() if line.strip()]
        return ran


def _extra_of(block: tuple[str, str]) -> str:
    return next((extra for word, extra in EXTRAS.items() if word in block[1]), "")


def tag() -> None:
    """Tag this commit as the version, from a clean checkout of the repository that the metadata names."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    require(not run("git", "status", "--porcelain").strip(), "the checkout has changes; commit them first")
    home = about["urls"]["Repository"].removeprefix("https://")
    remotes = run("git", "remote", "-v").replace(":", "/")
    require(home in remotes, f"no remote of this checkout is {home}, which the metadata and README name")
    run("git", "tag", "--annotate", f"v{about['version']}", "--message", f"clearcap {about['version']}")
    print(f"tagged v{about['version']}; push it, then: twine upload dist/*")


def main() -> int:
    """Do it; exit status 1 with what is wrong in one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tag", action="store_true", help="tag the commit once everything has passed")
    parser.add_argument("--hashes", action="store_true", help="write the model's hashes anew and stop")
    asked = parser.parse_args()
    if asked.hashes:
        HASHES.write_text("".join(f"{digest}  {name}\n" for name, digest in hashes().items()))
        return 0
    try:
        wheel, archive = build(ROOT / "dist")
        check_contents(wheel, archive)
        check_metadata(wheel, archive)
        check_model(wheel)
        print(*tour(wheel), sep="\n")
        if asked.tag:
            tag()
    except Fault as fault:
        print(f"not to be released: {fault}", file=sys.stderr)
        return 1
    print("everything passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
