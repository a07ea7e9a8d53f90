"""An evaluation as a page to look at: scores, distributions, photos with captions; one file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Float

from clearcap.data.records import Corpus
from clearcap.data.writing import write_text
from clearcap.errors import InputError
from clearcap.evaluation.charts import Point, Row, curve, forest, histogram
from clearcap.evaluation.confidence import bins_of, words_of
from clearcap.evaluation.contact_sheet import write_contact_sheet
from clearcap.evaluation.run import Evaluation
from clearcap.evaluation.training import plot_training
from clearcap.metrics.words import tokenizer_of, words_by

SHOWN = 12  # photos in each group
SIDE = 300  # pixels of a photo's longer side in the page
FEWEST = 5  # photos a point of a curve must stand for; rarer lengths join their neighbours


def write_report(
    found: Evaluation, corpus: Corpus, folder: str | Path, *, curves: str | Path | None = None
) -> list[Path]:
    """Write ``report.html`` and ``contact_sheet.png``, and ``training.png`` where there are training curves.

    Args:
        found: from `evaluate`.
        corpus: the photos it captioned.
        folder: made where missing.
        curves: ``curves.jsonl`` of the training run; ``samples.jsonl`` is read beside it.

    Returns:
        The files written.

    Raises:
        InputError: the folder cannot be written, a photo cannot be read, or the curves are damaged.
    """
    folder = Path(folder)
    page, sheet, training = folder / "report.html", folder / "contact_sheet.png", folder / "training.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(page, render(found, corpus))
        write_contact_sheet(found, corpus, sheet)
        if curves is not None:
            plot_training(Path(curves), training)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    return [page, sheet] if curves is None else [page, sheet, training]


def render(found: Evaluation, corpus: Corpus) -> str:
    """The page as text."""
    order = found.ranked()
    best, worst = order[:SHOWN], order[::-1][:SHOWN]
    chance = np.random.default_rng(int(found.manifest["seed"]))
    places = chance.choice(len(order), min(SHOWN, len(order)), replace=False)
    some = [order[place] for place in sorted(places)]
    manifest = found.manifest
    title = f"{manifest['corpus']} {manifest['split']}"
    sections = [
        _section("Scores", _forest_note(found), f'<div class="card wide">{forest(_rows(found))}</div>'),
        _section(
            "How scores are distributed",
            "One value for each photo. BLEU-4 is not smoothed: a caption without a matching four-word phrase has 0.",
            _row(
                histogram(_values(found, name), name=name, top=_top(_values(found, name)))
                for name in ("CIDEr-D", "BLEU-4", "ROUGE-L")
            ),
        ),
        _section(
            "What goes with a good caption",
            "Mean CIDEr-D with its 95% interval, and the number of photos each mean stands for.",
            _row(
                (
                    curve(by_length(found), x_title="words in the caption", y_title="CIDEr-D", whole_x=True),
                    curve(by_confidence(found), x_title="the model's confidence", y_title="CIDEr-D"),
                )
            ),
        ),
        *([] if found.trust is None else [_reliability(found)]),
        _section("Best photos", "Highest CIDEr-D.", _photos(found, corpus, best)),
        _section("Worst photos", "Lowest CIDEr-D.", _photos(found, corpus, worst)),
        _section("Photos at random", "Chosen with the seed of the evaluation.", _photos(found, corpus, some)),
        _section("How it was made", "The same manifest and seed give the same figures.", _manifest(found)),
    ]
    page = Template(resources.files("clearcap.evaluation").joinpath("report.html").read_text("utf-8"))
    return page.substitute(
        title=escape(title), summary=escape(_summary(found)), tiles=_tiles(found), body="\n".join(sections)
    )


def _reliability(found: Evaluation) -> str:
    drawn = curve(by_reliability(found), x_title="confidence of a word", y_title="share that is right")
    worth = found.trust
    note = (
        "A word is right if a reference of its photo has it. Where confidence means what it says, the curve is the "
        "diagonal. "
        f"Calibration error {worth.calibration_error:.3f}; rank correlation of the captions' confidence with CIDEr-D "
        f"{worth.rank_correlation:.2f}."
        if worth
        else ""
    )
    return _section("What confidence is worth", note, _row([drawn]))


def by_reliability(found: Evaluation) -> list[Point]:
    """The share of right words among those of each tenth of confidence."""
    tokenizer = tokenizer_of(found.manifest["metrics"], "the evaluation")
    sure, right = words_of(found.captions, found.references, tokenizer)
    return _points(sure, right, bins_of(sure), "confidence {}", ".2f")


def by_length(found: Evaluation) -> list[Point]:
    """Mean CIDEr-D of the captions of each length in words; rare lengths joined with their neighbours."""
    words = words_by(tokenizer_of(found.manifest["metrics"], "the manifest"))
    lengths = np.array([len(said) for said in words([one.caption for one in found.captions])])
    return _points(lengths.astype(float), _values(found, "CIDEr-D"), _joined(lengths), "{} words", "g")


def by_confidence(found: Evaluation, groups: int = 10) -> list[Point]:
    """Mean CIDEr-D of tenths of the captions, from the least to the most confident."""
    confidence = np.array([one.confidence for one in found.captions])
    order = np.argsort(confidence, kind="stable")
    group = np.empty(len(order), int)
    group[order] = np.arange(len(order)) * min(groups, len(order)) // len(order)
    return _points(confidence, _values(found, "CIDEr-D"), group, "confidence {}", ".2f")


def _joined(lengths: np.ndarray) -> np.ndarray:
    """The group of each caption: its length, joined to the next one while a group is too small."""
    names: dict[int, int] = {}
    group = waiting = 0
    kinds, counts = np.unique(lengths, return_counts=True)
    for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        names[kind] = group
        waiting += count
        if waiting >= FEWEST:
            group, waiting = group + 1, 0
    if waiting and group:  # the longest are too few: they join the group before them
        names = {kind: min(name, group - 1) for kind, name in names.items()}
    return np.array([names[int(length)] for length in lengths])


def _points(
    x: Float[np.ndarray, " photos"], y: Float[np.ndarray, " photos"], group: np.ndarray, label: str, form: str
) -> list[Point]:
    """The mean of y in each group, labelled with the range of x in this form."""
    points = []
    for name in np.unique(group):
        held = group == name
        low, high = float(x[held].min()), float(x[held].max())
        mean, photos = float(y[held].mean()), int(held.sum())
        spread = 1.96 * float(y[held].std(ddof=1)) / photos**0.5 if photos > 1 else 0.0
        range_ = f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"
        center = float(x[held].mean())
        points.append(Point(center, label.format(range_), mean, mean - spread, mean + spread, photos))
    return points


def _values(found: Evaluation, name: str) -> Float[np.ndarray, " photos"]:
    column = found.scored.scores.per_caption[name]
    return np.array([column[one.photo] for one in found.captions])


def _top(values: Float[np.ndarray, " photos"]) -> float:
    """Where an axis of scores ends, so that one perfect caption does not squeeze the rest."""
    return max(float(np.quantile(values, 0.99)), float(values.max()) / 2, 0.1)


def _rows(found: Evaluation) -> list[Row]:
    control = found.shuffled or {}
    intervals = found.scored.intervals
    return [
        Row(name, value, *intervals[name], control.get(name))
        for name, value in found.scored.scores.corpus.items()
        if name in intervals
    ]


def _forest_note(found: Evaluation) -> str:
    note = "Corpus scores; bars are 95% bootstrap intervals over photos."
    if found.shuffled is not None:
        note += " Hollow circles: the same captions scored against other photos' references."
    return note


def _tiles(found: Evaluation) -> str:
    scores, intervals, said = found.scored.scores.corpus, found.scored.intervals, found.scored.diversity
    tiles = [
        (name, f"{scores[name]:.3f}", f"{intervals[name][0]:.3f} to {intervals[name][1]:.3f}")
        for name in ("CIDEr-D", "BLEU-4", "ROUGE-L")
    ]
    of_all, length = f"{said['distinct']:,} of {len(found.captions):,}", said["length"]
    tiles += [
        ("Distinct captions", f"{said['distinct_share']:.0%}", of_all),
        ("Vocabulary", f"{said['vocabulary']:,}", "different words"),
        ("Words a caption", f"{length['mean']:.1f}", f"{length['shortest']} to {length['longest']}"),
    ]
    return "".join(
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="figure">{escape(figure)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for name, figure, note in tiles
    )


def _summary(found: Evaluation) -> str:
    m = found.manifest
    how = f"{m['steps']} steps, guidance {m['guidance']:g}, seed {m['seed']}"
    if m["candidates"] > 1:
        how += f", best of {m['candidates']} candidates by {m['select']}"
    photos = f"{m['photos']:,} photos with {m['references']:,} references"
    return f"{photos}. Model {m['model']} ({m['model_sha256'][:12]}): {how}."


def _section(title: str, note: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="lead">{escape(note)}</p>{content}</section>'


def _row(charts: Any) -> str:
    return '<div class="charts">' + "".join(f'<div class="card">{chart}</div>' for chart in charts) + "</div>"


def _photos(found: Evaluation, corpus: Corpus, photos: Sequence[str]) -> str:
    captions = {one.photo: one for one in found.captions}
    cards = []
    for photo in photos:
        one, cider = captions[photo], found.scored.scores.per_caption["CIDEr-D"][photo]
        references = "".join(f"<li>{escape(text)}</li>" for text in found.references[photo])
        cards.append(
            f'<figure><img src="{photo_data(corpus, photo)}" alt="{escape(photo)}" title="{escape(photo)}">'
            f'<figcaption><p class="caption">{escape(one.caption) or "(no word)"}</p>'
            f'<p class="chips"><span>CIDEr-D {cider:.2f}</span><span>confidence {one.confidence:.2f}</span></p>'
            f"<ul>{references}</ul></figcaption></figure>"
        )
    return f'<div class="photos">{"".join(cards)}</div>'


def photo_data(corpus: Corpus, photo: str) -> str:
    """A photo of the corpus as a small JPEG in a data address. Raises InputError."""
    image = corpus[photo].image.open(at_least=SIDE)
    image.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _manifest(found: Evaluation) -> str:
    rows: list[tuple[str, str]] = []
    for key, value in found.manifest.items():
        if isinstance(value, dict):
            rows += [(f"{key}: {name}", str(held)) for name, held in value.items()]
        else:
            rows.append((key, str(value)))
    rows.append(("seconds spent captioning", f"{found.seconds:.1f}"))
    exact = [(name, repr(value)) for name, value in found.scored.scores.corpus.items()]
    exact += [(f"{name}, other photos", repr(value)) for name, value in (found.shuffled or {}).items()]
    cells = "".join(
        f'<tr><th scope="row">{escape(key.replace("_", " "))}</th><td>{escape(value)}</td></tr>'
        for key, value in [*exact, *rows]
    )
    summary = "<summary>Exact scores and manifest</summary>"
    return f'<details class="card">{summary}<table>{cells}</table></details>'
