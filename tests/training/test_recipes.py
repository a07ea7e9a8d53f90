"""The recipes of the shipped models, with two steps a stage on a handful of real photos."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tiny_captioner import CAPTIONS, seeing_captioner

from clearcap.captioner.folder import shares_of
from clearcap.captioner.hub import export
from clearcap.captioner.model import load_captioner
from clearcap.pipeline import CaptionPipeline

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture
def data(shared: Path, tmp_path: Path) -> Path:
    """Eleven photos of Flickr8k and four of COCO, in the layout that the recipes ask for."""
    root, flickr, coco = tmp_path / "data", shared / "data" / "flickr8k", shared / "data" / "coco"
    (root / "flickr8k" / "Images").mkdir(parents=True)
    header, *lines = (flickr / "captions.txt").read_text().splitlines()
    used: set[str] = set()
    for split, count in (("train", 8), ("dev", 3)):
        list_name = f"Flickr_8k.{split}Images.txt"
        names = (flickr / list_name).read_text().split()[:count]
        (root / "flickr8k" / list_name).write_text("\n".join(names) + "\n")
        for name in names:
            shutil.copy(flickr / "Images" / name, root / "flickr8k" / "Images")
        used |= set(names)
    kept = [header, *(line for line in lines if line.split(",")[0] in used)]
    (root / "flickr8k" / "captions.txt").write_text("\n".join(kept) + "\n")
    (root / "coco" / "unlabelled").mkdir(parents=True)
    (root / "coco" / "captions.jsonl").write_text(
        (coco / "captions.jsonl").read_text().splitlines()[0] + "\n"
    )
    listed = json.loads((coco / "captions_val2017.json").read_text())
    photos = listed["images"][:20]
    ids = {photo["id"] for photo in photos}
    captions = [caption for caption in listed["annotations"] if caption["image_id"] in ids]
    few = {**listed, "images": photos, "annotations": captions}
    (root / "coco" / "captions_val2017.json").write_text(json.dumps(few))
    for photo in sorted((coco / "unlabelled").iterdir())[:4]:
        shutil.copy(photo, root / "coco" / "unlabelled")
    return root


@pytest.mark.shared
def test_the_model_that_ships_is_made_from_start_to_end(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    hf.ViTModel(hf.ViTConfig(**sizes, image_size=224, patch_size=32)).save_pretrained(teacher)
    settings = {"STEPS": "2", "OMP_NUM_THREADS": "1"} | forks.for_scripts()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def recipe(name: str, *arguments: Path) -> str:
        done = subprocess.run(
            [RECIPES / name, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **settings, "PATH": path},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    recipe("default.sh", data, teacher, out)
    photo = next((data / "coco" / "unlabelled").iterdir())
    assert isinstance(CaptionPipeline.from_pretrained(out / "model")(str(photo)).caption, str)
    settings_of_last = json.loads((out / "captioner7" / "preset.json").read_text())["train"]
    assert (settings_of_last["agreement"], settings_of_last["neighbour_captions"]) == (1.5, 5)
    assert "==" not in recipe("default.sh", data, teacher, out)  # all is done


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A saved captioner with an EfficientNet, and a captioned folder, split in two."""
    captioner, tokenizer = seeing_captioner()
    captioner.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    mine = tmp_path / "mine"
    mine.mkdir()
    for split, count in (("train", 5), ("val", 3)):
        lines = []
        for i in range(count):
            picture = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(picture).save(mine / f"{split}{i}.png")
            lines.append(json.dumps({"file_name": f"{split}{i}.png", "captions": CAPTIONS[:2]}))
        (mine / f"captions_{split}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def recipe_of(own: Path, *command: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    told = {"STEPS": "2", "MODEL": str(own / "start")} | forks.for_scripts() | settings
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, **told, "OMP_NUM_THREADS": "1", "PATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_a_language_is_learned_over_anothers_encoder(own: Path) -> None:
    mine, out = own / "mine", own / "out"
    (mine / "captions_val.jsonl").rename(mine / "captions_dev.jsonl")
    german = ["ein hund läuft über eine grüne wiese.", "Zwei Männer reiten.", "Der Hund läuft über die Wiese"]
    for split in ("train", "dev"):
        file = mine / f"captions_{split}.jsonl"
        records = [json.loads(line) | {"captions": german} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    (mine / "text.jsonl").write_text(
        json.dumps({"captions": ["Ein Mädchen im Wasser und eine Wiese"]}) + "\n"
    )
    export(str(own / "start"), own / "base", graphs=False)
    more = "vision.tokens=4 vision.dim=16 vision.image_size=64 sampling.steps=2"
    command = (RECIPES / "language.sh", "de", mine, out)
    recipe_of(own, *command, BASE=str(own / "base"), MORE=more)
    learned = (out / "captions" / "captions_train.jsonl").read_text(encoding="utf-8")
    assert "Ein Hund läuft über eine grüne Wiese." in learned  # as most write it
    assert "grüne wiese" in (out / "captions" / "captions_dev.jsonl").read_text(encoding="utf-8")
    model = CaptionPipeline.from_pretrained(out / "model")
    assert model.captioner.config.text["sides"].startswith("links rechts")
    assert model.sampling().steps == 3
    shares = shares_of(out / "model")
    assert shares is not None
    assert shares.parts == ("vision",)
    assert model.fill(mine / "val0.png", "ein ___").text.startswith("ein ")
    # by the scorer beside the weights
    fits = model(mine / "val0.png", candidates=3, select="similarity", seed=1)
    assert fits.caption in fits.candidates
    assert "==" not in recipe_of(own, *command, BASE=str(own / "base"), MORE=more).stderr  # all is done


def test_the_mean_of_two_captioners_lies_where_it_is_asked_for(own: Path) -> None:
    captioner, tokenizer = load_captioner(str(own / "start"))
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    with torch.no_grad():
        for weight in captioner.parameters():
            weight.add_(1)
    captioner.save_pretrained(own / "other")
    tokenizer.save_pretrained(own / "other")
    settings = ("length=6", "min_length=5", "candidates=2", "select=confidence")
    recipe_of(
        own,
        sys.executable,
        RECIPES / "average.py",
        own / "start",
        own / "other",
        own / "mean",
        "0.25",
        *settings,
    )
    mean, _ = load_captioner(str(own / "mean" / "model"))
    for name, weight in mean.named_parameters():
        torch.testing.assert_close(weight, before[name] + 0.25)
    sampling = mean.defaults
    assert (sampling.length, sampling.min_length, sampling.candidates, sampling.select) == (
        6,
        5,
        2,
        "confidence",
    )


def test_a_folder_of_one_s_own_is_learned_and_scored_before_and_after(own: Path) -> None:
    mine, out = own / "mine", own / "out"
    first = recipe_of(own, RECIPES / "finetune.sh", mine, out)
    assert "CIDEr-D" in first.stdout
    assert isinstance(CaptionPipeline.from_pretrained(out / "model")(str(mine / "val0.png")).caption, str)
    assert "==" not in recipe_of(own, RECIPES / "finetune.sh", mine, out).stderr  # all is done


def test_packed_photos_are_learned_from_elsewhere(own: Path) -> None:
    packed, out, mine = own / "packed", own / "out", own / "mine"
    pack = [sys.executable, RECIPES / "pack.py", packed, f"folder:{mine}:train", f"folder:{mine}:val"]
    recipe_of(own, *pack, "--side", "64", "--megabytes", "0.035")
    parts = sorted(packed.iterdir())
    assert len(parts) > 1
    assert all(part.stat().st_size <= 35_000 for part in parts)
    before = [part.read_bytes() for part in parts]
    recipe_of(own, *pack, "--side", "64", "--megabytes", "0.035")
    assert before == [part.read_bytes() for part in sorted(packed.iterdir())]
    recipe_of(own, RECIPES / "gpu.sh", packed, out, DEVICE="cpu", LIMIT="300")
    photos = json.loads((out / "photos" / "captions_train.jsonl").read_text().splitlines()[0])
    assert photos["captions"] == CAPTIONS[:2]
    assert all(file.stat().st_size < 16 << 20 for file in (out / "shards").iterdir())
    assert "decoding" in (out / "shards" / "bench.txt").read_text()
    assert isinstance(CaptionPipeline.from_pretrained(out / "shards")(str(mine / "val0.png")).caption, str)
