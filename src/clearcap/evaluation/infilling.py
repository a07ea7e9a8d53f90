"""How often hidden words of the references are guessed: with the photo, without it, and by a masked language model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearcap.config import TextConfig, make
from clearcap.data.records import Corpus
from clearcap.errors import InputError
from clearcap.evaluation.hidden_words import FUNCTION_WORDS, Counted, Hidden, hide_words
from clearcap.evaluation.journal import Entry
from clearcap.evaluation.session import Progress, Session, Tally
from clearcap.metrics.infilling import accuracy, resampled
from clearcap.pipeline import CaptionPipeline
from clearcap.pipeline.infilling import (
    Infilled,
    Template,
    infill_captions,
    layout_arrays,
    layouts_of,
    read_infilled,
)
from clearcap.text.split_bert import SplitBertSpace
from clearcap.text.tokenizer import word_ids

PHOTO, BLIND, MASKED = "photo", "no photo", "masked LM"
SYSTEMS = (PHOTO, BLIND, MASKED)

Logits = Callable[[Tensor, Tensor], Tensor]
"""Token ids and mask [batch, length] -> logits [batch, length, vocab]."""


@dataclass(frozen=True)
class Answers(Entry):
    """What was put into the blanks of the references of a batch of photos.

    Attributes:
        answers: system -> the words of each reference's blanks.
        kept: references whose fixed words all came back, of those filled with the photo.
        seconds: that each system took.
    """

    answers: dict[str, tuple[tuple[str, ...], ...]]
    kept: int
    seconds: dict[str, float]

    @property
    def key(self) -> int:
        """The number of references."""
        return len(self.answers[PHOTO])


@dataclass(frozen=True)
class Filling:
    """What is found for one number of hidden words.

    Attributes:
        hidden: number of words hidden in each reference.
        references: the references, with what was hidden.
        counted: references that were cut or left out.
        answers: system -> the words it put into each reference's blanks.
        unchanged: references whose fixed words all came back, of those filled with the photo.
        ms: system -> milliseconds a reference.
    """

    hidden: int
    references: tuple[Hidden, ...]
    counted: Counted
    answers: dict[str, tuple[tuple[str, ...], ...]]
    unchanged: int
    ms: dict[str, float]

    def to_json(self, seed: int = 0) -> dict[str, Any]:
        """Exact-match accuracies with 95% bootstrap intervals over photos, of all words and of content words."""
        found: dict[str, Any] = {
            "references": len(self.references),
            "cut": self.counted.cut,
            "left_out": self.counted.left_out,
            "fixed_words_unchanged": self.unchanged / len(self.references),
            "ms_per_reference": self.ms,
            "every_word": {
                name: accuracy(words, [one.answers for one in self.references]).captions
                for name, words in self.answers.items()
            },
        }
        for name, content in (("words", False), ("content_words", True)):
            found[name] = _figures(*self._hits(content), list(self.answers), seed)
        return found

    def _hits(
        self, content_only: bool
    ) -> tuple[Int[np.ndarray, "photos systems"], Int[np.ndarray, " photos"]]:
        """Hidden words recovered by each system and hidden words in all, by photo."""
        photos = 1 + max(one.photo for one in self.references)
        right, asked = np.zeros((photos, len(self.answers)), np.int64), np.zeros(photos, np.int64)
        for number, one in enumerate(self.references):
            for gap, word in enumerate(one.answers):
                if content_only and word.lower() in FUNCTION_WORDS:
                    continue
                asked[one.photo] += 1
                for system, said in enumerate(self.answers.values()):
                    right[one.photo, system] += said[number][gap].lower() == word.lower()
        return right, asked


@dataclass(frozen=True)
class FillEvaluation:
    """What `evaluate_fill` returns.

    Attributes:
        manifest: what was filled in and how.
        fillings: one for each number of hidden words.
    """

    manifest: dict[str, Any]
    fillings: tuple[Filling, ...]

    def to_json(self) -> dict[str, Any]:
        """Manifest and figures."""
        seed = int(self.manifest["seed"])
        return {
            "manifest": self.manifest,
            "hidden": {str(one.hidden): one.to_json(seed) for one in self.fillings},
        }


def evaluate_fill(
    model: str | Path | None,
    corpus: Corpus,
    *,
    hidden: Sequence[int] = (1, 2, 4),
    masked_lm: str | Path | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress = lambda done, total, what: None,
    **how: Any,
) -> FillEvaluation:
    """Hide words of every reference of a split and have them guessed.

    Words are hidden at random places, which need not be neighbours. The captioner guesses them with the photo and
    without it (its null image, no guidance); a masked language model guesses them all at once from the text. With
    ``out``, answers are kept there batch by batch and a killed run goes on where it stopped.

    Args:
        model, corpus, limit: as for ``evaluate``.
        hidden: numbers of words to hide.
        masked_lm: folder or hub name of a masked language model with the captioner's tokenizer, such as
            ``clearcap pretrain-text`` writes; default the captioner's own text space, see
            ``SplitBertSpace.masked_logits``.
        out: folder for the answers and ``fill.json``.
        batch_size: photos at once; their references share one encoding of each.
        seed: of the hidden places and of the samples.
        progress: sees what is done.
        how: fields of ``SamplingConfig`` that differ from the model's own; guidance is off unless given, as
            ``CaptionPipeline.fill`` has it.

    Raises:
        InputError: no such model or setting, a photo that cannot be read, a folder of another evaluation, or no
            masked language model.
    """
    if not hidden or min(hidden) < 1 or len(set(hidden)) < len(hidden):
        raise InputError(f"the numbers of hidden words {list(hidden)} must be at least 1, each once")
    how = {"guidance": 0.0, **how}
    with Session(model, corpus, out=out, limit=limit, batch_size=batch_size, how=how, in_torch=True) as at:
        logits, described = masked_language_model(at.pipeline, masked_lm)
        manifest = at.claim(
            masked_lm=described, sampling=dataclasses.asdict(at.sampling), seed=seed, batch_size=batch_size
        )
        text = make(TextConfig, at.pipeline.captioner.config.text, "text")
        asked = {
            count: hide_words(
                at.photos,
                count,
                at.pipeline.tokenizer,
                length=text.length,
                keep_period=text.keep_period,
                seed=seed,
            )
            for count in hidden
        }
        tally = Tally(progress, sum(len(rows) for rows, _ in asked.values()))
        tokens, _ = at.tokens(lambda n: tally.add(0, "encoding photos"), batch_size=16)
        answer = partial(_answer, at, tokens, logits, seed)
        fillings: list[Filling] = []
        for count, (rows, counted) in asked.items():
            if not rows:
                raise InputError(f"no reference has {count} words to hide; hide fewer")
            fillings.append(_filling(count, rows, counted, _answer_all(at, count, rows, answer, tally)))
        found = FillEvaluation(manifest, tuple(fillings))
        at.save(found.to_json(), "fill.json")
    return found


def masked_language_model(pipeline: CaptionPipeline, source: str | Path | None) -> tuple[Logits, str]:
    """The logits of a masked language model over the captioner's vocabulary, and what it is in words.

    Args:
        pipeline: of the captioner.
        source: as for ``evaluate_fill``.

    Raises:
        InputError: the text space has none, or the one given has another vocabulary.
    """
    if source is None:
        space = pipeline.captioner.text
        if not isinstance(space, SplitBertSpace) or not len(space.upper):
            raise InputError(
                "this captioner's text space is no masked language model; pass one of its vocabulary (masked_lm)"
            )
        return space.masked_logits, "the captioner's own BERT, its LM head as trained with the denoiser"
    from clearcap.captioner.towers import load_language_model

    masked_lm, tokenizer = load_language_model(str(source), "BertForMaskedLM")
    if tokenizer.get_vocab() != pipeline.tokenizer.get_vocab():
        raise InputError(f"{source} has another vocabulary than the captioner; pass the one it was made from")
    placed = masked_lm.to(pipeline.captioner.device)
    return lambda ids, mask: placed(input_ids=ids, attention_mask=mask).logits, str(source)


@torch.inference_mode()
def fill_masked(logits: Logits, pipeline: CaptionPipeline, templates: Sequence[Template]) -> list[Infilled]:
    """Fill templates of one placement each by a masked language model, every blank at once.

    Args:
        logits: of the model.
        pipeline: whose tokenizer and rules of reading blanks are used.
        templates: with blanks of a fixed number of words.
    """
    captioner = pipeline.captioner
    keep_period = make(TextConfig, captioner.config.text, "text").keep_period
    layouts = [
        layouts_of(template, pipeline.tokenizer, captioner.length, keep_period=keep_period)[0]
        for template in templates
    ]
    ids, mask, _ = layout_arrays(layouts, captioner.length, captioner.config.tokens["pad"])
    probabilities = logits(captioner.asarray(ids), captioner.asarray(mask)).float().softmax(-1)
    allowed = captioner.asarray(
        word_ids(pipeline.tokenizer, captioner.text.special_ids, probabilities.shape[-1])
    )
    return [
        read_infilled(template, layout, row, allowed, pipeline.tokenizer)
        for template, layout, row in zip(templates, layouts, probabilities, strict=True)
    ]


def _answer_all(
    at: Session, count: int, rows: Sequence[Hidden], answer: Callable[[list[Hidden]], Answers], tally: Tally
) -> list[Answers]:
    """The answers to each batch of photos, going on after those that are kept."""
    photos = sorted({one.photo for one in rows})
    batches = [
        [one for one in rows if one.photo in photos[start : start + at.batch_size]]
        for start in range(0, len(photos), at.batch_size)
    ]
    with at.journal(f"hidden{count}.jsonl", Answers, [len(batch) for batch in batches]) as journal:
        tally.add(sum(one.key for one in journal.done), f"{count} hidden")
        for place in journal.left:
            journal.append(answer(batches[place]))
            tally.add(len(batches[place]), f"{count} hidden")
    return journal.done


def _answer(
    at: Session, tokens: Float[Tensor, "photos tokens dim"], logits: Logits, seed: int, rows: list[Hidden]
) -> Answers:
    templates = [one.template() for one in rows]
    shown = sorted({one.photo for one in rows})
    photos = [shown.index(one.photo) for one in rows]
    fill = partial(infill_captions, at.pipeline.captioner, at.pipeline.tokenizer, templates=templates)
    fill = partial(fill, seed=seed, sampling=at.sampling)
    systems: dict[str, Callable[[], list[Infilled]]] = {
        PHOTO: partial(fill, tokens[shown], photos=photos),
        BLIND: partial(fill, None),
        MASKED: partial(fill_masked, logits, at.pipeline, templates),
    }
    filled: dict[str, list[Infilled]] = {}
    seconds: dict[str, float] = {}
    for name, work in systems.items():
        started = time.perf_counter()
        filled[name] = work()
        seconds[name] = time.perf_counter() - started
    return Answers(
        {name: tuple(one.words for one in several) for name, several in filled.items()},
        sum(row.keeps(one.text) for row, one in zip(rows, filled[PHOTO], strict=True)),
        seconds,
    )


def _filling(count: int, rows: Sequence[Hidden], counted: Counted, batches: Sequence[Answers]) -> Filling:
    answers = {name: tuple(words for one in batches for words in one.answers[name]) for name in SYSTEMS}
    ms = {name: float(np.median([1000 * one.seconds[name] / one.key for one in batches])) for name in SYSTEMS}
    return Filling(count, tuple(rows), counted, answers, sum(one.kept for one in batches), ms)


def _figures(
    right: Int[np.ndarray, "photos systems"], asked: Int[np.ndarray, " photos"], names: list[str], seed: int
) -> dict[str, Any]:
    """Accuracy of each system, the ratio of with to without the photo, and the lead over the masked LM."""
    if not asked.sum():
        return {"hidden": 0}
    shares = right.sum(0) / asked.sum()
    samples = resampled(right, asked, seed=seed)
    photo, blind, masked = (names.index(name) for name in SYSTEMS)
    ratio = samples[:, photo] / np.maximum(samples[:, blind], 1e-12)
    return {
        "hidden": int(asked.sum()),
        **{
            name: {"accuracy": float(shares[i]), "interval": _interval(samples[:, i])}
            for i, name in enumerate(names)
        },
        "photo_to_no_photo": {
            "ratio": float(shares[photo] / max(shares[blind], 1e-12)),
            "interval": _interval(ratio),
        },
        "photo_minus_masked_lm": {
            "difference": float(shares[photo] - shares[masked]),
            "interval": _interval(samples[:, photo] - samples[:, masked]),
        },
    }


def _interval(values: Float[np.ndarray, " samples"]) -> list[float]:
    return [float(end) for end in np.quantile(values, [0.025, 0.975])]
