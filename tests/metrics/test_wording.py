"""Rules for errors of colour and of grammar, on captions written by hand."""

from __future__ import annotations

import pytest

from clearcap.metrics import score
from clearcap.metrics.wording import faults_of


def test_a_colour_is_wrong_where_no_reference_names_it() -> None:
    captions = {"1": "a black dog", "2": "a navy car", "3": "a dog runs", "4": "a blond boy in red"}
    references = {
        "1": ["a brown dog", "a dark Black dog"],
        "2": ["a blue car"],  # navy counts as blue
        "3": ["a red ball"],
        "4": ["a boy with yellow hair", "a boy in a pink shirt"],
    }
    found = score(captions, references, ["colour-errors"])
    assert found.per_caption["colour-errors"] == {"1": 0, "2": 0, "3": 0, "4": 1}
    assert found.corpus["colour-errors"] == 0.25


@pytest.mark.parametrize(
    ("caption", "broken"),
    [
        ("a dog runs on the grass", False),
        ("in the snow a man skis", False),
        ("a dog is walking by", False),
        ("", True),
        ("is a dog on grass", True),
        ("with a red ball", True),
        ("a dog dog runs", True),
        ("a man in a standing on a the ladder", True),
        ("a man sits on a", True),
        ("a picture of", True),
        ("a man and", True),
    ],
)
def test_mistakes_of_grammar(caption: str, broken: bool) -> None:
    found = score({"1": caption}, {"1": ["a dog runs"]}, ["grammar-errors"])
    assert found.corpus["grammar-errors"] == broken


def test_mistakes_of_grammar_have_names() -> None:
    kinds = {
        "": ["no word"],
        "is running": ["no subject"],
        "a dog dog runs": ["repeated word"],
        "a the dog runs": ["stray article"],
        "a dog runs with": ["dangling end"],
        "and a a on a": ["no subject", "repeated word", "stray article", "dangling end"],
        "a dog runs": [],
    }
    assert {text: faults_of(text.split()) for text in kinds} == kinds
