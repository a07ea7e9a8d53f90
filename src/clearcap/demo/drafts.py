"""A caption being worked on: its words locked, forbidden, replaced, and the rest written anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from clearcap.pipeline import CaptionPipeline, InputError
from clearcap.pipeline.words import caption_of

REWRITE = {"steps": 10, "spacing": "log-snr"}  # filling wants more steps than captioning (LOG.md)


@dataclass(frozen=True)
class Draft:
    """A caption of a photo, word by word.

    Attributes:
        photo: path.
        words: as the model spells them.
        trust: probability of each; 1 of words that were given.
        locked: places of words that stay.
        forbidden: words that may not be used.
        selected: place of the word that is looked at; -1 is none.
        seed: of what is written anew.
    """

    photo: str
    words: tuple[str, ...]
    trust: tuple[float, ...]
    locked: frozenset[int] = field(default_factory=frozenset)
    forbidden: tuple[str, ...] = ()
    selected: int = -1
    seed: int = 0

    @property
    def text(self) -> str:
        """The words as a text."""
        return caption_of(self.words)

    @property
    def word(self) -> str:
        """The word that is looked at. Raises InputError where there is none."""
        if not 0 <= self.selected < len(self.words):
            raise InputError("no word is chosen; click one of the caption's first")
        return self.words[self.selected]


def toggle_lock(draft: Draft) -> Draft:
    """The chosen word locked, or free again. Raises InputError."""
    if draft.word in draft.forbidden:
        raise InputError(f"{draft.word!r} is forbidden; allow it first")
    return dataclasses.replace(draft, locked=draft.locked ^ {draft.selected})


def toggle_forbidden(draft: Draft) -> Draft:
    """The chosen word forbidden, wherever it stands, or allowed again. Raises InputError."""
    word = draft.word
    if word in draft.forbidden:
        return dataclasses.replace(draft, forbidden=tuple(one for one in draft.forbidden if one != word))
    free = frozenset(place for place in draft.locked if draft.words[place] != word)
    return dataclasses.replace(draft, forbidden=(*draft.forbidden, word), locked=free)


def replace_word(pipeline: CaptionPipeline, draft: Draft, text: str) -> Draft:
    """The chosen word replaced by one or more, which are locked.

    Raises:
        InputError: no word is chosen or given, the caption becomes too long, or the model has no such word.
    """
    before, after = draft.words[: draft.selected], draft.words[draft.selected + 1 :]
    if not text.strip() or not draft.word:
        raise InputError("no word to put there; write one")
    words = pipeline.attention(
        draft.photo, caption_of((*before, text, *after))
    ).words  # as the model spells them
    count = len(words) - len(before) - len(after)
    if count < 1:
        raise InputError(f"{text!r} has no word in it; write one")
    new = range(draft.selected, draft.selected + count)
    moved = {p if p < draft.selected else p + count - 1 for p in draft.locked - {draft.selected}}
    trust = (*draft.trust[: draft.selected], *[1.0] * count, *draft.trust[draft.selected + 1 :])
    allowed = tuple(word for word in draft.forbidden if word not in words[new.start : new.stop])
    return dataclasses.replace(
        draft, words=words, trust=trust, locked=frozenset({*moved, *new}), forbidden=allowed
    )


def template_of(draft: Draft) -> str:
    """The caption with a blank for every word that is not locked, as ``clearcap fill`` takes it."""
    return caption_of([word if i in draft.locked else "___" for i, word in enumerate(draft.words)])


def rewrite(pipeline: CaptionPipeline, draft: Draft) -> Draft:
    """Every word that is not locked written anew, without those that are forbidden.

    Raises:
        InputError: all words are locked, or the caption cannot be met.
    """
    filled = pipeline.fill(
        draft.photo, template_of(draft), seed=draft.seed, forbid=draft.forbidden, **REWRITE
    )
    found = iter(zip(filled.words, filled.word_confidence, strict=True))
    row = [(word, 1.0) if i in draft.locked else next(found) for i, word in enumerate(draft.words)]
    return dataclasses.replace(draft, words=tuple(w for w, _ in row), trust=tuple(p for _, p in row))


def counted(captions: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Different captions in the order of their first, each with its places."""
    order = sorted(range(len(captions)), key=lambda i: (captions.index(captions[i]), i))
    return [(text, list(places)) for text, places in groupby(order, key=lambda i: captions[i])]
