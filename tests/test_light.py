"""Captioning where there is no torch: what is run in these processes cannot import it, nor what comes with it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HIDDEN = ("torch", "transformers", "safetensors", "accelerate", "matplotlib", "onnx", "scipy")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({HIDDEN!r}))\n"
COMMANDS = """
import contextlib, io, json
from clearcap.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv, status = ["clearcap", *arguments], 0
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([status, *(one.buffer.getvalue().decode() for one in (out, err))]))
"""
CAPTION = (
    ("caption", "PHOTO"),
    ("caption", "PHOTO", "PHOTO", "--json"),
    ("caption", "PHOTO", "--candidates", "4", "--utility", "cider"),
    ("caption", "PHOTO", "--diverse", "2"),
    ("caption", "PHOTO", "--length", "6"),
    ("caption", "PHOTO", "--refine", "--set", "early_exit=1", "--solver", "ddpm"),
    ("caption", "PHOTO", "--out", "captions.jsonl"),
    ("fill", "PHOTO", "a ___ in a ___"),
    ("fill", "PHOTO", "--contain", "hat", "--length", "6-8"),
    ("fill", "PHOTO", "a ___ in a ___", "--forbid", "man"),
    ("watch", "PHOTO"),
    ("watch", "PHOTO", "--noise"),
    ("models",),
)
OTHER = (("info", "--json"), ("score", "results.jsonl", "references.jsonl", "--json"))
NEEDING = {
    ("train", "compact"): "torch",
    ("export", "default", "OUT"): "torch",
    ("caption", "PHOTO", "--memory", "memory"): "torch",
    ("parity", "OUT"): "torch",
    ("watch", "PHOTO", "--out", "out.png"): "plots",
}


@dataclass(frozen=True)
class Done:
    """What one command came to."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: a photo, and captions with their references."""
    here = tmp_path_factory.mktemp("light")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)).save(here / "photo.png")
    (here / "results.jsonl").write_text(
        '{"image_id": "1", "caption": "a dog runs"}\n{"image_id": "2", "caption": "a cat"}\n'
    )
    (here / "references.jsonl").write_text(
        '{"image_id": "1", "captions": ["a dog runs"]}\n{"image_id": "2", "captions": ["the cat"]}\n'
    )
    return here


def run(folder: Path, code: str, *arguments: str) -> list[str]:
    """The lines that code prints in a process of its own."""
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[tuple[str, ...], Done]:
    """Every command, one after another in one process, with the bundled model."""
    commands = [*CAPTION, *OTHER, *NEEDING]
    asked = [["photo.png" if one == "PHOTO" else one for one in command] for command in commands]
    lines = run(folder, COMMANDS, json.dumps(asked))
    return {command: Done(*json.loads(line)) for command, line in zip(commands, lines, strict=True)}


@pytest.mark.parametrize("command", CAPTION, ids=" ".join)
def test_commands_caption(command: tuple[str, ...], done: dict[tuple[str, ...], Done], folder: Path) -> None:
    assert done[command].status == 0, done[command].err
    if "--out" in command:
        assert json.loads((folder / "captions.jsonl").read_text())["caption"]
    else:
        assert done[command].out.strip()


def test_info_and_score_work(done: dict[tuple[str, ...], Done]) -> None:
    info, score = (done[command] for command in OTHER)
    assert (info.status, score.status) == (0, 0), info.err + score.err
    assert min(json.loads(info.out)["parameters"].values()) > 0
    assert json.loads(score.out)["photos"] == 2


@pytest.mark.parametrize("command", NEEDING, ids=" ".join)
def test_what_needs_more_says_so_in_one_line(
    command: tuple[str, ...], done: dict[tuple[str, ...], Done]
) -> None:
    assert done[command].status == 1
    last = done[command].err.strip().splitlines()[-1]
    assert last.startswith("clearcap: ")
    assert " needs " in last
    assert last.endswith(f"pip install 'clearcap[{NEEDING[command]}]'")
    assert "Traceback" not in done[command].err


def test_classes_that_need_torch_say_so(folder: Path) -> None:
    code = (
        "import clearcap\n"
        "try:\n    clearcap.Captioner\n"
        "except ImportError as fault:\n    print(fault)\n"
        "try:\n    clearcap.CaptionPipeline.from_pretrained(backend='torch')\n"
        "except ValueError as fault:\n    print(fault)\n"
        "try:\n    clearcap.CaptionPipeline.from_pretrained(memory='memory')\n"
        "except ValueError as fault:\n    print(fault)\n"
        "pipeline = clearcap.CaptionPipeline.from_pretrained()\n"
        "print(pipeline('photo.png', candidates=3).caption)\n"
        "print(len(pipeline.trajectory('photo.png', steps=3)))\n"
        "print(pipeline.watch('photo.png', candidates=3).result.caption)\n"
        "print(*map(len, pipeline.alternatives('photo.png', 'a man', count=4)))\n"
        "try:\n    pipeline.attention('photo.png', 'a man')\n"
        "except ValueError as fault:\n    print(fault)\n"
    )
    first, second, third, caption, frames, watched, alternatives, attention = run(folder, code)
    assert "clearcap.Captioner needs torch" in first or "clearcap.Captioner needs transformers" in first
    assert "by torch needs torch" in second
    assert "captioning with a memory by torch needs torch" in third
    assert caption
    assert frames == "3"
    assert watched == caption
    assert alternatives == "4 4"
    assert 'backend="torch"' in attention
