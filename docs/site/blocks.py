"""Code blocks of pages: which of them run, and what they print.

A fenced block of code is preceded by a comment that says what becomes of it:

- ``<!-- run -->``: it is run, and what it prints is shown below it; ``<!-- run: silent -->`` shows nothing;
  ``<!-- run: status 1 -->`` expects that exit status.
- ``<!-- file: NAME -->`` and ``<!-- plugin: NAME -->``: it is written to NAME (NAME.py) for the blocks after it.
- ``<!-- not run: REASON -->``: it is left alone, and the page says why.

A page whose blocks have one reason in common has it in ``not_run.toml``. Blocks without a language, ``text`` and
``json`` show what is printed or written, and are not code. The blocks of a page run one after another in one folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>[\w-]*)\n(?P<code>.*?)^```$", re.M | re.S
)
DATA = ("", "text", "json")
RUNNING = ("sh", "python")
PROGRESS = re.compile(r"it/s\]|s/it\]|-:--:--|[━╸╺] *\d+/\d+ |^\s*\d+%")  # lines of bars
PATIENCE = 1800  # seconds, for a block on a machine that has much else to do
LONGEST = 40  # lines of output that a page shows
PORT = 8765


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        mark: the comment before it, "" without one.
        language: of the fence.
        code: its text.
        line: where it begins on its page, from 1.
    """

    mark: str
    language: str
    code: str
    line: int

    @property
    def verb(self) -> str:
        """What the mark asks for: "run", "file", "plugin", "not run" or ""."""
        return self.mark.partition(":")[0].strip()

    @property
    def about(self) -> str:
        """What stands behind the mark's colon."""
        return self.mark.partition(":")[2].strip()


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    return [
        Block(
            (found["mark"] or "").strip(),
            found["language"],
            found["code"],
            page[: found.start()].count("\n") + 1,
        )
        for found in FENCE.finditer(page)
    ]


def reasons() -> dict[str, str]:
    """Why the blocks of some pages are not run, by the page's path below ``docs``."""
    return tomllib.loads((Path(__file__).parent / "not_run.toml").read_text())


def faults(name: str, page: str) -> list[str]:
    """What is wrong with the marks of a page's blocks, one line each."""
    known, found = reasons(), []
    for block in blocks(page):
        where = f"{name}:{block.line}"
        if block.verb not in ("", "run", "file", "plugin", "not run"):
            found.append(f"{where}: the mark {block.mark!r} says nothing; use run, file, plugin or not run")
        elif block.verb == "run" and block.language not in RUNNING:
            found.append(
                f"{where}: a block of {block.language or 'no language'} cannot be run; use sh or python"
            )
        elif block.verb in ("file", "plugin", "not run") and not block.about:
            found.append(f"{where}: {block.verb} needs a name or a reason behind a colon")
        elif not block.verb and block.language not in DATA and name not in known:
            found.append(f"{where}: nothing says whether this block is run; put <!-- run --> before it")
    return found


def desk(folder: Path) -> None:
    """Lay out what blocks find in their folder: photo.jpg, three photos in photos/, a picture that is none."""
    shutil.copy(ROOT / "src" / "clearcap" / "bench" / "photo.jpg", folder / "photo.jpg")
    (folder / "photos").mkdir()
    for photo in sorted((ROOT / "docs" / "photos").glob("*.jpg")):
        shutil.copy(photo, folder / "photos")


def rendered(name: str, page: str, run: bool = True, told: Callable[[str], None] = lambda line: None) -> str:
    """A page with the output of its blocks, and with a line below every other that says why it has none.

    Args:
        name: the page's path below ``docs``.
        page: its Markdown.
        run: whether blocks are run; without it the page has no output.
        told: is told of each block that begins to run.

    Raises:
        RuntimeError: a block ended otherwise than it should have; with all that it printed.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "desk"
        folder.mkdir()
        ready = False
        reason = reasons().get(name)

        def one(found: re.Match[str]) -> str:
            nonlocal ready
            block = Block(
                (found["mark"] or "").strip(),
                found["language"],
                found["code"],
                page[: found.start()].count("\n") + 1,
            )
            fence = f"```{block.language}\n{block.code}```"
            if block.verb == "not run":
                return f"{fence}\n\n{_small('Not run when this page is made: ' + block.about)}"
            if block.verb in ("file", "plugin"):
                target = block.about + (".py" if block.verb == "plugin" else "")
                (folder / target).write_text(block.code)
                return f"{_small(f'In a file {target}:')}\n\n{fence}"
            if block.verb != "run" or not run:
                return fence
            if not ready:
                desk(folder)
                ready = True
            told(f"{name}:{block.line}")
            said = run_block(block, folder)
            silent = block.about == "silent" or not said
            return fence if silent else f"{fence}\n\n```text\n{said}\n```"

        text = FENCE.sub(one, page)
        if reason and any(block.language not in DATA and not block.verb for block in blocks(page)):
            head, _, rest = text.partition("\n")
            some = any(block.verb == "run" for block in blocks(page))
            which = "Those commands of this page that show no output" if some else "The commands of this page"
            note = f"{which} are not run when it is made: {reason}"
            text = f"{head}\n\n{_small(note)}\n{rest}"
        return text


def run_block(block: Block, folder: Path) -> str:
    """Run a block in a folder; what it printed, as a page shows it.

    Raises:
        RuntimeError: it ended with another status than its mark says, or took too long.
    """
    own = folder.parent / "bin"
    own.mkdir(exist_ok=True)
    (own / "clearcap").write_text(f'#!/bin/sh\nexec {sys.executable} -m clearcap "$@"\n')
    (own / "clearcap").chmod(0o755)
    path = os.pathsep.join([str(own), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "TQDM_DISABLE": "1",
        "COLUMNS": "100",
        "PYTHONWARNINGS": "ignore",
    }
    command = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, block.code],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
    )
    said = done.stdout.decode(errors="replace").replace("\r\n", "\n")
    asked = int(block.about.removeprefix("status ")) if block.about.startswith("status ") else 0
    if done.returncode != asked:
        raise RuntimeError(f"a block ended with status {done.returncode}:\n{block.code}\n{said}")
    return shown(said, folder)


def shown(output: str, folder: Path) -> str:
    """Output as a page shows it: without colours, progress bars, trailing blanks and the folder's name."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace(f"{folder}/", "").replace(str(folder), ".")
    lines = [line.rpartition("\r")[2].rstrip() for line in plain.rstrip().split("\n")]
    lines = [line for line in lines if not PROGRESS.search(line)]
    while lines and not lines[0]:
        lines = lines[1:]
    if len(lines) > LONGEST:
        lines = [*lines[: LONGEST - 1], f"... ({len(lines) - LONGEST + 1} more lines)"]
    return "\n".join(lines)


def _small(text: str) -> str:
    return f"*{text}*" if "*" not in text else text
