"""Captioning where there is no torch: what is run in these processes cannot import it, nor what comes with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_captioner import tiny_captioner

pytest.importorskip("onnxscript", reason="writing graphs needs it; pip install 'clearcap[onnx]'")
from clearcap.captioner.hub import export

HIDDEN = ("torch", "transformers", "safetensors", "accelerate", "matplotlib", "onnx", "scipy")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({HIDDEN!r}))\n"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def clearcap(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("from clearcap.cli import main; main()", *arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    captioner, tokenizer = tiny_captioner()
    trained = tmp_path_factory.mktemp("trained")
    captioner.save_pretrained(trained)
    tokenizer.save_pretrained(trained)
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(str(trained), folder)
    return str(folder)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)).save(file)
    return str(file)


@pytest.mark.parametrize(
    "arguments",
    [
        ["caption", "PHOTO"],
        ["caption", "PHOTO", "PHOTO", "--json"],
        ["caption", "PHOTO", "--candidates", "4", "--utility", "cider"],
        ["caption", "PHOTO", "--diverse", "2"],
        ["caption", "PHOTO", "--refine", "--set", "early_exit=1", "--solver", "ddpm"],
        ["fill", "PHOTO", "a ___ dog"],
        ["watch", "PHOTO"],
    ],
)
def test_commands_caption(arguments: list[str], model: str, photo: str) -> None:
    done = clearcap(*(photo if one == "PHOTO" else one for one in arguments), "--model", model)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_info_and_score_work(model: str, tmp_path: Path) -> None:
    done = clearcap("info", model, "--json")
    assert done.returncode == 0, done.stderr
    assert min(json.loads(done.stdout)["parameters"].values()) > 0
    results, references = tmp_path / "results.jsonl", tmp_path / "references.jsonl"
    results.write_text('{"image_id": "1", "caption": "a dog runs"}\n{"image_id": "2", "caption": "a cat"}\n')
    references.write_text(
        '{"image_id": "1", "captions": ["a dog runs"]}\n{"image_id": "2", "captions": ["the cat"]}\n'
    )
    done = clearcap("score", str(results), str(references), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["photos"] == 2


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "compact"], "torch"),
        (["export", "MODEL", "OUT"], "torch"),
        (["watch", "PHOTO", "--model", "MODEL", "--out", "OUT.png"], "plots"),
    ],
)
def test_what_needs_more_says_so_in_one_line(
    arguments: list[str], extra: str, model: str, photo: str, tmp_path: Path
) -> None:
    names = {
        "MODEL": model,
        "PHOTO": photo,
        "OUT": str(tmp_path / "out"),
        "OUT.png": str(tmp_path / "out.png"),
    }
    done = clearcap(*(names.get(one, one) for one in arguments))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("clearcap: this needs ")
    assert last.endswith(f"pip install 'clearcap[{extra}]'")
    assert "Traceback" not in done.stderr


def test_classes_that_need_torch_say_so(model: str, photo: str) -> None:
    code = (
        "import clearcap\n"
        "try:\n    clearcap.Captioner\n"
        "except ImportError as fault:\n    print(fault)\n"
        "try:\n    clearcap.CaptionPipeline.from_pretrained(sys.argv[1], backend='torch')\n"
        "except ValueError as fault:\n    print(fault)\n"
        "pipeline = clearcap.CaptionPipeline.from_pretrained(sys.argv[1])\n"
        "print(pipeline(sys.argv[2], candidates=3).caption)\n"
        "print(len(pipeline.trajectory(sys.argv[2], steps=3)))\n"
    )
    done = run(code, model, photo)
    assert done.returncode == 0, done.stderr
    first, second, caption, frames = done.stdout.splitlines()
    assert "clearcap.Captioner needs torch" in first or "clearcap.Captioner needs transformers" in first
    assert "by torch needs torch" in second
    assert caption
    assert frames == "3"
