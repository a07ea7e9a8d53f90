"""A captioner's scores on a split: caption every photo, keep each caption as it comes, score them all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from clearcap import __version__
from clearcap.captioner.loading import local_folder, weight_files
from clearcap.captioner.onnx import GRAPHS, graph_file, is_exported
from clearcap.data.reading import as_kind, member, read_json
from clearcap.data.records import CaptionedPhoto, Corpus
from clearcap.errors import InputError
from clearcap.evaluation.files import (
    match,
    number,
    read_references,
    write_json,
    write_references,
    write_results,
)
from clearcap.evaluation.journal import Captioned, Journal, read_journal
from clearcap.evaluation.scores import METRICS, Scored, score_captions, shuffled_scores
from clearcap.pipeline import CaptionPipeline

_TAKEN_OVER = ("model",)  # the same weights under another path are the same model


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


def evaluate(
    model: str | Path | None,
    corpus: Corpus,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    shuffle: bool = False,
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
        progress: called with photos done and photos in all.
        how: fields of ``SamplingConfig`` that differ from the model's own.

    Raises:
        InputError: no such model, a photo that cannot be read, settings that do not exist, or a folder that holds
            another evaluation.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} leaves no photo to score; pass at least 1")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
    photos = list(corpus.photos[:limit])
    references = {photo.id: photo.captions for photo in photos}
    with computing_threads(begun_with(out)):
        pipeline = CaptionPipeline.from_pretrained(model)
        sampling = dataclasses.asdict(pipeline.sampling(**how))
        manifest = _manifest(model, pipeline, corpus, references, sampling, seed, batch_size)
        stopwatch = Stopwatch(None)
        if out is None:
            captions: list[Captioned] = []
            _caption(pipeline, photos, captions, captions.append, stopwatch, progress, batch_size, seed, how)
        else:
            manifest = claim(Path(out), manifest)
            stopwatch = Stopwatch(Path(out) / "timing.json")
            with Journal(Path(out) / "captions.jsonl", list(references), batch_size) as journal:
                captions = journal.done
                _caption(
                    pipeline, photos, captions, journal.append, stopwatch, progress, batch_size, seed, how
                )
    found = _assess(manifest, captions, references, seed, shuffle, stopwatch.seconds)
    if out is not None:
        _write(found, Path(out))
    return found


def load_evaluation(folder: str | Path) -> Evaluation:
    """A finished evaluation from its folder.

    Raises:
        InputError: the folder holds none, or an unfinished one.
    """
    folder = Path(folder)
    content = read_json(folder / "evaluation.json", "name the folder of a finished clearcap evaluate --out")
    manifest = member(content, "manifest", dict, str(folder / "evaluation.json"))
    captions = read_journal(folder / "captions.jsonl")
    references = {photo: tuple(texts) for photo, texts in read_references(folder / "references.json").items()}
    match(
        {one.photo: one.caption for one in captions},
        references,
        names=(f"{folder}/captions.jsonl", "its split"),
    )
    seconds = Stopwatch(folder / "timing.json").seconds
    found = _assess(manifest, captions, references, int(manifest["seed"]), False, seconds)
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
            write_json({"seconds": self.seconds, "photos": photos, "photos_per_second": rate}, self.path)


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Compute with so many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def begun_with(out: str | Path | None) -> int:
    """Threads of the run that began in this folder, on which the last digits depend; without one, as they are."""
    path = Path(out) / "manifest.json" if out is not None else None
    if path is None or not path.is_file():
        return torch.get_num_threads()
    return int(
        number(as_kind(read_json(path, "choose another folder"), dict, str(path)), "threads", str(path))
    )


def claim(out: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Make the folder of this evaluation, or find that it is the folder of this one already.

    Returns:
        The manifest to go by: the one in the folder, where there is one.

    Raises:
        InputError: it holds another evaluation, or files of something else.
    """
    path = out / "manifest.json"
    if path.is_file():
        held = read_json(path, "choose another folder")
        for key in [*manifest, *held]:
            if key not in _TAKEN_OVER and held.get(key) != manifest.get(key):
                was, now = _difference(held.get(key), manifest.get(key))
                raise InputError(
                    f"{out} holds an evaluation with {key} {was}, not {now}; choose another folder or delete it"
                )
        return {**manifest, **{key: held[key] for key in _TAKEN_OVER if key in held}}
    if (out / "captions.jsonl").exists():
        raise InputError(f"{out} holds captions.jsonl without manifest.json; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(manifest, path)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder") from error
    return manifest


def _difference(held: Any, wanted: Any) -> tuple[str, str]:
    if isinstance(held, dict) and isinstance(wanted, dict):
        keys = [key for key in {**held, **wanted} if held.get(key) != wanted.get(key)]
        held, wanted = ({key: side.get(key) for key in keys} for side in (held, wanted))
    return json.dumps(held), json.dumps(wanted)


def _caption(
    pipeline: CaptionPipeline,
    photos: Sequence[CaptionedPhoto],
    done: list[Captioned],
    keep: Callable[[Captioned], None],
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
    batch_size: int,
    seed: int,
    how: dict[str, Any],
) -> None:
    """Caption the photos after those that are done."""
    left = photos[len(done) :]
    progress(len(done), len(photos))
    results = pipeline.stream((photo.image for photo in left), batch_size=batch_size, seed=seed, **how)
    for photo, result in zip(left, results, strict=True):
        if isinstance(result, InputError):
            raise InputError(f"photo {photo.id}: {result}") from result
        several = len(result.candidates) > 1
        keep(Captioned(photo.id, result.caption, result.confidence, result.candidates if several else ()))
        if len(done) % batch_size == 0 or len(done) == len(photos):
            stopwatch.lap(len(done))
        progress(len(done), len(photos))


def _assess(
    manifest: dict[str, Any],
    captions: Sequence[Captioned],
    references: dict[str, tuple[str, ...]],
    seed: int,
    shuffle: bool,
    seconds: float,
) -> Evaluation:
    candidates = {one.photo: one.caption for one in captions}
    match(candidates, references, names=("the captions", "the split"))  # every photo was scored
    scored = score_captions(
        candidates,
        references,
        drawn={one.photo: one.candidates for one in captions if one.candidates},
        seed=seed,
    )
    shuffled = shuffled_scores(candidates, references, seed=seed) if shuffle else None
    return Evaluation(manifest, tuple(captions), references, scored, shuffled, seconds)


def _write(found: Evaluation, out: Path) -> None:
    write_results({one.photo: one.caption for one in found.captions}, out / "results.json")
    write_references(found.references, out / "references.json")
    write_json(found.to_json(), out / "evaluation.json")


def _manifest(
    model: str | Path | None,
    pipeline: CaptionPipeline,
    corpus: Corpus,
    references: dict[str, tuple[str, ...]],
    sampling: dict[str, Any],
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    return {
        **subject(model, corpus, references),
        "steps": sampling.pop("steps"),
        "guidance": sampling.pop("guidance"),
        "candidates": sampling.pop("candidates"),
        "select": sampling.pop("select"),
        "seed": seed,
        "sampling": sampling,
        "batch_size": batch_size,
        "metrics": METRICS,
        **surroundings(pipeline),
    }


def subject(
    model: str | Path | None, corpus: Corpus, references: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    """What a manifest says of the model and the photos."""
    texts = json.dumps([[photo, list(captions)] for photo, captions in references.items()])
    return {
        "model": str(model or "default"),
        "model_sha256": weights_digest(model),
        "corpus": corpus.name,
        "split": corpus.split,
        "photos": len(references),
        "references": sum(len(captions) for captions in references.values()),
        "references_sha256": hashlib.sha256(texts.encode()).hexdigest(),
    }


def surroundings(pipeline: CaptionPipeline) -> dict[str, Any]:
    """What a manifest says of where it ran."""
    return {
        "device": pipeline.captioner.device.type,
        "threads": torch.get_num_threads(),
        "versions": {
            "clearcap": __version__,
            **{name: version(name) for name in ("torch", "transformers", "pillow", "numpy")},
        },
    }


def weights_digest(model: str | Path | None) -> str:
    """SHA-256 of a model's model.safetensors, as sha256sum prints it, or of its graphs one after another.

    Raises:
        InputError: the model has neither.
    """
    folder = local_folder(str(model or "default"))
    file = folder / "model.safetensors"
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        file = Path(str(try_to_load_from_cache(str(model), "model.safetensors")))
    if is_exported(folder):
        files = [graph_file(folder, graph) for graph in GRAPHS]
    else:
        files = weight_files(folder) if folder.is_dir() else [file]
    try:
        return hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); fetch the model again") from error
