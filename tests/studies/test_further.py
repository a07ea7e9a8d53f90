"""Diffusion and its twin beside each other: words by position, scores by length, noise, blanks, prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_captioner import CAPTIONS, tiny_captioner

from clearcap import CaptionPipeline
from clearcap.data.images import PhotoFile
from clearcap.data.records import CaptionedPhoto
from clearcap.evaluation.hidden_words import hide_words
from clearcap.evaluation.positions import position_errors, scores_by_length
from clearcap.metrics import score
from clearcap.studies.further import Compared
from clearcap.training.twin.network import Twin


def test_errors_by_position_are_those_counted_by_hand() -> None:
    captions = {"1": "a dog runs", "2": "a cat sleeps", "3": "dogs"}
    references = {"1": ["the dog sits", "a dog barks"], "2": ["a cat"], "3": ["A dog, running"]}
    found = position_errors(captions, references)
    assert found[:4] == [1 / 3, 0.0, 1.0, None]


def test_scores_by_length_are_those_of_the_captions_of_that_length() -> None:
    captions = {str(n): "a dog runs over the grass" for n in range(4)}
    captions |= {str(n): "a dog runs over the green grass and barks" for n in range(4, 8)}
    references = {photo: ["a dog runs over the grass with a ball"] for photo in captions}
    found = scores_by_length(captions, references)
    assert {name: one["captions"] for name, one in found.items()} == {"1-7": 4, "8-9": 4}
    some = {str(n): captions[str(n)] for n in range(4)}
    assert (
        found["1-7"]["BLEU-4"] == score(some, {photo: references[photo] for photo in some}).corpus["BLEU-4"]
    )


def test_the_twin_is_prompted_with_what_is_before_the_blank() -> None:
    captioner, tokenizer = tiny_captioner()
    torch.manual_seed(0)
    twin = Twin(vocab=len(tokenizer), image_dim=16, tokens=4, width=16, depth=1, heads=2, hidden=24).eval()
    absent = PhotoFile(Path("absent.png"))
    photos = [CaptionedPhoto(str(n), absent, (text,)) for n, text in enumerate(CAPTIONS)]
    rows, _ = hide_words(photos, 1, tokenizer, length=captioner.length, keep_period=False, seed=0)
    at = Compared.__new__(Compared)
    at.pipeline, at.twin, at.tokenizer = CaptionPipeline(captioner, tokenizer), twin, tokenizer
    at.tokens = torch.randn(len(photos), 4, 16, generator=torch.Generator().manual_seed(1))
    said = at._prompted(rows, keep_period=False)
    for word, row in zip(said, rows, strict=True):
        before = tokenizer(" ".join(row.words[: row.places[0]]).lower())["input_ids"][:-1]
        h, _ = twin.read(torch.tensor([before]), twin.image_context(at.tokens[[row.photo]]))
        order = twin.logits(h[0, -1]).argsort(descending=True).tolist()
        likely = [piece for piece in tokenizer.convert_ids_to_tokens(order) if piece.isalnum()]
        assert word == likely[0]


def test_noise_is_that_of_the_seed_and_as_strong_as_asked(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "grey.png")
    at = Compared.__new__(Compared)
    seen: list[np.ndarray] = []

    def encoded(pictures: Iterator[np.ndarray]) -> torch.Tensor:
        seen.extend(pictures)
        return torch.zeros(2, 4, 16)

    at.pipeline = SimpleNamespace(image_size=64, encode_all=encoded)  # type: ignore[assignment]
    grey = PhotoFile(tmp_path / "grey.png")
    at.photos, at.seed = [CaptionedPhoto(str(n), grey, ("a",)) for n in range(2)], 3
    at.noisy(0.1)
    at.noisy(0.1)
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])
    assert (seen[0] / 255).std() == pytest.approx(0.1, abs=0.005)
