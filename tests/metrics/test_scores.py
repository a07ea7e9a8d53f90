"""BLEU, ROUGE-L and CIDEr-D against pycocoevalcap, and their handling of odd input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import coco_metrics
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clearcap.errors import InputError
from clearcap.metrics import DocumentFrequency, bleu, cider, rouge, score, tokenize
from clearcap.metrics.ngrams import count_corpus

pytest.importorskip("pycocoevalcap.bleu.bleu")
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

tokens = st.lists(st.sampled_from(["a", "b", "c", "dog", "1\xa01/2"]), max_size=9)
photos = st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=6)


def as_theirs(corpus: list[tuple[list[str], list[list[str]]]]) -> tuple[dict, dict]:
    truths = {i: [" ".join(ref) for ref in refs] for i, (_, refs) in enumerate(corpus)}
    return truths, {i: [" ".join(hypothesis)] for i, (hypothesis, _) in enumerate(corpus)}


@given(photos)
def test_bleu_equals_pycocoevalcap(corpus) -> None:
    hypotheses, references = zip(*corpus, strict=True)
    total, columns = bleu.bleu(count_corpus(hypotheses, references))
    their_total, their_columns = Bleu(4).compute_score(*as_theirs(corpus), verbose=0)
    np.testing.assert_allclose(total, their_total, atol=1e-9)
    np.testing.assert_allclose(columns.T, their_columns, atol=1e-9)


@given(photos)
def test_rouge_equals_pycocoevalcap_but_for_empty_candidates(corpus) -> None:
    hypotheses, references = zip(*corpus, strict=True)
    total, scores = rouge.rouge_l(hypotheses, references)
    _, theirs = Rouge().compute_score(*as_theirs(corpus))
    expected = [value if hypothesis else 0.0 for value, hypothesis in zip(theirs, hypotheses, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-9)
    assert total == pytest.approx(np.mean(expected))


@given(photos)
def test_cider_equals_pycocoevalcap(corpus) -> None:
    assume(any(ref for _, refs in corpus for ref in refs))  # it fails when all references are empty
    hypotheses, references = zip(*corpus, strict=True)
    total, scores = cider.cider_d(count_corpus(hypotheses, references))
    their_total, theirs = Cider().compute_score(*as_theirs(corpus))
    assert total == pytest.approx(their_total, abs=1e-9)
    np.testing.assert_allclose(scores, theirs, atol=1e-9)


@pytest.mark.shared
def test_coco_leave_one_out_equals_pycocoevalcap_with_java(java_tokens, shared: Path) -> None:
    hypotheses, references = coco_metrics.leave_one_out(shared / "data/coco/captions_val2017.json")
    assert len(hypotheses) == 4_839
    agreement = coco_metrics.compare(hypotheses, references)
    assert agreement.same_tokens == agreement.captions
    assert max(agreement.worst_corpus.values()) < 1e-9
    assert max(agreement.worst_caption.values()) < 1e-9


def test_saved_document_frequency_gives_the_same_cider(tmp_path: Path) -> None:
    references = {
        1: ["a dog runs on the grass", "a dog"],
        2: ["a cat sleeps", "the cat is asleep on a bed"],
        3: ["birds"],
    }
    hypotheses = {1: "a dog runs", 2: "a cat on a bed", 3: "a bird"}
    frequency = DocumentFrequency.of(list(references.values()))
    for name in ("frequency.json", "frequency.json.gz"):
        frequency.save(tmp_path / name)
        loaded = DocumentFrequency.load(tmp_path / name)
        assert loaded == frequency
        given_one = score(hypotheses, references, ("CIDEr-D",), loaded)
        assert given_one.corpus == pytest.approx(
            score(hypotheses, references, ("CIDEr-D",)).corpus, abs=1e-12
        )
    other = DocumentFrequency(1000, {"a": 900, "dog": 20})
    assert (
        score(hypotheses, references, ("CIDEr-D",), other).corpus
        != score(hypotheses, references, ("CIDEr-D",)).corpus
    )


@pytest.mark.parametrize("content", [b"", b"[]", b'{"photos": 0, "counts": {}}', b'{"photos": 3}'])
def test_a_file_that_is_no_document_frequency_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.json"):
        DocumentFrequency.load(tmp_path / "bad.json")


def test_empty_candidates_score_zero_everywhere() -> None:
    scores = score({1: "", 2: "...", 3: "a dog"}, {1: ["a dog", ""], 2: [""], 3: ["a dog", "the dog"]})
    for column in scores.per_caption.values():
        assert column[1] == column[2] == 0
        assert column[3] > 0


def test_a_corpus_of_nothing_scores_zero() -> None:
    assert set(score({1: ""}, {1: [""]}).corpus.values()) == {0.0}


@pytest.mark.parametrize(
    ("hypotheses", "references", "names", "message"),
    [
        ({}, {}, ("BLEU",), "no candidate"),
        ({1: "a"}, {}, ("BLEU",), "no references"),
        ({1: "a"}, {1: ["a"], 2: ["b"]}, ("BLEU",), "no candidate"),
        ({1: "a"}, {1: []}, ("BLEU",), "at least one"),
        ({1: "a"}, {1: "a"}, ("BLEU",), "a list"),
        ({1: "a"}, {1: ["a"]}, ("BLEU-9",), "BLEU-9"),
    ],
)
def test_bad_input_is_one_clear_error(hypotheses, references, names, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(hypotheses, references, names)


def test_captions_that_are_not_text_are_refused(tmp_path: Path) -> None:
    """In a process without the type checks of the tests, as users run it."""
    for hypotheses, references in (("{1: None}", "{1: ['a']}"), ("{1: 'a'}", "{1: ['a', 3]}")):
        code = f"from clearcap.metrics import score; score({hypotheses}, {references})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "InputError" in done.stderr.splitlines()[-1]
        assert "not text" in done.stderr


def test_pairwise_bleu_is_smoothed_sentence_bleu() -> None:
    candidates = ["a dog runs on the grass", "the dog runs", "a cat", "a dog runs on grass", ""]
    table = bleu.pairwise(candidates)
    for i, a in enumerate(tokenize(candidates)):
        for j, b in enumerate(tokenize(candidates)):
            assert table[i, j] == pytest.approx(naive_smoothed_bleu(a, b)), (i, j)


def naive_smoothed_bleu(hypothesis: list[str], reference: list[str]) -> float:
    product = 1.0
    for n in (1, 2, 3, 4):
        proposed = [tuple(hypothesis[i : i + n]) for i in range(len(hypothesis) - n + 1)]
        allowed = [tuple(reference[i : i + n]) for i in range(len(reference) - n + 1)]
        matched = sum(min(proposed.count(g), allowed.count(g)) for g in set(proposed))
        if n == 1 and not matched:
            return 0.0
        product *= (matched + (n > 1)) / (len(proposed) + (n > 1))
    return product**0.25 * min(1.0, np.exp(1 - len(reference) / len(hypothesis)))


def test_pairwise_cider_is_cider_with_one_reference() -> None:
    candidates = ["a dog runs on the grass", "the dog runs on grass", "a cat", "a dog runs", ""]
    frequency = DocumentFrequency.of([["a dog runs", "the dog"], ["a cat sleeps"], ["grass"], ["the car"]])
    table = cider.pairwise(candidates, frequency)
    for i, hypothesis in enumerate(candidates):
        for j, reference in enumerate(candidates):
            alone = score({0: hypothesis}, {0: [reference]}, ("CIDEr-D",), frequency).corpus["CIDEr-D"]
            assert table[i, j] == pytest.approx(alone, abs=1e-12)


def test_pairwise_cider_without_frequencies_prefers_the_consensus() -> None:
    candidates = [
        "a dog runs on the grass",
        "a dog runs on grass",
        "a dog is running on the grass",
        "two men talk",
    ]
    assert cider.pairwise(candidates).mean(1).argmin() == 3


def test_compare_prints_both_and_the_differences(java_tokens, tmp_path: Path, capsys) -> None:
    rows = [{"image_id": photo, "caption": text} for photo, text in ((1, "A dog."), (1, "The dog"), (2, "x"))]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": rows}))
    coco_metrics.main([str(tmp_path / "captions.json")])
    printed = capsys.readouterr().out
    assert "1 photos" in printed
    assert "tokens identical: 2 of 2" in printed
    assert "times faster" in printed


def test_compare_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"annotations": [')
    with pytest.raises(InputError, match=r"other\.json"):
        coco_metrics.leave_one_out(tmp_path / "other.json")


def test_importing_the_metrics_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, clearcap.metrics; print([m for m in ('numpy', 'torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
