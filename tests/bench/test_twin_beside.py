"""``python -m benchmarks.twin`` on a tiny captioner: a killed training goes on, both are told apart photo by photo."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import clearcap, interrupted_after
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tiny_captioner import CAPTIONS, save_tiny_captioner
from typer.testing import CliRunner

from benchmarks.twin import app
from clearcap.captioner.towers import build_captioner
from clearcap.config import load_preset
from clearcap.errors import InputError
from clearcap.metrics.scoring import score
from clearcap.training.log import progress_bar
from clearcap.training.run import examples_of, open_data

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
    watch = ["data.watch_photos=4", f"data.watch=folder:{desk}:val"]
    with interrupted_after(2):
        benchmark("train", desk / "killed", *SIZES, *data, *model, status=130)
    benchmark("train", desk / "killed", *SIZES, *data, *model)
    benchmark("train", desk / "whole", *SIZES, *watch, *data, *model)
    killed, whole = (load_file(desk / name / "twin.safetensors") for name in ("killed", "whole"))
    assert all((killed[name] == whole[name]).all() for name in whole)

    rewarded = ["train.steps=4", "train.sample_every=2"]
    with interrupted_after(2):
        benchmark("reward", desk / "whole", desk / "rewarded killed", *rewarded, status=130)
    benchmark("reward", desk / "whole", desk / "rewarded killed", *rewarded)
    benchmark("reward", desk / "whole", desk / "rewarded", *rewarded)
    benchmark("reward", desk / "whole", desk / "alone", *rewarded, "--share", 1)
    killed, on, alone = (
        load_file(desk / name / "twin.safetensors") for name in ("rewarded killed", "rewarded", "alone")
    )
    assert all((killed[name] == on[name]).all() for name in on)
    assert all(((whole[name] + alone[name]) / 2 - on[name]).abs().max() < 1e-6 for name in on)
    assert any((whole[name] != on[name]).any() for name in on)
    assert [line["step"] for line in lines_of(desk / "rewarded" / "samples.jsonl")] == [0, 2, 4]

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


def test_what_a_twin_says_of_its_photos_can_be_learned_alone(desk: Path) -> None:
    data, model = f"folder:{desk}:train", desk / "model"
    benchmark("train", desk / "teacher", *SIZES, "--data", data, "--model", model)
    benchmark("teach", desk / "teacher", desk / "taught.jsonl")
    said = lines_of(desk / "taught.jsonl")
    assert [line["photo"] for line in said] == [f"{number}.png" for number in range(5)]
    assert all(1 <= len(line["captions"]) <= 2 for line in said)  # of two views
    with pytest.raises(InputError, match=r"teacher_alone=true has no teacher"):
        load_preset("compact", ["data.teacher_alone=true"])
    settings = [
        f"text.source={model}",
        f"vision.source={model}",
        f"data.corpus={data}",
        "data.watch_photos=0",
    ]
    settings += [f"data.features={desk / 'teacher' / 'features'}", "data.views=2", "train.tracker=none"]
    settings += ["data.expected=false", f"data.teacher_captions={desk / 'taught.jsonl'}"]
    seen = {}
    for alone in (True, False):
        asked = load_preset("compact", [*SIZES, *settings, f"data.teacher_alone={str(alone).lower()}"])
        captioner, tokenizer = build_captioner(asked)
        photos, _ = open_data(asked.data)
        with progress_bar(Console(stderr=True), shown=False) as progress:
            seen[alone] = examples_of(captioner, tokenizer, asked, photos, [], torch.arange(5), progress)
    first = seen[True].first.tolist()
    assert [end - start for start, end in pairwise(first)] == [len(line["captions"]) for line in said]
    assert len(seen[False].ids) == len(seen[True].ids) + 2 * 5


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]
