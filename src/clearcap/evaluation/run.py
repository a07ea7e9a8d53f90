"""A captioner's scores on a split: caption every photo, keep each caption as it comes, score them all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearcap.data.reading import as_kind, member, read_json
from clearcap.data.records import Corpus
from clearcap.data.writing import write_json
from clearcap.errors import InputError
from clearcap.evaluation.files import (
    match,
    number,
    read_references,
    write_references,
    write_results,
)
from clearcap.evaluation.journal import Captioned, Journal, read_journal
from clearcap.evaluation.scores import Scored, conventions, metrics_of, score_captions, shuffled_scores
from clearcap.evaluation.session import Session
from clearcap.metrics.scoring import NAMES
from clearcap.pipeline.memory import Memory


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        manifest: what was evaluated and how; with it and the seed, the same figures come out.
        captions: one of each photo, in the order of the split.
        references: photo -> references.
        scored: the figures.
        shuffled: scores of the captions against other photos' references, where asked for.
        seconds: spent captioning, interrupted runs included.
    """

    manifest: dict[str, Any]
    captions: tuple[Captioned, ...]
    references: dict[str, tuple[str, ...]]
    scored: Scored
    shuffled: dict[str, float] | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Scores, unrounded, then their intervals, the captions' diversity and the manifest; no wall time."""
        found: dict[str, Any] = {**self.scored.scores.corpus, "intervals": self.scored.intervals}
        found |= {"captions": self.scored.diversity, "manifest": self.manifest}
        return found if self.shuffled is None else {**found, "shuffled": self.shuffled}

    def ranked(self) -> list[str]:
        """Photos by the CIDEr-D of their caption, best first; BLEU-4 and then the split's order settle ties."""
        cider, bleu = (self.scored.scores.per_caption[name] for name in ("CIDEr-D", "BLEU-4"))
        return sorted((one.photo for one in self.captions), key=lambda photo: (-cider[photo], -bleu[photo]))


def evaluate(
    model: str | Path | None,
    corpus: Corpus,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    shuffle: bool = False,
    metrics: Sequence[str] = (),
    clip: str | Path | None = None,
    memory: Memory | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **how: Any,
) -> Evaluation:
    """Caption every photo of a split and score the captions.

    With ``out``, captions are kept in ``out/captions.jsonl`` as they come and an interrupted evaluation goes on
    where it stopped, to the same files, byte for byte, as one never interrupted. At the end ``out`` also holds
    ``results.json`` and ``references.json`` (COCO formats), ``evaluation.json`` (scores and manifest) and
    ``timing.json`` (apart, because it is never the same twice).

    Args:
        model: folder or hub name; None or "default" is the bundled model.
        corpus: the split, from ``open_corpus``.
        out: folder for the files; none are written by default.
        limit: only the first photos of the split.
        batch_size: photos at once.
        seed: same seed, same captions.
        shuffle: also score the captions against other photos' references.
        metrics: names of metrics in the registry to score by besides BLEU, ROUGE-L and CIDEr-D.
        clip: folder or hub name of a CLIP or scorer that candidates may be chosen by.
        memory: captioned photos that help; with ``select="neighbours"`` they alone are the baseline.
        progress: called with photos done and photos in all.
        how: fields of ``SamplingConfig`` that differ from the model's own.

    Raises:
        InputError: no such model, a photo that cannot be read, settings that do not exist, or a folder that holds
            another evaluation.
    """
    names = tuple(dict.fromkeys([*NAMES, *metrics]))
    described = conventions(names)
    with Session(
        model, corpus, out=out, limit=limit, batch_size=batch_size, how=how, clip=clip, memory=memory
    ) as at:
        sampling = dataclasses.asdict(at.sampling)
        chief = {name: sampling.pop(name) for name in ("steps", "guidance", "candidates", "select")}
        aids = {"clip": None if clip is None else str(clip), "memory": memory and memory.described()}
        aids["function_words"] = " ".join(sorted(at.pipeline.captioner.function_words))
        chief |= {name: aid for name, aid in aids.items() if aid}
        manifest = at.claim(**chief, seed=seed, sampling=sampling, batch_size=batch_size, metrics=described)
        stopwatch = Stopwatch(at.file("timing.json"))
        with at.journal("captions.jsonl", Captioned, list(at.references), batch_size) as journal:
            _caption(at, journal, stopwatch, progress, seed, how)
        found = _assess(manifest, journal.done, at.references, seed, names, shuffle, stopwatch.seconds)
    if out is not None:
        write_results({one.photo: one.caption for one in found.captions}, Path(out) / "results.json")
        write_references(found.references, Path(out) / "references.json")
        write_json(Path(out) / "evaluation.json", found.to_json())
    return found


def load_evaluation(folder: str | Path) -> Evaluation:
    """A finished evaluation from its folder.

    Raises:
        InputError: the folder holds none, or an unfinished one.
    """
    folder = Path(folder)
    content = read_json(folder / "evaluation.json", "name the folder of a finished clearcap evaluate --out")
    manifest = member(content, "manifest", dict, str(folder / "evaluation.json"))
    captions = read_journal(folder / "captions.jsonl", Captioned)
    references = {photo: tuple(texts) for photo, texts in read_references(folder / "references.json").items()}
    match(
        {one.photo: one.caption for one in captions},
        references,
        names=(f"{folder}/captions.jsonl", "its split"),
    )
    seconds = Stopwatch(folder / "timing.json").seconds
    where = str(folder / "evaluation.json")
    names = metrics_of(member(manifest, "metrics", dict, where))
    found = _assess(
        manifest, captions, references, member(manifest, "seed", int, where), names, False, seconds
    )
    return dataclasses.replace(found, shuffled=content.get("shuffled"))


class Stopwatch:
    """Seconds spent over all runs of an evaluation, in a file where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.seconds = 0.0
        if path is not None and path.is_file():
            self.seconds = number(as_kind(read_json(path), dict, str(path)), "seconds", str(path))
        self._started = time.perf_counter()

    def lap(self, photos: int) -> None:
        """Add the time since the last lap; note how many photos are done."""
        now = time.perf_counter()
        self.seconds, self._started = self.seconds + now - self._started, now
        if self.path is not None:
            rate = photos / self.seconds if self.seconds else 0.0
            write_json(self.path, {"seconds": self.seconds, "photos": photos, "photos_per_second": rate})


def _caption(
    at: Session,
    journal: Journal[Captioned],
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
    seed: int,
    how: dict[str, Any],
) -> None:
    """Caption the photos after those that are done."""
    left, total = at.photos[len(journal.done) :], len(at.photos)
    progress(len(journal.done), total)
    images = (photo.image for photo in left)
    results = at.pipeline.stream(images, batch_size=at.batch_size, seed=seed, **how)
    for photo, result in zip(left, results, strict=True):
        if isinstance(result, InputError):
            raise InputError(f"photo {photo.id}: {result}") from result
        several = result.candidates if len(result.candidates) > 1 else ()
        journal.append(Captioned(photo.id, result.caption, result.confidence, several))
        done = len(journal.done)
        if done % at.batch_size == 0 or done == total:
            stopwatch.lap(done)
        progress(done, total)


def _assess(
    manifest: dict[str, Any],
    captions: Sequence[Captioned],
    references: dict[str, tuple[str, ...]],
    seed: int,
    names: Sequence[str],
    shuffle: bool,
    seconds: float,
) -> Evaluation:
    chosen = {one.photo: one.caption for one in captions}
    match(chosen, references, names=("the captions", "the split"))  # every photo was scored
    scored = score_captions(
        chosen,
        references,
        candidates={one.photo: one.candidates for one in captions if one.candidates},
        metrics=names,
        function_words=manifest.get("function_words", "").split(),
        seed=seed,
    )
    shuffled = shuffled_scores(chosen, references, seed=seed) if shuffle else None
    return Evaluation(manifest, tuple(captions), references, scored, shuffled, seconds)
