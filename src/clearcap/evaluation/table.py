"""Sampling settings side by side on one split: scores, time, and a paired test of each against plain sampling."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearcap.config import SamplingConfig
from clearcap.data.records import Corpus
from clearcap.data.writing import whole_file
from clearcap.errors import InputError
from clearcap.evaluation.samples import Batch, calls_of, captions_of, median_ms, sample_all
from clearcap.evaluation.scores import Scored, conventions, score_captions
from clearcap.evaluation.session import Progress, Session, Tally
from clearcap.metrics.scoring import NAMES
from clearcap.metrics.significance import Comparison, compare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORED = ("BLEU", "CIDEr-D")
SHOWN = ("BLEU-4", "CIDEr-D")
PLAIN = "plain"
_VARIED = ("steps", "refine", "refine_time", "refine_share", "refine_threshold", "refine_level")
_CHOOSING = ("candidates", "select", "utility")
_ENCODING = 4  # about as long as so many calls of the denoiser; for the progress bar only


@dataclass(frozen=True)
class Method:
    """One line of the table: a name, and how its captions are sampled and chosen."""

    name: str
    sampling: SamplingConfig


@dataclass(frozen=True)
class Row:
    """A method's figures.

    Attributes:
        method: name and sampling.
        scored: BLEU and CIDEr-D with intervals, distinct captions.
        ms: milliseconds a photo, its encoding and the choice among candidates included.
        against_plain: metric -> paired comparison with plain sampling of as many steps; None for plain itself.
    """

    method: Method
    scored: Scored
    ms: float
    against_plain: dict[str, Comparison] | None

    def to_json(self) -> dict[str, Any]:
        """The row's figures, unrounded."""
        scores, tested = self.scored.scores.corpus, self.against_plain or {}
        return {
            "method": self.method.name,
            "steps": self.method.sampling.steps,
            "sampling": dataclasses.asdict(self.method.sampling),
            **{name: scores[name] for name in SHOWN},
            "intervals": {name: self.scored.intervals[name] for name in SHOWN},
            "captions": self.scored.diversity,
            "ms_per_photo": self.ms,
            "against_plain": {name: tested[name].to_json() for name in SHOWN if name in tested},
        }


@dataclass(frozen=True)
class MethodTable:
    """What `steps_table` and `refine_sweep` return.

    Attributes:
        manifest: what was sampled and how; with it and the seed, the same captions come out.
        rows: the methods, in the order asked for.
        encode_ms: milliseconds that encoding a photo took, once for the whole table.
        compared: captions sampled both alone and as the first of several candidates.
        differing: how many of those were not the same caption.
    """

    manifest: dict[str, Any]
    rows: tuple[Row, ...]
    encode_ms: float
    compared: int
    differing: int

    def to_json(self) -> dict[str, Any]:
        """Manifest and rows."""
        return {
            "manifest": self.manifest,
            "encode_ms_per_photo": self.encode_ms,
            "first_candidates": {"compared": self.compared, "differing": self.differing},
            "rows": [row.to_json() for row in self.rows],
        }


def steps_table(
    model: str | Path | None,
    corpus: Corpus,
    *,
    steps: Sequence[int] = (1, 2, 5, 10, 30),
    candidates: int = 10,
    out: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress = lambda done, total, what: None,
    **how: Any,
) -> MethodTable:
    """Each number of steps plain, with Back&Refine, with minimum Bayes risk, and with both.

    Photos are encoded once, and candidates sampled once for each number of steps with and without Back&Refine.
    With ``out``, every batch is kept there and an interrupted table goes on where it stopped.

    Args:
        model, corpus, limit, batch_size, seed: as for ``evaluate``.
        steps: numbers of steps.
        candidates: captions that minimum Bayes risk chooses among; 1 leaves it out.
        out: folder for the sampled captions, ``table.json`` and ``table.png``.
        progress: sees what is done; a unit of work is one call of the denoiser for one caption.
        how: fields of ``SamplingConfig`` that differ from the model's own; ``refine_time`` and the like are
            Back&Refine's.

    Raises:
        InputError: no such model or setting, a photo that cannot be read, or a folder of another table.
    """
    _check(steps)
    with Session(model, corpus, out=out, limit=limit, batch_size=batch_size, how=how) as at:
        base = at.sampling
        methods = []
        for count in steps:
            plain = dataclasses.replace(base, steps=count, refine=0, candidates=1)
            refined = dataclasses.replace(plain, refine=max(1, base.refine))
            methods += [Method(PLAIN, plain), Method("Back&Refine", refined)]
            if candidates > 1:
                methods += [
                    Method(name, dataclasses.replace(one, candidates=candidates))
                    for name, one in ((f"{base.select.upper()} of {candidates}", plain), ("both", refined))
                ]
        return _table(at, methods, "table", seed, progress)


def refine_sweep(
    model: str | Path | None,
    corpus: Corpus,
    *,
    steps: Sequence[int] = (),
    times: Sequence[float] = (0.2, 0.5, 0.8),
    shares: Sequence[float] = (0.2, 0.5, 0.8),
    thresholds: Sequence[float] = (0.5, 0.9),
    levels: Sequence[float] = (0.0,),
    out: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress = lambda done, total, what: None,
    **how: Any,
) -> MethodTable:
    """Back&Refine's parameters on a grid, as in LaDiC's table 4, each against plain sampling.

    Args:
        model, corpus, out, limit, batch_size, seed, progress, how: as for ``steps_table``; the files are
            ``sweep.json`` and ``sweep.png``.
        steps: numbers of steps; none is the model's own.
        times: noise levels, as shares of T, at which it goes back.
        shares: shares of the positions that it keeps (the paper's l is what it drops, 1 minus this).
        thresholds: probabilities to keep positions by, instead of shares.
        levels: noise levels, as shares of T, that kept words restart from.

    Raises:
        InputError: as ``steps_table``.
    """
    _check(steps)
    kept: list[dict[str, Any]] = [{"refine_share": share} for share in shares]
    kept += [{"refine_threshold": p} for p in thresholds]
    with Session(model, corpus, out=out, limit=limit, batch_size=batch_size, how=how) as at:
        base = at.sampling
        methods = []
        for count in steps or [base.steps]:
            plain = dataclasses.replace(base, steps=count, refine=0, candidates=1, refine_threshold=0.0)
            methods.append(Method(PLAIN, plain))
            for time_, keep, level in itertools.product(times, kept, levels):
                sampling = dataclasses.replace(
                    plain, refine=max(1, base.refine), refine_time=time_, refine_level=level, **keep
                )
                methods.append(Method(describe_back(sampling), sampling))
        return _table(at, methods, "sweep", seed, progress)


def describe_back(sampling: SamplingConfig) -> str:
    """Back&Refine's parameters in a few words: ``t=0.5T keep 0.5L``."""
    threshold, share = sampling.refine_threshold, sampling.refine_share
    kept = f"p>={threshold:g}" if threshold else f"{share:g}L"
    level = f" at {sampling.refine_level:g}T" if sampling.refine_level else ""
    return f"t={sampling.refine_time:g}T keep {kept}{level}"


def plot_table(found: MethodTable) -> Figure:
    """CIDEr-D against milliseconds a photo: a line a method through its numbers of steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    lined = len({row.method.sampling.steps for row in found.rows}) > 1
    for name in dict.fromkeys(row.method.name for row in found.rows):
        rows = [row for row in found.rows if row.method.name == name]
        x = [row.ms for row in rows]
        y = [row.scored.scores.corpus["CIDEr-D"] for row in rows]
        low = [v - row.scored.intervals["CIDEr-D"][0] for v, row in zip(y, rows, strict=True)]
        high = [row.scored.intervals["CIDEr-D"][1] - v for v, row in zip(y, rows, strict=True)]
        axes.errorbar(
            x, y, yerr=(low, high), marker="o", markersize=4, linewidth=1.4, elinewidth=0.6, label=name
        )
        for row, a, b in zip(rows, x, y, strict=True):
            label = str(row.method.sampling.steps) if lined else name
            axes.annotate(label, (a, b), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", xlabel="milliseconds a photo", ylabel="CIDEr-D")
    axes.set_title(
        f"{found.manifest['corpus']} {found.manifest['split']}, {found.manifest['photos']:,} photos"
        + (", by steps" if lined else ""),
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if lined:
        axes.legend(frameon=False, fontsize=8)
    return figure


def _check(steps: Sequence[int]) -> None:
    if len(set(steps)) != len(steps):
        raise InputError(f"steps {', '.join(map(str, steps))} name one number twice; name each once")


def _table(at: Session, methods: Sequence[Method], name: str, seed: int, progress: Progress) -> MethodTable:
    """Sample what the methods need, score each, and write the files."""
    base = dataclasses.asdict(at.sampling)
    manifest = at.claim(
        sampling={key: value for key, value in base.items() if key not in _VARIED + _CHOOSING},
        seed=seed,
        batch_size=at.batch_size,
        metrics=conventions(NAMES),
    )
    needed: dict[str, SamplingConfig] = {}  # methods that only choose differently share the samples of one
    for sampling in (method.sampling for method in methods):
        setting = needed.get(_setting(sampling), sampling)
        needed[_setting(sampling)] = max(setting, sampling, key=lambda one: one.candidates)
    levels = at.pipeline.captioner.objective.steps
    captions = {key: 1 if one.candidates == 1 else 1 + one.candidates for key, one in needed.items()}
    work = {key: calls_of(one, levels) * captions[key] for key, one in needed.items()}
    tally = Tally(progress, len(at.photos) * (_ENCODING + sum(work.values())))
    tokens, encode_ms = at.tokens(lambda n: tally.add(n * _ENCODING, "encoding photos"))
    sampled = {
        key: sample_all(
            at,
            tokens,
            sampling,
            f"{key}-x{sampling.candidates}.jsonl",
            seed=seed,
            kept_lengths=at.kept_lengths,
            progress=lambda n, key=key: tally.add(n * work[key], key),  # type: ignore[misc]
        )
        for key, sampling in needed.items()
    }
    rows = _rows(at, methods, sampled, encode_ms, seed)
    pairs = [
        (alone, candidates[0])
        for batches in sampled.values()
        for batch in batches
        if batch.candidates
        for alone, candidates in zip(batch.alone, batch.candidates, strict=True)
    ]
    found = MethodTable(manifest, rows, encode_ms, len(pairs), sum(a != b for a, b in pairs))
    at.save(found.to_json(), f"{name}.json")
    if (picture := at.file(f"{name}.png")) is not None:
        with whole_file(picture) as fresh:
            plot_table(found).savefig(fresh, dpi=150)
    return found


def _setting(sampling: SamplingConfig) -> str:
    """What names the samples of a setting; how many there are, and which is chosen, is not part of it."""
    if not sampling.refine:
        return f"steps{sampling.steps}"
    threshold, share = sampling.refine_threshold, sampling.refine_share
    return (
        f"steps{sampling.steps}-refine{sampling.refine}-t{sampling.refine_time:g}"
        f"{f'-p{threshold:g}' if threshold else f'-share{share:g}'}-level{sampling.refine_level:g}"
    )


def _rows(
    at: Session, methods: Sequence[Method], sampled: dict[str, list[Batch]], encode_ms: float, seed: int
) -> tuple[Row, ...]:
    rows: list[Row] = []
    plain: dict[int, Scored] = {}
    for method in methods:
        batches = sampled[_setting(method.sampling)]
        together = method.sampling.candidates > 1
        started = time.perf_counter()
        captions = dict(
            pair for batch in batches for pair in captions_of(at.pipeline, batch, method.sampling)
        )
        choice_ms = 1000 * (time.perf_counter() - started) / len(captions)
        scored = score_captions(captions, at.references, metrics=SCORED, seed=seed)
        steps = method.sampling.steps
        tested = compare(scored.scores, plain[steps].scores, seed=seed) if steps in plain else None
        if method.name == PLAIN:
            plain[steps] = scored
        rows.append(Row(method, scored, encode_ms + median_ms(batches, together) + choice_ms, tested))
    return tuple(rows)
