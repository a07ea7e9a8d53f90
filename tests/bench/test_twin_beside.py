"""``python -m benchmarks.twin`` on a tiny captioner: a killed training goes on, both are told apart photo by photo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import clearcap, interrupted_after
from PIL import Image
from safetensors.torch import load_file
from tiny_captioner import CAPTIONS, save_tiny_captioner
from typer.testing import CliRunner

from benchmarks.twin import app
from clearcap.metrics.scoring import score

SETTINGS = """
vision.kind=compact text.split=1 text.length=16 vision.tokens=4 vision.dim=16 vision.image_size=64
denoiser.width=32 denoiser.depth=2 denoiser.heads=2 denoiser.hidden=48
train.photos=3 train.copies=2 train.warmup=1 train.steps=4 train.log_every=1
"""
SIZES = SETTINGS.split()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner, and photos with captions in two splits."""
    desk = tmp_path_factory.mktemp("twin")
    save_tiny_captioner(desk / "model")
    rng = np.random.default_rng(0)
    for split, numbers in (("train", range(5)), ("val", range(5, 9))):
        lines = []
        for number in numbers:
            picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(picture).save(desk / f"{number}.png")
            captions = [CAPTIONS[number % 4], CAPTIONS[(number + 1) % 4]]
            lines.append(json.dumps({"file_name": f"{number}.png", "captions": captions}) + "\n")
        (desk / f"captions_{split}.jsonl").write_text("".join(lines))
    return desk


def benchmark(*words: object, status: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.stdout


def test_a_twin_is_trained_and_told_apart_photo_by_photo(desk: Path) -> None:
    data, model = ("--data", f"folder:{desk}:train"), ("--model", desk / "model")
    with interrupted_after(2):
        benchmark("train", desk / "killed", *SIZES, *data, *model, status=130)
    benchmark("train", desk / "killed", *SIZES, *data, *model)
    benchmark("train", desk / "whole", *SIZES, *data, *model)
    killed, whole = (load_file(desk / name / "twin.safetensors") for name in ("killed", "whole"))
    assert all((killed[name] == whole[name]).all() for name in whole)

    dev = f"folder:{desk}:val"
    said = clearcap("evaluate", "--model", desk / "model", "--data", dev, "--out", desk / "results")
    assert said.returncode == 0, said.stderr
    found = json.loads(benchmark("compare", desk / "whole", desk / "results", "--data", dev))
    mine = json.loads((desk / "results" / "evaluation.json").read_text())
    for name in ("greedy", "beam of 3"):
        captions = found[name]["said"]
        references = {line["file_name"]: line["captions"] for line in lines_of(desk / "captions_val.jsonl")}
        twin = score(captions, references).corpus["CIDEr-D"]
        assert found[name]["CIDEr-D"][0] == twin
        test = found[name]["against it"][str(desk / "results")]["CIDEr-D"]
        assert test["difference"] == pytest.approx(mine["CIDEr-D"] - twin)
    assert set(found["ms a photo behind its encoder"]) == {"greedy", "beam of 3", str(desk / "results")}


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]
