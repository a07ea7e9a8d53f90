"""The tokenizer against the Java program it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clearcap.metrics import tokenize

LINE_BREAKS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))
SAMPLE = (
    "dog cat A The He U.S. U.S U.K. a.m. p.m Mr. Mrs. St. Ave. etc. vs. vs Jan. Inc. Co. co. ltd No. 5 fig. 3 "
    "p. D. A. can't won't isn't it's I'm we're y'all 'em 'til '90s 90's 'n' rock'n'roll o'clock c'mon cannot gonna "
    "gotta wanna 'tis 'twas O'Brien cont'd li'l 1/2 1 12/25/2000 555-1234 (555) 123-4567 555 123 4567 $5 US$ #tag "
    "@home me@x.com www.abc.com abc.com http://a.b/c file.jpg <br> </p> <a> <3 < > &lt; &gt; &amp; &nbsp; &quot; "
    "&apos; &eacute; AT&T R&B C++ x-ray t-shirt 10-year-old and/or 1,000 1.5 -5 5:30 3D :) :-) =D ^_^ x_x (^_^) "
    "... .... . .. - -- --- ----- _ * ** ! ?! ? , ; : ( ) [ ] { } / \\ | ~ ` `` ' '' \" + = % & « » “ ” ‘ ’ „ ´ ° ² "
    "½ ⅓ € £ ¢ ¡ … – — ‐ é naïve café Straße İ ſ "
    "日本 한국 \u0301 \u00ad soft\u00adhyphen \u200b \ufeff \xa0 \u2003 😀 👨‍👩‍👧 𐐀𐐁 "
    "\x00 \x01 \x7f \x80 \x85 \x92 Ph.D. S&P-500 -LRB- Cap'n 's 'S n't dogs' non-U.S. Miss. Mass. Ill. word.word"
)
FRAGMENTS = SAMPLE.split(" ")
random_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="Σ"), max_size=12)
english = st.lists(st.sampled_from([*FRAGMENTS, " ", " ", " "]), max_size=9).map("".join)
spaced = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map(" ".join)
marks = st.text("abnsT .,;:'\"-_/\\()<>&$#@!?+=*~^|%[]{}019é\xad’`\xa0…½²", max_size=12)
repeated = st.tuples(spaced, st.integers(2, 60)).map(lambda pair: f"{pair[0]} " * pair[1])
captions = st.lists(st.one_of(random_text, english, spaced, marks, repeated), min_size=150, max_size=250)


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(captions)
def test_any_text_gives_the_java_tokens(java_tokens, captions: list[str]) -> None:
    lines = [caption.translate(LINE_BREAKS) for caption in captions]
    for caption, ours, theirs in zip(captions, tokenize(captions), java_tokens(lines), strict=True):
        assert ours == theirs, f"{caption!r}"


@pytest.mark.shared
def test_every_coco_and_flickr8k_caption_gives_the_java_tokens(java_tokens, coco, shared: Path) -> None:
    rows = (shared / "data/flickr8k/captions.txt").read_text().splitlines()[1:]
    corpus = [caption for texts in coco.values() for caption in texts] + [
        row.split(",", 1)[1] for row in rows
    ]
    assert len(corpus) == 24_208 + 35_455
    theirs = java_tokens(corpus)
    assert [c for c, a, b in zip(corpus, tokenize(corpus), theirs, strict=True) if a != b] == []


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's dog can't run.", ["a", "man", "'s", "dog", "ca", "n't", "run"]),
        ("They cannot, and are gonna", ["they", "can", "not", "and", "are", "gon", "na"]),
        (
            "a (small) [red] {cat}",
            ["a", "-lrb-", "small", "-rrb-", "-lsb-", "red", "-rsb-", "-lcb-", "cat", "-rcb-"],
        ),
        ("“Hello” said 'he'...", ["hello", "said", "he"]),
        ("costs £5 or 20¢ or €3", ["costs", "#", "5", "or", "20", "cents", "or", "$", "3"]),
        ("1 1/2 cups, ½ full", ["1\xa01/2", "cups", "1/2", "full"]),
        ("call (555) 123-4567", ["call", "-lrb-555-rrb-\xa0123-4567"]),
        ("rock &amp; roll, AT&amp;T", ["rock", "&", "roll", "at&t"]),
        ("cat\u00ad\u00adfish 😀 naïve", ["catfish", "naïve"]),
        ("", []),
        ("   \t ", []),
        ("... !? -", ["!?"]),
    ],
)
def test_known_captions(caption: str, tokens: list[str]) -> None:
    assert tokenize([caption]) == [tokens]


def test_the_next_caption_decides_about_an_abbreviation_as_in_java(java_tokens) -> None:
    captions = ["a bottle of vitamin D.", "The cat", "a bottle of vitamin D.", "cats"]
    assert tokenize(captions) == java_tokens(captions)
    assert tokenize(captions)[0][-1] == "d"
    assert tokenize(captions)[2][-1] == "d."


def test_line_breaks_inside_a_caption_are_spaces() -> None:
    assert tokenize(["a\r\ndog\u2028runs\vfast\f", "cat"]) == [["a", "dog", "runs", "fast"], ["cat"]]


def test_an_unclosed_tag_stays_in_its_caption() -> None:
    assert tokenize(['see <a href="', 'x">here'])[1] == ["x", ">", "here"]


def test_lone_surrogates_do_not_crash() -> None:
    assert tokenize(["a \ud800 dog"]) == [["a", "dog"]]


def test_a_very_long_caption() -> None:
    assert tokenize(["dog " * 20_000 + "x" * 20_000]) == [["dog"] * 20_000 + ["x" * 20_000]]
