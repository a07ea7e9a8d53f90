"""Captions under constraints: blanks to fill, words to contain, a length to keep (LaDiC, section 4.5).

Every constraint becomes one or more layouts: a row of positions of which some hold fixed words and the others
are blank. The latents of fixed positions are put back around each call of the denoiser, so any solver fills
blanks; the layouts of one photo run as one batch, and the one the model is surest of wins.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from clearcap.arrays import Array, cast, namespace, softmax
from clearcap.captioner.generating import CaptionModel, CaptionRequest
from clearcap.config import SamplingConfig, TextConfig, make, number, texts
from clearcap.config import text as checked_text
from clearcap.errors import InputError
from clearcap.sampling.guidance import FixedLatents
from clearcap.sampling.selection import mean_confidences
from clearcap.text.tokenizer import clean_caption, gap, join_words, may_repeat, split_words, word_ids

_BLANK = re.compile(r"_{3,}(?:\{(\d*)(,?)(\d*)\})?")
_WORD = re.compile(r"\w+")
MOST_WORDS = 1000  # of a caption that is asked for
MAX_LAYOUTS = 64


@dataclass(frozen=True)
class Blank:
    """A gap of ``low`` to ``high`` words."""

    low: int = 1
    high: int = 1


@dataclass(frozen=True)
class Template:
    """A caption with gaps: fixed text and blanks in turn."""

    parts: tuple[str | Blank, ...]


@dataclass(frozen=True)
class Layout:
    """One way to place a template on caption positions.

    Attributes:
        ids: token ids, [CLS] first and [SEP] last, the mask token in blanks.
        blanks: positions of each blank's words.
    """

    ids: tuple[int, ...]
    blanks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Infilled:
    """A template with its blanks filled in.

    Attributes:
        text: the template with its blanks filled in; its own text as it was given.
        words: what stands in each blank.
        confidence: geometric mean of the filled words' probabilities.
        word_confidence: the probability of each filled word, in order.
    """

    text: str
    words: tuple[str, ...]
    confidence: float
    word_confidence: tuple[float, ...]


def parse_template(text: str) -> Template:
    """``two ___ on a ___{1,3} .``: ``___`` is one word, ``___{2}`` two, ``___{1,3}`` one to three.

    Raises:
        InputError: there is nothing to fill, or a range is empty or upside down.
    """
    parts: list[str | Blank] = []
    end = 0
    for match in _BLANK.finditer(checked_text("template", text)):
        if text[end : match.start()].strip():
            parts.append(text[end : match.start()])
        low, comma, high = match.groups()
        if low is None:
            parts.append(Blank())
        elif not low or (comma and not high) or max(len(low), len(high or "")) > 4:
            raise InputError(
                f"{match.group()!r} in {text!r}: write a number of words {{2}} or a range {{1,3}}"
            )
        else:
            parts.append(_blank(int(low), int(high or low), f"{match.group()!r} in {text!r}"))
        end = match.end()
    if not any(isinstance(part, Blank) for part in parts):
        raise InputError(f"{text!r} has nothing to fill in; write ___ where a word is wanted")
    if text[end:].strip():
        parts.append(text[end:])
    return Template(tuple(parts))


def length_template(low: int, high: int | None = None, prefix: str = "") -> Template:
    """A caption of ``low`` to ``high`` words (``high`` defaults to ``low``) that begins with ``prefix``.

    Raises:
        InputError: the lengths contradict each other, or leave no word to add to the prefix.
    """
    high, said = _blank(low, high, "length").high, len(split_words(checked_text("prefix", prefix)))
    if high <= said:
        raise InputError(
            f"a caption of at most {high} words cannot go on after the {said} of {prefix!r}; allow more"
        )
    blank = Blank(max(1, low - said), high - said)
    return Template((prefix + " ", blank) if said else (blank,))


def edit_template(caption: str, keep: Sequence[str], slack: int = 0) -> Template:
    """Keep these words of a caption and redo the rest, in the same number of words or ``slack`` more or fewer.

    Raises:
        InputError: a word to keep is not in the caption, or nothing is left to redo.
    """
    words, keep = split_words(checked_text("caption", caption)), texts("keep", keep)
    slack = number("slack", slack, int, 0)
    left = [word.lower() for word in words]
    for word in keep:
        if not set(split_words(word.lower())) <= set(left):
            raise InputError(f"{word!r} cannot be kept: it is not in {caption!r}")
    kept = {part for word in keep for part in split_words(word.lower())}
    parts: list[str | Blank] = []
    for fixed, group in itertools.groupby(words, key=lambda word: word.lower() in kept):
        run = list(group)
        parts.append(join_words(run) if fixed else Blank(max(1, len(run) - slack), len(run) + slack))
    if all(isinstance(part, str) for part in parts):
        raise InputError(f"every word of {caption!r} is kept, so nothing is left to redo; keep fewer")
    return Template(tuple(parts))


def keyword_templates(keywords: Sequence[str], low: int, high: int | None = None) -> list[Template]:
    """Captions of ``low`` to ``high`` words that contain all keywords, at any places and in any order.

    At most ``MAX_LAYOUTS`` placements, evenly spread over all of them.

    Raises:
        InputError: no keywords, or more of them than words.
    """
    high, keywords = _blank(low, high, "length").high, texts("keywords", keywords)
    lengths = [len(split_words(keyword)) for keyword in keywords]
    if not keywords or not all(lengths):
        raise InputError("no keyword to contain; pass one or more words")
    if sum(lengths) > high:
        raise InputError(
            f"{sum(lengths)} words must be contained but the caption may have {high}; allow more"
        )
    if len(keywords) > 4:
        raise InputError(
            f"{len(keywords)} keywords are too many to try every order; pass at most 4, or a template"
        )
    orders, ways = list(itertools.permutations(keywords)), len(keywords) + 1
    frees = range(
        max(low, sum(lengths)) - sum(lengths), high - sum(lengths) + 1
    )  # words that are to be found
    counts = [len(orders) * math.comb(free + ways - 1, ways - 1) for free in frees]
    ends, total = list(itertools.accumulate(counts)), sum(counts)
    stride = max(1.0, total / MAX_LAYOUTS)
    chosen = []
    for rank in (int(i * stride) for i in range(min(MAX_LAYOUTS, total))):
        of = bisect.bisect_right(ends, rank)
        order, place = divmod(rank - (ends[of] - counts[of]), counts[of] // len(orders))
        chosen.append((orders[order], _gaps(frees[of], ways, place)))
    return [
        Template(
            tuple(
                part
                for gap, keyword in itertools.zip_longest(gaps, order)
                for part in ((Blank(gap, gap),) if gap else ()) + ((keyword,) if keyword else ())
            )
        )
        for order, gaps in chosen
    ]


def _gaps(words: int, gaps: int, rank: int) -> tuple[int, ...]:
    """The way of that rank, of all in which so many words are spread over so many gaps, in the order of the first."""
    if gaps == 1:
        return (words,)
    for first in range(words + 1):
        count = math.comb(words - first + gaps - 2, gaps - 2)
        if rank < count:
            return (first, *_gaps(words - first, gaps - 1, rank))
        rank -= count
    raise IndexError(rank)


def layouts_of(template: Template, tokenizer: Any, length: int, *, keep_period: bool = True) -> list[Layout]:
    """Every placement of a template that fits, at most ``MAX_LAYOUTS``.

    Args:
        template: fixed text and blanks.
        tokenizer: of the captioner.
        length: positions of a caption, [CLS] and [SEP] included.
        keep_period: whether the captioner knows the full stop at a caption's end.

    Raises:
        InputError: a fixed word is unknown, nothing fits, or too many placements do.
    """
    fixed = _fixed_ids(template, tokenizer, keep_period)
    blanks = [part for part in template.parts if isinstance(part, Blank)]
    room = length - 2 - sum(len(ids) for ids in fixed if ids is not None)
    least = sum(blank.low for blank in blanks)
    if least > room:
        raise InputError(
            f"{describe(template)!r} needs {least + length - 2 - room} positions, but a caption has {length - 2}; "
            "shorten it or use a model of longer captions"
        )
    spare = room - least  # which one blank may take, where the others are as short as they can be
    choices = itertools.product(
        *(range(blank.low, min(blank.high, blank.low + spare) + 1) for blank in blanks)
    )
    counts = list(itertools.islice((c for c in choices if sum(c) <= room), MAX_LAYOUTS + 1))
    if len(counts) > MAX_LAYOUTS:
        raise InputError(
            f"{describe(template)!r} can be placed in more than {MAX_LAYOUTS} ways; narrow its ranges of words"
        )
    return [_place(fixed, count, tokenizer) for count in counts]


def infill_captions(
    captioner: CaptionModel,
    tokenizer: Any,
    image: Float[Array, "photos tokens image_dim"] | None,
    templates: Sequence[str | Template | Sequence[Template]],
    *,
    photos: Sequence[int] | None = None,
    seed: int = 0,
    forbid: Sequence[str] = (),
    sampling: SamplingConfig | None = None,
) -> list[Infilled]:
    """Fill templates, each about one photo.

    Args:
        captioner: any captioner.
        tokenizer: its tokenizer.
        image: image tokens; None fills in without a photo, from the text alone.
        templates: text with ``___``, a template, or several to choose among.
        photos: row of ``image`` that each template is about; default one template a photo.
        seed: same seed, same words, whatever else is in the batch.
        forbid: words that no blank may be filled with.
        sampling: how; default the model's own. ``candidates`` draws are made of every placement.

    Returns:
        For each template the placement and draw of the highest confidence.

    Raises:
        InputError: a template cannot be met.
    """
    if image is None:
        photos = [0] * len(templates)
    elif photos is None:
        photos = range(len(image))
    if len(templates) != len(photos):
        raise InputError(f"{len(templates)} templates for {len(photos)} photos; pass one for each")
    how = sampling or captioner.defaults
    keep_period = make(TextConfig, captioner.config.text, "text").keep_period
    rows: list[tuple[Template, Layout]] = []
    requests: list[CaptionRequest] = []
    owners: list[int] = []
    for owner, given in enumerate(templates):
        placed = [
            (template, layout)
            for template in _templates(given)
            for layout in layouts_of(template, tokenizer, captioner.length, keep_period=keep_period)
        ]
        for place, row in enumerate(placed):
            for copy in range(how.candidates):
                rows.append(row)
                requests.append(CaptionRequest(photos[owner], copy * 1000 + place))
                owners.append(owner)
    with captioner.inference():
        x0 = captioner.sample(
            image,
            requests,
            seed=seed,
            sampler=captioner.sampler(how),
            fixed=fixed_words(captioner, [layout for _, layout in rows]),
        )
        probabilities = softmax(captioner.logits(x0))
    allowed = captioner.asarray(word_ids(tokenizer, captioner.text.special_ids, probabilities.shape[-1]))
    banned = {word.lower() for word in texts("forbid", forbid)}
    allowed[[i for piece, i in tokenizer.get_vocab().items() if piece.lower() in banned]] = False
    best: dict[int, Infilled] = {}
    for owner, (template, layout), of_words in zip(owners, rows, probabilities, strict=True):
        filled = read_infilled(template, layout, of_words, allowed, tokenizer)
        best[owner] = max(best.get(owner, filled), filled, key=lambda one: one.confidence)  # first of equals
    return list(best.values())


def fixed_words(captioner: CaptionModel, layouts: Sequence[Layout]) -> FixedLatents:
    """The latents of layouts' fixed words, their blanks encoded as the mask token."""
    arrays = layout_arrays(layouts, captioner.length, captioner.config.tokens["pad"])
    ids, mask, fixed = map(captioner.asarray, arrays)
    latent = captioner.text.encode(ids, mask)
    return FixedLatents(cast(latent, namespace(latent).float32), fixed, ids)


def gives_most(given: str | Template | Sequence[Template]) -> bool:
    """Whether every template gives more words than it asks for."""
    return all(
        sum(part.high if isinstance(part, Blank) else -len(split_words(part)) for part in template.parts) < 0
        for template in _templates(given)
    )


def describe(template: Template) -> str:
    """The template in the syntax of ``parse_template``."""
    shown = []
    for part in template.parts:
        if isinstance(part, Blank):
            count = f"{{{part.low}}}" if part.low == part.high else f"{{{part.low},{part.high}}}"
            shown.append("___" if part == Blank() else "___" + count)
        else:
            shown.append(part.strip())
    return " ".join(shown)


def _blank(low: int, high: int | None, where: str) -> Blank:
    low = number("low", low, int, high=MOST_WORDS)
    high = low if high is None else number("high", high, int, high=MOST_WORDS)
    if low > high:
        raise InputError(f"{where}: at least {low} and at most {high} words contradict each other; swap them")
    if low < 1:
        raise InputError(f"{where}: a gap of {low} words is none; ask for at least 1")
    return Blank(low, high)


def _fixed_ids(template: Template, tokenizer: Any, keep_period: bool) -> list[list[int] | None]:
    """Token ids of each part, None for blanks."""
    ids: list[list[int] | None] = []
    for i, part in enumerate(template.parts):
        if isinstance(part, Blank):
            ids.append(None)
            continue
        last = i == len(template.parts) - 1
        text = clean_caption(part, max_words=10_000, keep_period=keep_period or not last)
        text = _WORD.sub(lambda word: _as_known(word.group(), tokenizer), text)
        pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
        if tokenizer.unk_token_id in pieces:
            unknown = [w for w in split_words(text) if tokenizer.unk_token in tokenizer.tokenize(w)]
            raise InputError(f"the model has no word {unknown[0]!r} (in {describe(template)!r}); use another")
        ids.append(pieces)
    return ids


def _as_known(word: str, tokenizer: Any) -> str:
    """A word as the vocabulary writes it, where it has it with other capitals alone ("hund" is Hund in German)."""
    if tokenizer.convert_tokens_to_ids(word) != tokenizer.unk_token_id:
        return word
    return next((piece for piece in tokenizer.get_vocab() if piece.lower() == word.lower()), word)


def _place(fixed: Sequence[list[int] | None], counts: Sequence[int], tokenizer: Any) -> Layout:
    ids, blanks, left = [tokenizer.cls_token_id], [], iter(counts)
    mask = tokenizer.convert_tokens_to_ids("[MASK]")  # stands in the blanks while the fixed words are encoded
    for part in fixed:
        if part is None:
            count = next(left)
            blanks.append(tuple(range(len(ids), len(ids) + count)))
            ids += [mask] * count
        else:
            ids += part
    return Layout((*ids, tokenizer.sep_token_id), tuple(blanks))


def _templates(given: str | Template | Sequence[Template]) -> list[Template]:
    given = parse_template(given) if isinstance(given, str) else given
    templates = [given] if isinstance(given, Template) else given
    if not isinstance(templates, (list, tuple)) or not templates or {*map(type, templates)} != {Template}:
        raise InputError(
            f"{given!r} is no template; pass text with ___, or what clearcap.pipeline.infilling makes"
        )
    return list(templates)


def layout_arrays(
    layouts: Sequence[Layout], length: int, pad: int
) -> tuple[
    Int[np.ndarray, "captions length"],
    Int[np.ndarray, "captions length"],
    Bool[np.ndarray, "captions length"],
]:
    """Ids, attention mask, and where positions are not blank."""
    ids = np.full((len(layouts), length), pad, np.int64)
    mask = np.zeros((len(layouts), length), np.int64)
    fixed = np.ones((len(layouts), length), bool)
    for row, layout in enumerate(layouts):
        ids[row, : len(layout.ids)] = layout.ids
        mask[row, : len(layout.ids)] = 1
        fixed[row, list(itertools.chain.from_iterable(layout.blanks))] = False
    return ids, mask, fixed


def neighbours(ids: Sequence[int], place: int, tokenizer: Any) -> list[int]:
    """The tokens before and behind a place, which its word must not repeat."""
    beside = [ids[place - 1], ids[place + 1]]
    pieces = tokenizer.convert_ids_to_tokens(beside)
    return [id for id, piece in zip(beside, pieces, strict=True) if not may_repeat(piece)]


def read_infilled(
    template: Template,
    layout: Layout,
    probabilities: Float[Array, "length vocab"],
    allowed: Bool[Array, " vocab"],
    tokenizer: Any,
) -> Infilled:
    """The most probable whole words in the blanks, none equal to its neighbour, put into the template's text."""
    ids = list(layout.ids)
    trust: list[float] = []
    fillings: list[str] = []
    for blank in layout.blanks:
        for position in blank:
            p = probabilities[position] * allowed
            p[neighbours(ids, position, tokenizer)] = 0
            ids[position] = int(p.argmax())
            trust.append(float(p[ids[position]]))
        fillings.append(join_words(tokenizer.convert_ids_to_tokens([ids[position] for position in blank])))
    left = iter(fillings)
    text = ""
    for part in template.parts:
        if isinstance(part, Blank):
            filling = next(left)
            text += ("" if not text or text[-1].isspace() else gap(text, filling)) + filling
        else:
            text += ("" if not text or part[0].isspace() or part[0] in ".,?!'-" else gap(text, part)) + part
    return Infilled(text.strip(), tuple(fillings), mean_confidences([trust])[0], tuple(trust))
