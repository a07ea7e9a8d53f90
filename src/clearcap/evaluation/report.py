"""An evaluation as a page to look at: scores, distributions, photos with captions; one file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from clearcap.data.records import Corpus
from clearcap.errors import InputError
from clearcap.evaluation.charts import Point, Row, curve, forest, histogram
from clearcap.evaluation.run import Evaluation
from clearcap.metrics import tokenize

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
    from clearcap.evaluation.contact import draw_contact_sheet
    from clearcap.evaluation.training import draw_training

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page, sheet = folder / "report.html", folder / "contact_sheet.png"
        page.write_text(render(found, corpus), encoding="utf-8")
        draw_contact_sheet(found, corpus, sheet)
        written = [page, sheet]
        if curves is not None:
            draw_training(Path(curves), folder / "training.png")
            written.append(folder / "training.png")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    return written


def ranked(found: Evaluation) -> list[str]:
    """Photos by the CIDEr-D of their caption, best first; BLEU-4 and then the split's order settle ties."""
    cider, bleu = (found.scored.scores.per_caption[name] for name in ("CIDEr-D", "BLEU-4"))
    return sorted((one.photo for one in found.captions), key=lambda photo: (-cider[photo], -bleu[photo]))


def render(found: Evaluation, corpus: Corpus) -> str:
    """The page as text."""
    order = ranked(found)
    best, worst = order[:SHOWN], order[::-1][:SHOWN]
    draw = np.random.default_rng(int(found.manifest["seed"]))
    chance = [
        order[place] for place in sorted(draw.choice(len(order), min(SHOWN, len(order)), replace=False))
    ]
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
                    curve(mean_confidences(found), x_title="the model's confidence", y_title="CIDEr-D"),
                )
            ),
        ),
        _section("Best photos", "Highest CIDEr-D.", _photos(found, corpus, best)),
        _section("Worst photos", "Lowest CIDEr-D.", _photos(found, corpus, worst)),
        _section(
            "Photos at random", "Generated with the seed of the evaluation.", _photos(found, corpus, chance)
        ),
        _section("How it was made", "The same manifest and seed give the same figures.", _manifest(found)),
    ]
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        summary=escape(_summary(found)),
        tiles=_tiles(found),
        body="\n".join(sections),
    )


def by_length(found: Evaluation) -> list[Point]:
    """Mean CIDEr-D of the captions of each length in words; rare lengths joined with their neighbours."""
    lengths = np.array([len(words) for words in tokenize([one.caption for one in found.captions])])
    return _points(
        lengths.astype(float),
        _values(found, "CIDEr-D"),
        _joined(lengths),
        "{low:g} words",
        "{low:g} to {high:g} words",
    )


def mean_confidences(found: Evaluation, groups: int = 10) -> list[Point]:
    """Mean CIDEr-D of tenths of the captions, from the least to the most confident."""
    confidence = np.array([one.confidence for one in found.captions])
    order = np.argsort(confidence, kind="stable")
    group = np.empty(len(order), int)
    group[order] = np.arange(len(order)) * min(groups, len(order)) // len(order)
    return _points(
        confidence,
        _values(found, "CIDEr-D"),
        group,
        "confidence {low:.2f}",
        "confidence {low:.2f} to {high:.2f}",
    )


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
    x: Float[np.ndarray, " photos"], y: Float[np.ndarray, " photos"], group: np.ndarray, one: str, more: str
) -> list[Point]:
    points = []
    for name in np.unique(group):
        held = group == name
        low, high = float(x[held].min()), float(x[held].max())
        mean, photos = float(y[held].mean()), int(held.sum())
        spread = 1.96 * float(y[held].std(ddof=1)) / photos**0.5 if photos > 1 else 0.0
        label = (one if low == high else more).format(low=low, high=high)
        points.append(Point(float(x[held].mean()), label, mean, mean - spread, mean + spread, photos))
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
    tiles.append(
        (
            "Distinct captions",
            f"{said['distinct_share']:.0%}",
            f"{said['distinct']:,} of {len(found.captions):,}",
        )
    )
    tiles.append(("Vocabulary", f"{said['vocabulary']:,}", "different words"))
    length = said["length"]
    tiles.append(("Words a caption", f"{length['mean']:.1f}", f"{length['shortest']} to {length['longest']}"))
    return "".join(
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="figure">{escape(figure)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for name, figure, note in tiles
    )


def _summary(found: Evaluation) -> str:
    m = found.manifest
    drawn = f"{m['steps']} steps, guidance {m['guidance']:g}, seed {m['seed']}"
    if m["candidates"] > 1:
        drawn += f", best of {m['candidates']} candidates by {m['select']}"
    photos = f"{m['photos']:,} photos with {m['references']:,} references"
    return f"{photos}. Model {m['model']} ({m['model_sha256'][:12]}): {drawn}."


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


def photo_data(corpus: Corpus, photo: str, side: int = SIDE) -> str:
    """A photo of the corpus as a small JPEG in a data address. Raises InputError."""
    image = corpus[photo].image.open(at_least=side)
    image.thumbnail((side, side))
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
    return (
        f'<details class="card"><summary>Exact scores and manifest</summary><table>{cells}</table></details>'
    )


_STYLE = """
:root { color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --ink: #1a1a19; --soft: #5c5b57; --faint: #8b8a84; --edge: #e3e2dd;
  --series: #2a78d6; --wash: rgba(42, 120, 214, .16); --neutral: #b9b8b1; --mark: #b04a00; }
@media (prefers-color-scheme: dark) { :root {
  --page: #141413; --card: #1e1e1c; --ink: #f4f3ee; --soft: #bdbcb4; --faint: #8f8e87; --edge: #33322f;
  --series: #5a9bea; --wash: rgba(90, 155, 234, .22); --neutral: #605f59; --mark: #f0a35e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 20px; margin: 44px 0 2px; }
.lead { color: var(--soft); margin: 0 0 14px; }
header .lead { overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 22px; }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 14px 16px; }
.tile .name { color: var(--soft); font-size: 13px; }
.tile .figure { font-size: 28px; font-weight: 650; letter-spacing: -.02em; line-height: 1.25; }
.tile .note { color: var(--faint); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 12px; }
svg { display: block; width: 100%; height: auto; overflow: visible; font: 12px system-ui, sans-serif; }
.wide { overflow-x: auto; }
.wide svg { min-width: 640px; }
svg .grid { stroke: var(--edge); stroke-width: 1; }
svg .axis { stroke: var(--neutral); stroke-width: 1; }
svg .tick { fill: var(--faint); }
svg .title { fill: var(--soft); }
svg .label { fill: var(--ink); font-size: 14px; }
svg .value { fill: var(--ink); font-size: 13px; font-weight: 600; }
svg .bar { fill: var(--series); }
svg .count { fill: var(--neutral); }
svg .bar:hover, svg .count:hover { fill: var(--mark); }
svg .mean { stroke: var(--mark); stroke-width: 2; }
svg .band { fill: var(--wash); }
svg .line { fill: none; stroke: var(--series); stroke-width: 2; stroke-linejoin: round; }
svg .dot { fill: var(--series); stroke: var(--card); stroke-width: 1.5; }
svg .interval { stroke: var(--series); stroke-width: 3; stroke-linecap: round; }
svg .control { fill: var(--card); stroke: var(--faint); stroke-width: 2; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(225px, 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--edge); border-radius: 12px; overflow: hidden; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; background: var(--edge); }
figcaption { padding: 12px 14px 14px; }
.caption { margin: 0 0 8px; font-weight: 620; line-height: 1.35; }
.chips { margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 6px; }
.chips span { font-size: 12px; padding: 1px 8px; border-radius: 99px; background: var(--wash); }
figcaption ul { margin: 0; padding: 0; list-style: none; color: var(--soft); font-size: 13px; line-height: 1.4; }
figcaption li + li { margin-top: 4px; }
summary { cursor: pointer; font-weight: 600; }
table { border-collapse: collapse; margin-top: 12px; font-size: 13px; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 4px 16px 4px 0; border-top: 1px solid var(--edge); }
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media print { section { break-inside: avoid-page; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Captions of {title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>Captions of {title}</h1>
<p class="lead">{summary}</p>
<div class="tiles">{tiles}</div>
</header>
{body}
</main>
</body>
</html>
"""
