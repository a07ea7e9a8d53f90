"""Fill-in accuracy: what is hidden, what must come back, what is compared, and what a killed run keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import clearcap
from tiny_captioner import CAPTIONS, photos, tiny_captioner

from clearcap.data import Corpus
from clearcap.errors import InputError
from clearcap.evaluation.hidden_words import Counted, Hidden, hide_words
from clearcap.evaluation.infilling import (
    BLIND,
    MASKED,
    PHOTO,
    Filling,
    evaluate_fill,
    fill_masked,
    masked_language_model,
)
from clearcap.metrics.infilling import resampled
from clearcap.pipeline import CaptionPipeline
from clearcap.pipeline.infilling import describe, gives_most, infill_captions, length_template, parse_template


@pytest.fixture(scope="module")
def pipeline(model: Path) -> CaptionPipeline:
    return CaptionPipeline.from_pretrained(model)


def test_hidden_words_are_where_the_template_has_blanks(corpus: Corpus, pipeline: CaptionPipeline) -> None:
    rows, counted = hide_words(list(corpus), 2, pipeline.tokenizer, length=20, keep_period=False, seed=0)
    assert len(rows) + counted.left_out == 2 * len(corpus)
    assert 0 < counted.left_out < len(corpus)  # the vocabulary has no digits
    assert not any(character.isdigit() for row in rows for character in " ".join(row.words))
    for row in rows:
        shown = describe(row.template()).split()
        assert len(shown) == len(row.words)
        assert [place for place, word in enumerate(shown) if word == "___"] == list(row.places)
        assert all(a == b for a, b in zip(shown, row.words, strict=True) if a != "___")
        assert all(word.isalnum() for word in row.answers)
    assert len({row.places for row in rows}) > 5
    again, _ = hide_words(list(corpus)[:3], 2, pipeline.tokenizer, length=20, keep_period=False, seed=0)
    assert again == rows[: len(again)]  # a reference's places do not depend on what else there is
    other, _ = hide_words(list(corpus), 2, pipeline.tokenizer, length=20, keep_period=False, seed=1)
    assert [row.places for row in other] != [row.places for row in rows]


def test_long_references_are_cut_and_short_ones_left_out(corpus: Corpus, pipeline: CaptionPipeline) -> None:
    rows, counted = hide_words(list(corpus), 6, pipeline.tokenizer, length=9, keep_period=False, seed=0)
    assert counted.cut == 2 * len(corpus)  # every caption has more than 7 words
    assert all(len(row.words) == 7 for row in rows)
    assert len(rows) + counted.left_out == 2 * len(corpus)
    assert counted.left_out == 0  # what cannot be said was cut off


def test_a_filling_that_loses_a_fixed_word_is_noticed() -> None:
    row = Hidden(0, ("a", "brown", "dog", "."), (1,))
    assert row.keeps("a red dog .")
    assert not row.keeps("a red cat .")
    assert not row.keeps("a dark red dog .")
    assert not row.keeps("a red dog")


def test_without_a_photo_the_photo_makes_no_difference() -> None:
    captioner, tokenizer = tiny_captioner(length=14)
    templates = ["a ___ dog ___ .", "two ___ ride ___"]
    blind = infill_captions(captioner, tokenizer, None, templates)
    null = captioner.denoiser.null_image[None].expand(2, -1, -1)
    unguided = replace(captioner.defaults, guidance=0.0)
    same = infill_captions(captioner, tokenizer, null, templates, sampling=unguided)
    assert [one.text for one in blind] == [one.text for one in same]
    assert np.allclose([one.confidence for one in blind], [one.confidence for one in same], rtol=1e-4)
    seen = infill_captions(captioner, tokenizer, photos(2), templates, sampling=unguided)
    assert [one.confidence for one in seen] != [one.confidence for one in blind]


def test_several_templates_share_a_photo() -> None:
    captioner, tokenizer = tiny_captioner(length=14)
    image = photos(2)
    templates = ["a ___ dog", "two ___ ride ___", "___ river", "the ___ ."]
    where = [0, 1, 1, 0]
    together = infill_captions(captioner, tokenizer, image, templates, photos=where, seed=4)
    for template, photo, filled in zip(templates, where, together, strict=True):
        alone = infill_captions(captioner, tokenizer, image[photo : photo + 1], [template], seed=4)[0]
        assert alone.text == filled.text
    with pytest.raises(InputError, match="2 templates for 1 photos"):
        infill_captions(captioner, tokenizer, image, templates[:2], photos=[0])


def test_the_masked_language_model_is_the_whole_bert(pipeline: CaptionPipeline) -> None:
    """Against transformers' own BertForMaskedLM with the same weights."""
    from transformers import BertConfig, BertForMaskedLM

    captioner = pipeline.captioner
    whole = BertForMaskedLM(BertConfig(**captioner.config.bert)).eval()
    state = {f"bert.{k}": v for k, v in captioner.text.encoder.state_dict().items()}
    for i, layer in enumerate(captioner.text.upper):
        state |= {f"bert.encoder.layer.{1 + i}.{k}": v for k, v in layer.state_dict().items()}
    state |= {f"cls.{k}": v for k, v in captioner.text.lm_head.state_dict().items()}
    state["cls.predictions.bias"] = state["cls.predictions.decoder.bias"]
    whole.config.tie_word_embeddings = False
    whole.cls.predictions.decoder.weight = torch.nn.Parameter(state["cls.predictions.decoder.weight"].clone())
    whole.load_state_dict(state, strict=True)
    ids = torch.randint(5, captioner.config.bert["vocab_size"], (3, 10))
    mask = (torch.arange(10) < torch.tensor([[10], [6], [3]])).long()
    logits, described = masked_language_model(pipeline, None)
    with torch.no_grad():
        expected = whole(input_ids=ids, attention_mask=mask).logits
    found = logits(ids, mask)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)
    assert "LM head as trained" in described
    filled = fill_masked(logits, pipeline, [parse_template("a ___ dog ___")])[0]
    assert filled.text.split()[::2] == ["a", "dog"]


@pytest.fixture(scope="module")
def done(model: Path, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fill")
    evaluate_fill(model, corpus, hidden=(1, 3), out=out, batch_size=4, limit=9, seed=1)
    return out


def test_a_run_that_was_cut_off_goes_on_to_the_same_figures(
    done: Path, model: Path, corpus: Corpus, tmp_path: Path
) -> None:
    whole = json.loads((done / "fill.json").read_text())
    for name in ("manifest.json", "tokens.safetensors", "hidden1.jsonl"):
        (tmp_path / name).write_bytes((done / name).read_bytes())
    file = tmp_path / "hidden1.jsonl"
    file.write_bytes(file.read_bytes()[: file.read_bytes().index(b"\n") + 30])
    evaluate_fill(model, corpus, hidden=(1, 3), out=tmp_path, batch_size=4, limit=9, seed=1)
    resumed = json.loads((tmp_path / "fill.json").read_text())
    for found in (whole, resumed):
        for one in found["hidden"].values():
            assert one.pop("ms_per_reference").keys() == {PHOTO, BLIND, MASKED}
            assert one["fixed_words_unchanged"] == 1.0
            assert one["references"] == 18
    assert resumed == whole
    with pytest.raises(InputError, match="sampling"):
        evaluate_fill(model, corpus, hidden=(1,), out=tmp_path, batch_size=4, limit=9, seed=1, steps=2)


def test_figures_of_a_hand_counted_case() -> None:
    rows = (
        Hidden(0, ("a", "dog", "runs"), (0, 1)),
        Hidden(0, ("the", "cat", "sits"), (1, 2)),
        Hidden(1, ("a", "man"), (0, 1)),
    )
    answers = {
        PHOTO: (("a", "dog"), ("cat", "sits"), ("the", "Man")),
        BLIND: (("a", "cat"), ("cat", "runs"), ("a", "dog")),
        MASKED: (("a", "cat"), ("dog", "runs"), ("a", "dog")),
    }
    found = Filling(2, rows, Counted(0, 0), answers, 3, {}).to_json()
    assert found["words"]["hidden"] == 6
    assert [found["words"][s]["accuracy"] for s in (PHOTO, BLIND, MASKED)] == [5 / 6, 3 / 6, 2 / 6]
    assert found["words"]["photo_to_no_photo"]["ratio"] == pytest.approx(5 / 3)
    assert found["words"]["photo_minus_masked_lm"]["difference"] == pytest.approx(0.5)
    assert found["content_words"]["hidden"] == 4  # two of "a" aside
    assert found["content_words"][PHOTO]["accuracy"] == 1
    assert found["every_word"][PHOTO] == 2 / 3


def test_photos_are_resampled_together() -> None:
    right = np.array([[4, 0], [0, 4]])
    drawn = resampled(right, np.array([4, 4]), samples=200)
    assert np.allclose(drawn.sum(1), 1)  # whichever photos were drawn
    assert set(np.unique(drawn)) == {0.0, 0.5, 1.0}
    with pytest.raises(InputError, match="no word was hidden"):
        resampled(right, np.array([0, 0]))


def test_templates_that_give_most_of_the_words() -> None:
    assert gives_most("a ___ dog")
    assert not gives_most("a ___")
    assert not gives_most(length_template(5, 8, prefix="a dog"))


def test_the_command_prints_shares_and_refuses_what_cannot_be(model: Path, photo_folder: Path) -> None:
    command = [
        "evaluate-fill",
        "--model",
        model,
        "--data",
        f"folder:{photo_folder}",
        "--limit",
        "2",
        "steps=1",
    ]
    done = clearcap(*command, "--hidden", 1)
    assert done.returncode == 0, done.stderr
    assert "photo / no photo" in done.stdout
    assert "fixed words unchanged in 100.00%" in done.stdout
    refused = clearcap(*command, "--hidden", 19)
    assert refused.returncode == 1
    assert "no reference has 19 words to hide" in refused.stderr.splitlines()[-1]
    assert len(CAPTIONS) == 4
