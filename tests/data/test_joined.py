"""Paragraphs made by rule of a photo's own captions."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from clearcap.data.corpus import open_spec
from clearcap.data.joined import joined


def test_a_sentence_that_adds_no_word_is_left_out() -> None:
    assert joined(["A dog runs .", "a dog runs", "The dog on grass"]) == "A dog runs . The dog on grass ."
    assert joined(["a dog runs", "runs a dog!"]) == "a dog runs ."


def test_a_corpus_whose_captions_are_joined(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = {"file_name": "a.png", "captions": ["a dog", "a dog .", "a red ball"]}
    (tmp_path / "captions_val.jsonl").write_text(json.dumps(line) + "\n")
    (photo,) = open_spec(f"joined:folder:{tmp_path}:val", expected=None).photos
    (plain,) = open_spec(f"folder:{tmp_path}:val", expected=None).photos
    assert photo.captions == ("a dog . a red ball .",)
    assert (photo.id, photo.image) == (plain.id, plain.image)
