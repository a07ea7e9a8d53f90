"""Words of a split's references hidden at random places, for a captioner to guess."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clearcap.data.records import CaptionedPhoto
from clearcap.pipeline.infilling import Blank, Template
from clearcap.text.tokenizer import clean_caption, split_words

_WORD = re.compile(r"\w+")
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some another other of in on at by to from with into onto
    over under through across near behind between along around up down out off for and or but while as is are
    was were be being been am has have had do does his her its their he she it they him them who which what
    there not no
    """.split()  # noqa: SIM905
)  # closed classes; what is left says what the photo shows


@dataclass(frozen=True)
class Hidden:
    """A reference with words hidden.

    Attributes:
        photo: place of its photo.
        words: the whole reference, in words as white space parts them, or in characters of a script without.
        places: which of them are hidden.
    """

    photo: int
    words: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """The hidden words."""
        return tuple(self.words[place] for place in self.places)

    def template(self) -> Template:
        """The reference with a blank of one word in each hidden place."""
        parts: list[str | Blank] = []
        for place, word in enumerate(self.words):
            if place in self.places:
                parts.append(Blank())
            elif parts and isinstance(parts[-1], str):
                parts[-1] += word + " "
            else:
                parts.append((" " if parts else "") + word + " ")
        return Template(tuple(parts))

    def keeps(self, filled: str) -> bool:
        """Whether a filled text has every fixed word where it was, and one word in each blank."""
        said = split_words(filled)
        return len(said) == len(self.words) and all(
            place in self.places or a == b for place, (a, b) in enumerate(zip(said, self.words, strict=True))
        )


@dataclass(frozen=True)
class Counted:
    """References that were not hidden as they stand.

    Attributes:
        cut: longer than a caption may be, so their end was cut off.
        left_out: with too few words, or a symbol that the vocabulary lacks.
    """

    cut: int
    left_out: int


def hide_words(
    photos: Sequence[CaptionedPhoto],
    count: int,
    tokenizer: Any,
    *,
    length: int,
    keep_period: bool,
    seed: int,
) -> tuple[list[Hidden], Counted]:
    """Hide ``count`` words of every reference, at places that depend on the seed and the reference alone.

    Any word of letters and digits may be hidden, also one that the captioner cannot say.

    Args:
        photos: with their references.
        count: words to hide.
        tokenizer: of the captioner.
        length: positions of a caption, [CLS] and [SEP] included.
        keep_period: whether the captioner knows the full stop at a caption's end.
        seed: of the places.
    """

    def pieces_of(words: Sequence[str]) -> list[str]:
        text = clean_caption(" ".join(words), max_words=10_000, keep_period=keep_period)
        return list(tokenizer.tokenize(text))

    hidden: list[Hidden] = []
    cut = left_out = 0
    for place, photo in enumerate(photos):
        for copy, caption in enumerate(photo.captions):
            whole = words = split_words(caption)
            while max(len(words), len(pieces := pieces_of(words))) > length - 2 and words:
                words = words[:-1]  # words count beside pieces, for a hidden one may have no piece
            cut += len(words) < len(whole)
            open_ = [at for at, word in enumerate(words) if _WORD.fullmatch(word)]
            if len(open_) < count or tokenizer.unk_token in pieces:
                left_out += 1
                continue
            chance = random.Random(f"{seed} {photo.id} {copy} {count}")
            hidden.append(Hidden(place, tuple(words), tuple(sorted(chance.sample(open_, count)))))
    return hidden, Counted(cut, left_out)
