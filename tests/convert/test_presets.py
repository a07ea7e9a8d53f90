"""Every published preset, on tiny towers in the hub's format: builds, trains, captions, survives saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from towers import (
    clip_diffusion_lm_overrides,
    ladic_overrides,
    write_bert,
    write_blip,
    write_clip,
    write_distilbert,
)

from clearcap.captioner.model import Captioner
from clearcap.captioner.towers import build_captioner, tokenize_for
from clearcap.config import load_preset
from clearcap.data.features import Features
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.training.examples import prepare_examples
from clearcap.training.loop import StepReport
from clearcap.training.run import fit_captions

CAPTIONS = [
    ["a man riding a wave .", "the man on a wave ."],
    ["two dogs in the grass .", "a dog and a ball ."],
]
PUBLISHED = ("ladic-base", "ladic-base-authors", "clip-diffusion-lm-concat", "clip-diffusion-lm-add")


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("towers")
    writers = {"bert": write_bert, "blip": write_blip, "distilbert": write_distilbert, "clip": write_clip}
    return {name: write(folder / name) for name, write in writers.items()}


def overrides(name: str, towers: dict[str, Path]) -> list[str]:
    if name.startswith("ladic"):
        return ladic_overrides(towers["bert"], towers["blip"])
    return clip_diffusion_lm_overrides(towers["distilbert"], towers["clip"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_trains_and_captions(name: str, towers: dict[str, Path], tmp_path: Path) -> None:
    training = ["train.steps=40", "train.lr=3e-3", "train.warmup=0", "train.photos=2", "train.copies=2"]
    training += ["train.log_every=1", "train.bf16=false", "train.sample_every=0"]
    training += ["sampling.steps=300"] if name == "ladic-base-authors" else []  # a stride there
    preset = load_preset(name, overrides(name, towers) + training)
    captioner, tokenizer = build_captioner(preset)
    tokenize = tokenize_for(preset.text, tokenizer)
    every = tokenize([caption for group in CAPTIONS for caption in group])
    captioner.text.fit(*every, preset.text, tokenizer)
    examples = prepare_examples(captioner, tokenize, CAPTIONS, torch.arange(2))
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = captioner.encode_image(pixels)
    features = Features(tokens[None].numpy().astype(np.float16), ("a", "b"), "test")
    reports: list[StepReport] = []
    fit_captions(
        captioner,
        examples,
        features,
        preset.train,
        tmp_path / "run",
        report=reports.append,
    )
    for term in ("latent", "caption"):
        losses = [getattr(report, term) for report in reports]
        assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:3]), (term, losses)
    captioner.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    drawn = captioner.generate(pixels, seed=3)
    again = Captioner.from_pretrained(tmp_path / "model")
    assert torch.equal(again.generate(pixels, seed=3).ids, drawn.ids)
    pipeline = CaptionPipeline.from_pretrained(tmp_path / "model")
    results = pipeline([np.full((20, 30, 3), 90, np.uint8), np.zeros((20, 30, 3), np.uint8)], seed=3)
    assert len(results) == 2
    assert all(isinstance(result.caption, str) for result in results)


def test_null_photo_is_the_encoder_s_view_of_the_mean_colour(towers: dict[str, Path]) -> None:
    captioner, _ = build_captioner(load_preset("ladic-base", overrides("ladic-base", towers)))
    mean = torch.tensor(captioner.vision.mean).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    torch.testing.assert_close(
        captioner.denoiser.null_image, captioner.encode_image(mean)[0], atol=1e-6, rtol=0
    )
    assert not captioner.denoiser.null_image.requires_grad


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("ladic-base", "vision.dim=24", r"vision\.dim=24, but the encoder makes 5 tokens of 12 channels"),
        (
            "clip-diffusion-lm-add",
            "vision.dim=512",
            r"vision\.dim=512, but the encoder makes 1 tokens of 10 channels",
        ),
        ("clip-diffusion-lm-concat", "denoiser.width=32", r"needs denoiser\.width=16"),
        ("ladic-base", "denoiser.width=64", r"denoiser\.width=64: .* twice the latent's 16 channels"),
        ("ladic-base", "text.source=/nowhere/at/all", "cannot be loaded"),
    ],
)
def test_towers_that_do_not_fit_are_named(
    name: str, override: str, said: str, towers: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=said):
        build_captioner(load_preset(name, [*overrides(name, towers), override]))


def test_a_tower_of_another_kind_is_refused(towers: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"missing|unexpected|cannot be loaded"):
        build_captioner(
            load_preset("ladic-base", [*overrides("ladic-base", towers), f"text.source={towers['clip']}"])
        )


def test_published_sizes_are_the_paper_s() -> None:
    ladic = load_preset("ladic-base-authors")
    assert (ladic.denoiser.width, ladic.denoiser.depth, ladic.denoiser.heads) == (1536, 12, 16)
    assert (ladic.text.split, ladic.text.length, ladic.vision.tokens) == (6, 24, 197)
    assert (ladic.diffusion.noise_factor, ladic.sampling.noise_factor, ladic.sampling.time_offset) == (
        4.0,
        1.0,
        5,
    )
