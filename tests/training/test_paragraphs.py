"""Paragraphs by the same classes: a corpus in the published layout, its text space, training, evaluation, filling."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from PIL import Image

from clearcap.captioner.model import Captioner, load_captioner
from clearcap.captioner.towers import tokenize_for
from clearcap.config import DenoiserConfig, TextConfig, load_preset
from clearcap.denoiser.cross_attention import build_cross_attention
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.registry import names

LENGTH = 64
SENTENCES = [
    "a brown dog runs over the green grass of a park .",
    "two men in red shirts sit on a wooden bench .",
    "there is a tall tree behind the white wall .",
    "the sky above the water is blue and clear .",
    "a small boat lies on the sand near the sea .",
]


def clearcap(*arguments: object) -> str:
    done = commands.clearcap(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photos with a paragraph each, in the layout of the published files, and a trained captioner."""
    root = tmp_path_factory.mktemp("paragraphs")
    (root / "VG_100K").mkdir()
    rng, draw = np.random.default_rng(0), random.Random(0)
    records = []
    for id in range(1, 10):
        picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "VG_100K" / f"{id}.jpg")
        paragraph = " ".join(draw.sample(SENTENCES, 5)).replace(" .", ".")
        records.append({"url": f"VG_100K/{id}.jpg", "image_id": id, "paragraph": paragraph})
    (root / "paragraphs_v1.json").write_text(json.dumps(records))
    for split, ids in {"train": [1, 2, 3, 4, 5, 6], "val": [7, 8], "test": [9]}.items():
        (root / f"{split}_split.json").write_text(json.dumps(ids))
    sizes = [f"length={LENGTH}", "max_words=60", "width=16", "depth=2", "split=1", "heads=2", "hidden=32"]
    sizes += ["vocab_size=200", "min_count=1", "steps=10", "batch=4", "warmup=2"]
    data = f"stanford-paragraphs:{root}:train"
    clearcap("pretrain-text", "--data", data, "--out", root / "text", *sizes)
    (root / "tiny.toml").write_text(
        f"""
[text]
source = "{root}/text"
split = 1
length = {LENGTH}
max_words = 60
keep_period = true
[vision]
tokens = 4
dim = 16
image_size = 64
[denoiser]
width = 32
depth = 2
heads = 2
hidden = 48
[sampling]
steps = 3
[data]
name = "stanford-paragraphs"
root = "{root}"
watch = "val"
features = "{root}/features"
expected = false
views = 1
[train]
steps = 6
photos = 3
copies = 2
warmup = 2
log_every = 1
sample_every = 6
tracker = "none"
"""
    )
    clearcap("train", root / "tiny.toml", "--out", root / "run")
    return root


def test_a_paragraph_is_not_cut_at_a_captions_length(workshop: Path) -> None:
    _, tokenizer = load_captioner(str(workshop / "run" / "model"))
    record = json.loads((workshop / "paragraphs_v1.json").read_text())[0]
    words = record["paragraph"].replace(".", " .").split()
    assert len(words) > 50
    text = TextConfig(length=LENGTH, max_words=60, keep_period=True)
    ids, mask = tokenize_for(text, tokenizer)([record["paragraph"]])
    assert ids.shape == (1, LENGTH)
    assert int(mask.sum()) == 2 + len(words)
    short, seen = tokenize_for(replace(text, max_words=30), tokenizer)([record["paragraph"]])
    assert int(seen.sum()) < 40
    assert short.shape == ids.shape


def test_training_learnt_from_whole_paragraphs(workshop: Path) -> None:
    curves = [json.loads(line) for line in (workshop / "run" / "curves.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curves] == [1, 2, 3, 4, 5, 6]
    model = CaptionPipeline.from_pretrained(workshop / "run" / "model").captioner
    assert model.denoiser.position.shape[0] == model.length == LENGTH
    assert model.text.encoder.embeddings.position_embeddings.num_embeddings >= LENGTH


def test_a_paragraph_captioner_is_evaluated_like_any_other(workshop: Path, tmp_path: Path) -> None:
    printed = clearcap(
        "evaluate",
        "refine=1",
        "--model",
        workshop / "run" / "model",
        "--data",
        "stanford-paragraphs",
        "--root",
        workshop,
        "--split",
        "val",
        "--subset",
        "--candidates",
        3,
        "--utility",
        "cider",
        "--json",
        "--report",
        tmp_path / "report",
    )
    found = json.loads(printed)
    assert found["manifest"]["photos"] == 2
    assert found["manifest"]["sampling"]["utility"] == "cider"
    assert found["manifest"]["sampling"]["refine"] == 1
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize("solver", names("solver"))
def test_every_solver_draws_all_positions(workshop: Path, solver: str) -> None:
    captioner = CaptionPipeline.from_pretrained(workshop / "run" / "model").captioner
    how = replace(captioner.defaults, solver=solver, refine=1, candidates=2, early_exit=1)
    drawn = captioner.generate(image=torch.randn(2, 4, 16), sampling=how)
    assert drawn.ids.shape == (2, 2, LENGTH)


def test_blanks_anywhere_in_a_paragraph(workshop: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(workshop / "run" / "model")
    words = " ".join(SENTENCES).split()
    places = (0, 31, len(words) - 2)
    template = " ".join("___" if place in places else word for place, word in enumerate(words))
    filled = pipeline.fill(workshop / "VG_100K" / "7.jpg", template).text.split()
    assert len(filled) == len(words) > 45
    assert [a for i, a in enumerate(filled) if i not in places] == [
        a for i, a in enumerate(words) if i not in places
    ]


def test_the_published_preset_has_the_papers_length() -> None:
    preset, base = load_preset("ladic-paragraph"), load_preset("ladic-base")
    assert preset.text == replace(base.text, length=60, max_words=50)
    assert (preset.denoiser, preset.diffusion, preset.sampling) == (
        base.denoiser,
        base.diffusion,
        base.sampling,
    )
    assert (preset.data.name, preset.data.watch) == ("stanford-paragraphs", "val")
    assert preset.train.steps * preset.train.photos == pytest.approx(120 * 14_575, rel=0.01)


def test_lengths_that_a_part_cannot_hold_are_refused(workshop: Path) -> None:
    with pytest.raises(
        InputError, match=r"denoiser\.positions=32 is too few for the 64 positions of a caption"
    ):
        build_cross_attention(
            DenoiserConfig(positions=32), dim=128, length=64, image_dim=256, image_tokens=49
        )
    captioner, _ = load_captioner(str(workshop / "run" / "model"))
    config = copy.deepcopy(captioner.config)
    config.text["length"] = 65
    with pytest.raises(InputError, match=r"text\.length=65 exceeds the 64 positions"):
        Captioner(config)
