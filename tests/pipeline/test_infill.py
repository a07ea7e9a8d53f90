"""Templates and constraints: what is fixed comes back, what is blank is a word, what is impossible says so."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from commands import clearcap
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_captioner import CAPTIONS, photos, tiny_captioner

from clearcap.bench.latency import sample_photo
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.pipeline.infilling import (
    MAX_LAYOUTS,
    Blank,
    Template,
    describe,
    edit_template,
    fixed_words,
    infill_captions,
    keyword_templates,
    layouts_of,
    length_template,
    parse_template,
)
from clearcap.text.tokenizer import word_ids

WORDS = sorted({word for caption in CAPTIONS for word in re.findall(r"\w+", caption)})
parts = st.lists(
    st.one_of(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map(" ".join),
        st.tuples(st.integers(1, 2), st.integers(0, 1)).map(lambda p: Blank(p[0], sum(p))),
    ),
    min_size=1,
    max_size=4,
)


def test_the_syntax_of_templates() -> None:
    assert parse_template("two ___ on a ___{1,3} .").parts == ("two ", Blank(), " on a ", Blank(1, 3), " .")
    assert parse_template("___{2} ____").parts == (Blank(2, 2), Blank(1, 1))


@settings(max_examples=50, deadline=None)
@given(parts.filter(lambda p: any(isinstance(x, Blank) for x in p)))
def test_describe_is_the_inverse_of_parse(given_parts: list[str | Blank]) -> None:
    merged: list[str | Blank] = []
    for part in given_parts:
        if merged and isinstance(part, str) and isinstance(merged[-1], str):
            merged[-1] += " " + part
        else:
            merged.append(part)
    text = describe(Template(tuple(merged)))
    again = tuple(p.strip() if isinstance(p, str) else p for p in parse_template(text).parts)
    assert again == tuple(merged)


@settings(max_examples=15, deadline=None)
@given(parts.filter(lambda p: any(isinstance(x, Blank) for x in p)), st.integers(0, 3))
def test_fixed_words_come_back_and_blanks_hold_whole_words(given_parts: list[str | Blank], seed: int) -> None:
    captioner, tokenizer = tiny_captioner(length=20)
    template = Template(tuple(given_parts))
    filled = infill_captions(captioner, tokenizer, photos(1), [template], seed=seed)[0]
    pattern = " ".join(
        part if isinstance(part, str) else rf"(\w+(?: \w+){{{part.low - 1},{part.high - 1}}})"
        for part in given_parts
    )
    assert re.fullmatch(pattern, filled.text), (pattern, filled.text)
    blanks = [part for part in given_parts if isinstance(part, Blank)]
    for blank, words in zip(blanks, filled.words, strict=True):
        assert blank.low <= len(words.split()) <= blank.high
        assert set(words.split()) <= set(tokenizer.get_vocab())
    assert len(filled.word_confidence) == len(" ".join(filled.words).split())
    assert 0 < filled.confidence <= 1


def test_the_text_around_blanks_is_not_touched() -> None:
    captioner, tokenizer = tiny_captioner(length=20)
    text = 'A Dog, "brown" & ___   runs (near) ___.'
    template = text.replace(" &", "")
    filled = infill_captions(captioner, tokenizer, photos(1), [template])[0]
    pattern = re.escape(template).replace("___", r"(\w+)")
    assert re.fullmatch(pattern, filled.text)


def test_each_photo_is_filled_as_if_alone_whatever_the_candidates_and_early_exit() -> None:
    captioner, tokenizer = tiny_captioner(length=14)
    image = photos(3)
    templates = ["a ___{1,3} dog .", "two men ___ near ___", "___{5}"]
    together = infill_captions(captioner, tokenizer, image, templates, seed=3)
    early = replace(
        captioner.defaults, early_exit=30
    )  # never in 6 steps: rows leave nowhere, nothing changes
    assert infill_captions(captioner, tokenizer, image, templates, seed=3, sampling=early) == together
    for i in range(3):
        alone = infill_captions(captioner, tokenizer, image[i : i + 1], templates[i : i + 1], seed=3)[0]
        assert (alone.text, alone.words) == (together[i].text, together[i].words)
    more = infill_captions(
        captioner, tokenizer, image, templates, seed=3, sampling=replace(captioner.defaults, candidates=4)
    )
    for one, best in zip(together, more, strict=True):
        assert best.confidence >= one.confidence - 1e-6


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpm-solver", "renoise", "plain"])
@pytest.mark.parametrize("extra", [{}, {"early_exit": 1}, {"refine": 1}, {"guidance": 0.0}])
def test_every_solver_fills(solver: str, extra: dict[str, float]) -> None:
    captioner, tokenizer = tiny_captioner(length=14)
    how = replace(captioner.defaults, solver=solver, **extra)
    for filled in infill_captions(captioner, tokenizer, photos(2), ["a ___ dog ___ ."] * 2, sampling=how):
        assert re.fullmatch(r"a \w+ dog \w+ \.", filled.text)


def test_the_network_sees_fixed_latents_clean_at_every_call() -> None:
    captioner, tokenizer = tiny_captioner(length=12)
    layout = layouts_of(parse_template("a ___ dog"), tokenizer, 12)[0]
    known = fixed_words(captioner, [layout, layout])
    ids = torch.tensor([[*layout.ids] + [0] * 7])
    mask = (torch.arange(12) < 5).long()[None]
    expected = captioner.text.encode(ids, mask)[0]
    seen = []

    def denoise(x, x_self, t):
        seen.append((x, x_self))
        return torch.zeros_like(x)

    noise = torch.randn(2, 12, 24)
    x0 = known.wrap(denoise)(noise, torch.ones_like(noise), torch.zeros(2, dtype=torch.int64))
    for latent, blank in ((seen[0][0], noise[0, 2]), (seen[0][1], torch.ones(24)), (x0, torch.zeros(24))):
        torch.testing.assert_close(latent[0, 2], blank)
        torch.testing.assert_close(latent[0, [0, 1, 3, 4, 11]], expected[[0, 1, 3, 4, 11]])
    one = known.wrap(denoise, torch.tensor([1]))(noise[1:], noise[1:], torch.zeros(1, dtype=torch.int64))
    assert one.shape == (1, 12, 24)


def test_layouts_count_the_ways() -> None:
    _, tokenizer = tiny_captioner()
    layouts = layouts_of(parse_template("a ___{1,3} dog ___{1,2}"), tokenizer, 20)
    assert sorted(tuple(len(blank) for blank in layout.blanks) for layout in layouts) == [
        (a, b) for a in (1, 2, 3) for b in (1, 2)
    ]
    assert (
        len(layouts_of(parse_template("a ___{1,3} dog ___{1,2}"), tokenizer, 8)) == 5
    )  # 7 positions are too many


def test_fixed_words_of_many_pieces() -> None:
    captioner, tokenizer = tiny_captioner(length=20)
    assert len(tokenizer.tokenize("jumpsdog")) > 1
    assert infill_captions(captioner, tokenizer, photos(1), ["the jumpsdog ___"])[0].text.startswith(
        "the jumpsdog "
    )


def test_the_full_stop_a_captioner_does_not_know_stays_in_the_text() -> None:
    _, tokenizer = tiny_captioner()
    known = layouts_of(parse_template("a ___ ."), tokenizer, 12, keep_period=True)[0]
    unknown = layouts_of(parse_template("a ___ ."), tokenizer, 12, keep_period=False)[0]
    assert len(known.ids) == len(unknown.ids) + 1


def test_blank_words_are_whole_and_never_repeat_their_neighbour() -> None:
    captioner, tokenizer = tiny_captioner(length=14)
    allowed = word_ids(tokenizer, captioner.text.special_ids, len(tokenizer))
    pieces = tokenizer.convert_ids_to_tokens(np.flatnonzero(allowed).tolist())
    assert "dog" in pieces
    assert not {"[MASK]", ".", ",", "##a"} & set(pieces)
    for filled in infill_captions(captioner, tokenizer, photos(4), ["dog ___{4} dog"] * 4):
        words = filled.text.split()
        assert all(a != b for a, b in pairwise(words))


def test_keywords_are_contained_in_the_length_asked_for() -> None:
    captioner, tokenizer = tiny_captioner(length=14)
    templates = keyword_templates(["red dress", "river"], 5, 6)
    assert 1 < len(templates) <= MAX_LAYOUTS
    assert len({describe(t) for t in templates}) == len(templates)
    filled = infill_captions(captioner, tokenizer, photos(1), [templates])[0]
    assert "red dress" in filled.text
    assert "river" in filled.text.split()
    assert 5 <= len(filled.text.split()) <= 6
    assert [describe(t) for t in keyword_templates(["a dog"], 3)] == ["a dog ___", "___ a dog"]
    assert len(keyword_templates(["a", "dog", "river"], 9)) == MAX_LAYOUTS


def test_length_and_prefix() -> None:
    captioner, tokenizer = tiny_captioner(length=14)
    exact, ranged, prefixed = infill_captions(
        captioner,
        tokenizer,
        photos(3),
        [length_template(6), length_template(3, 5), length_template(4, 6, prefix="two men")],
    )
    assert len(exact.text.split()) == 6
    assert 3 <= len(ranged.text.split()) <= 5
    assert prefixed.text.startswith("two men ")
    assert 4 <= len(prefixed.text.split()) <= 6


def test_editing_keeps_words_and_redoes_the_rest() -> None:
    template = edit_template("a brown dog runs on the grass", ["dog", "grass"], slack=1)
    assert describe(template) == "___{1,3} dog ___{2,4} grass"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_template("a dog"), "nothing to fill in"),
        (lambda: parse_template("a ___{3,1} dog"), "contradict"),
        (lambda: parse_template("a ___{0} dog"), "at least 1"),
        (lambda: parse_template("a ___{} dog"), "range"),
        (lambda: parse_template("a ___{2,} dog"), "range"),
        (lambda: length_template(8, 5), "contradict"),
        (lambda: length_template(2, 2, prefix="a brown dog"), "allow more"),
        (lambda: keyword_templates([], 5), "no keyword"),
        (lambda: keyword_templates(["a b c", "d"], 3), "4 words must be contained"),
        (lambda: keyword_templates(list("abcde"), 9), "at most 4"),
        (lambda: edit_template("a dog", ["cat"]), "'cat' cannot be kept"),
        (lambda: edit_template("a dog", ["a", "dog"]), "keep fewer"),
    ],
)
def test_impossible_requests(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a dog runs on the green grass near the river ___ .", "needs 11 positions, but a caption has 8"),
        ("a ___ \N{DOG} runs", "no word '\N{DOG}'"),
        ("___{1,9} dog ___{1,9}", "narrow its ranges"),
    ],
)
def test_impossible_templates(template: str, message: str) -> None:
    captioner, tokenizer = tiny_captioner(length=10 if "needs" in message else 24)
    with pytest.raises(InputError, match=re.escape(message)):
        infill_captions(captioner, tokenizer, photos(1), [template])


def test_one_template_for_each_photo() -> None:
    captioner, tokenizer = tiny_captioner()
    with pytest.raises(InputError, match="1 templates for 2 photos"):
        infill_captions(captioner, tokenizer, photos(2), ["a ___"])


def test_editing_from_the_command_line() -> None:
    edited = [
        "fill",
        sample_photo(),
        "--edit",
        "a woman rides a brown horse",
        "--keep",
        "woman",
        "--keep",
        "horse",
    ]
    done = clearcap(*edited, "--slack", "1", "--seed", "3")
    expected = CaptionPipeline.from_pretrained().fill(
        sample_photo(), edit_template("a woman rides a brown horse", ["woman", "horse"], 1), seed=3
    )
    assert done.stdout.strip() == expected.text
    assert re.fullmatch(r"(\w+ ){1,2}woman (\w+ ){2,4}horse", expected.text)
    for wrong, message in (
        (["--words", "6"], "ask for one thing"),
        (["--contain", "dog"], "ask for one thing"),
    ):
        refused = clearcap(*edited, *wrong)
        assert refused.returncode == 1
        assert message in refused.stderr
    alone = clearcap("fill", sample_photo(), "--keep", "woman", "--words", "6")
    assert "pass that too" in alone.stderr
