"""Captions to ids and back: cleaning as the authors do it, vocabularies counted by hand, ids spelt out."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from towers import vocabulary, write_tokenizer
from transformers import BertTokenizer

from clearcap.errors import InputError
from clearcap.text.tokenizer import (
    SPECIAL_TOKENS,
    DecodedCaption,
    clean_caption,
    decode_caption,
    encode_captions,
    join_words,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizer:
    folder = tmp_path_factory.mktemp("words")
    write_tokenizer(folder)
    return BertTokenizer.from_pretrained(folder)


def pre_caption(caption: str, max_words: int) -> str:
    """The authors' function of that name."""
    caption = re.sub(r"([!\"()*#:;~])", " ", caption.lower())
    caption = re.sub(r"\s{2,}", " ", caption)
    words = caption.rstrip("\n").strip(" ").split(" ")
    return " ".join(words[:max_words])


@given(st.text("aB \n!\"()*#:;~.,-'", max_size=40), st.integers(1, 12))
def test_cleaning_is_the_authors(caption: str, max_words: int) -> None:
    assert clean_caption(caption, max_words).lower() == pre_caption(caption, max_words)


def test_cleaning() -> None:
    assert clean_caption("a dog\t") == pre_caption("a dog\t", 30) == "a dog\t"  # theirs leaves a single tab
    assert clean_caption('  A  "Dog" (runs) ; fast ! ') == "A Dog runs fast"
    assert clean_caption("A dog . ", keep_period=False) == "A dog"
    assert clean_caption("a dog runs.", keep_period=False) == "a dog runs"
    assert clean_caption("A dog .") == "A dog ."
    assert clean_caption("e\N{COMBINING ACUTE ACCENT}clair") == "\N{LATIN SMALL LETTER E WITH ACUTE}clair"
    assert len(clean_caption("a " * 40).split()) == 30


def test_a_vocabulary_is_the_corpuss_words_most_frequent_first() -> None:
    corpus = [
        "dogs dogs dogs dogs",
        "cats cats cats cats cats",
        "bees bees bees bees",
        "owl owl owl",
        "a a a a",
    ]
    found = train_tokenizer(corpus, size=1000)
    letters = sorted(set("".join(corpus)) - {" "})
    fixed = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    pieces = found.convert_ids_to_tokens(range(len(found)))
    assert pieces[: len(fixed)] == fixed
    assert pieces[len(fixed) :][:3] == [
        "cats",
        "bees",
        "dogs",
    ]  # 5 times, then 4 times in the alphabet's order
    assert set(pieces[len(fixed) + 3 :]) == {"##wl"}  # of "owl", which 3 times do not make a piece of its own
    assert found.tokenize("owl dogs") == ["o", "##wl", "dogs"]
    assert "owl" in train_tokenizer(corpus, size=1000, min_count=3).get_vocab()


def test_a_vocabulary_has_room_for_letters_words_and_endings_in_that_order() -> None:
    corpus = ["running running running running", "walking walking walking", "sings"]
    letters = len(set("runingwalks"))
    fixed = 5 + 2 * letters
    for size, words, endings in ((0, 0, 0), (fixed, 0, 0), (fixed + 1, 1, 0), (fixed + 3, 1, 2)):
        vocab = train_tokenizer(corpus, size=size).get_vocab()
        assert len(vocab) == fixed + words + endings
        assert ("running" in vocab) == bool(words)
    assert {"##ng", "##ing"} <= vocab.keys()  # of the three walking, more than of one sings
    every = train_tokenizer(corpus, size=1000).get_vocab()
    assert {"##king", "##gs", "##ngs", "##ings"} <= every.keys()
    assert "##sings" not in every  # at most four letters
    assert not {"##running", "##lking", "##alking"} & every.keys()
    with pytest.raises(InputError, match="no captions to take a vocabulary from"):
        train_tokenizer([], size=10)


def test_ids_are_framed_padded_and_cut(tokenizer: BertTokenizer) -> None:
    ids, mask = encode_captions(tokenizer, ["a dog", "the man riding a wave"], 5)
    pieces = [tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
    assert pieces == [
        ["[CLS]", "a", "dog", "[SEP]", "[PAD]"],
        ["[CLS]", "the", "man", "riding", "[SEP]"],
    ]
    assert mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert ids.dtype == mask.dtype == torch.int64


def decode(tokenizer: BertTokenizer, text: str, confidence: list[float] | None = None) -> DecodedCaption:
    ids = [vocabulary().index(piece) for piece in text.split()]
    return decode_caption(tokenizer, ids, {0, 2, 3}, confidence)


def test_ids_become_words(tokenizer: BertTokenizer) -> None:
    said = decode(
        tokenizer, "[CLS] a dog [PAD] ##s riding [SEP] [PAD]", [0.1, 0.9, 0.8, 0.2, 0.5, 0.7, 0.3, 0.4]
    )
    assert said.words == ("a", "dogs", "riding")
    assert said.confidence == (0.9, 0.5, 0.7)  # a word is as sure as its least sure piece
    assert said.text == "a dogs riding"
    assert decode(tokenizer, "a dog").confidence == (1.0, 1.0)
    assert decode(tokenizer, "[CLS] ##s a").words == ("s", "a")  # a first piece stands alone
    assert decode(tokenizer, "a ##s ##s", [0.5, 0.6, 0.4]).confidence == (0.4,)
    assert decode(tokenizer, "[CLS] [SEP]") == DecodedCaption((), ())


def test_a_word_that_repeats_the_one_before_it_is_said_once(tokenizer: BertTokenizer) -> None:
    said = decode(tokenizer, "a a dog [PAD] dog a dog", [0.9, 0.1, 0.8, 0.2, 0.3, 0.7, 0.6])
    assert said.words == ("a", "dog", "a", "dog")
    assert said.confidence == (0.9, 0.8, 0.7, 0.6)
    assert decode(tokenizer, "dog ##s dog dog ##s dog ##s").words == ("dogs", "dog", "dogs")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("a dog , running .", "a dog, running."),
        ("what ? 5 %", "what? 5%"),
        ("a t - shirt of the man ' s", "a t-shirt of the man's"),
        ("dogs ' balls", "dogs'balls"),
        ("the end -", "the end -"),
        ("", ""),
    ],
)
def test_words_are_joined_as_one_writes_them(words: str, text: str) -> None:
    assert join_words(words.split()) == text
