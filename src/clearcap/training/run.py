"""From a preset to a trained captioner on disk: corpus, feature cache, statistics, fit, samples."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clearcap.assemble import assemble, continued, settle_text, tokenize_for
from clearcap.captioner import Captioner
from clearcap.checkpoint import reached_step
from clearcap.config import DataConfig, Preset, SamplingConfig
from clearcap.data.corpus import CaptionedPhoto, Corpus, open_corpus
from clearcap.data.features import Features, make_features, open_features
from clearcap.data.reading import member, read_jsonl
from clearcap.data.records import Expected
from clearcap.errors import InputError
from clearcap.loading import CURVES, FREQUENCY, SAMPLES
from clearcap.metrics import DocumentFrequency, score
from clearcap.text.tokens import join_words, words_of
from clearcap.training.borrowing import borrow
from clearcap.training.captions import fit_captions, prepare_examples
from clearcap.training.fit import StepReport, make_accelerator


def train(preset: Preset, out: Path, console: Console | None = None) -> Captioner:
    """Train a captioner, or go on where a killed run stopped.

    Writes ``out/checkpoint`` (to resume), ``out/curves.jsonl``, ``out/samples.jsonl`` and, at every evaluation
    and at the end, ``out/model`` (averaged weights, loadable with ``CaptionPipeline.from_pretrained``).

    Args:
        preset: all settings.
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Raises:
        InputError: settings, corpus or towers do not fit.
    """
    console = console or Console(stderr=True)
    data, config = preset.data, preset.train
    if not data.root:
        raise InputError("data.root is empty; pass data.root=<the corpus's folder>")
    count: Expected = "official" if data.expected else None
    corpus = photos_to_learn(data)
    watched = open_corpus(data.name, data.root, data.watch, expected=count).photos[: data.watch_photos]
    taught = read_taught(Path(data.taught)) if data.taught else {}
    captioner, tokenizer = continued(preset) if config.init else assemble(preset, seed=config.seed)
    accelerator = tracked_accelerator(config.tracker, out)
    tokenize = tokenize_for(preset.text, tokenizer)
    if not config.init:
        ids, mask = tokenize([caption for photo in corpus for caption in photo.captions])
        settle_text(captioner.text, preset.text, tokenizer, ids, mask)
    captioner.to(accelerator.device)
    with accelerator.main_process_first():  # the others find it done
        features = cached_features(captioner, [*corpus, *watched], Path(data.features), data.views, console)
    examples = prepare_examples(
        captioner,
        tokenize,
        captions_to_learn(
            [photo.captions for photo in corpus],
            config.borrowed,
            console,
            [taught.get(str(photo.id), ()) for photo in corpus],
        ),
        features.rows([photo.id for photo in corpus]),
        text_to_learn(data, watched),
        config.consensus,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "preset.json").write_text(json.dumps(dataclasses.asdict(preset), indent=1))
    with progress_bar(console, accelerator) as progress:
        curves = Curves(out, accelerator, progress, config.steps)
        fit_captions(
            captioner,
            examples,
            features,
            config,
            out,
            caption_weight=preset.diffusion.caption_weight,
            factor=preset.diffusion.factor,
            drop_image=preset.diffusion.drop_image,
            self_condition=preset.diffusion.self_condition,
            report=curves.write,
            evaluate=lambda step: curves.sample(
                step,
                sample(captioner, tokenizer, features, watched),
                console,
                lambda: save(captioner, tokenizer, out),
            ),
            accelerator=accelerator,
        )
    if accelerator.is_main_process:
        save(captioner, tokenizer, out)
        frequency = DocumentFrequency.of([photo.captions for photo in corpus]).pruned()
        frequency.save(out / "model" / FREQUENCY)  # for minimum Bayes risk by CIDEr
    accelerator.end_training()
    return captioner


def sample(
    captioner: Captioner,
    tokenizer: Any,
    features: Any,
    photos: Sequence[CaptionedPhoto],
    sampling: SamplingConfig | None = None,
    batch: int = 100,
) -> tuple[dict[str | int, str], dict[str, float]]:
    """Captions of photos in the cache, the first drawn of each, and their scores.

    Args:
        captioner: draws them.
        tokenizer: its.
        features: the cache (``Features``, or what has its methods); view 0 of each photo is captioned.
        photos: captioned ones.
        sampling: how; default the model's own.
        batch: photos at once.
    """
    captions: dict[str | int, str] = {}
    for start in range(0, len(photos), batch):
        group = photos[start : start + batch]
        rows = features.rows([photo.id for photo in group])
        image = features.gather(torch.zeros_like(rows), rows).to(captioner.device)
        drawn = captioner.generate(image=image, sampling=sampling)
        for photo, ids, confidence in zip(group, drawn.ids[:, 0], drawn.confidence[:, 0], strict=True):
            words, _ = words_of(tokenizer, ids.tolist(), confidence.tolist(), captioner.text.special_ids)
            captions[photo.id] = join_words(words)
    scores = score(captions, {photo.id: list(photo.captions) for photo in photos}).corpus
    scores["distinct"] = len(set(captions.values())) / max(len(captions), 1)
    return captions, scores


def tracked_accelerator(tracker: str, out: Path) -> Any:
    """An accelerator that logs to the named tracker ("none": nowhere)."""
    accelerator = make_accelerator(log_with=None if tracker == "none" else tracker, project_dir=out)
    if tracker != "none":
        accelerator.init_trackers("clearcap")
    return accelerator


def progress_bar(console: Console, accelerator: Any) -> Progress:
    """A bar that the main process alone shows."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not accelerator.is_main_process)


class Curves:
    """Appends measures and samples to the run's files and to the tracker, and moves the bar."""

    def __init__(self, out: Path, accelerator: Any, progress: Progress, steps: int) -> None:
        self.out, self.accelerator, self.progress = out, accelerator, progress
        self.reached = reached_step(out / "checkpoint")
        self.task = progress.add_task("training", total=steps, completed=self.reached)
        self.started = time.monotonic()
        for file in (out / CURVES, out / SAMPLES):  # a resumed run repeats what came after
            _keep_until(file, self.reached)

    def write(self, report: StepReport) -> None:
        if not math.isfinite(report.latent + report.caption):
            raise InputError(f"the loss is not finite at step {report.step}; lower train.lr and start again")
        line = dataclasses.asdict(report) | {"seconds": round(time.monotonic() - self.started, 1)}
        _append(self.out / CURVES, line)
        self.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=report.step)
        self.progress.update(self.task, completed=report.step, description=_line(report))

    def sample(
        self,
        step: int,
        sampled: tuple[dict[str | int, str], dict[str, float]],
        console: Console,
        save: Callable[[], None],
    ) -> None:
        captions, scores = sampled
        some = dict(list(captions.items())[:8])
        _append(self.out / SAMPLES, {"step": step, "scores": scores, "captions": some})
        self.accelerator.log(scores, step=step)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        console.print(f"step {step}: {shown}", *(f"  {caption}" for caption in some.values()), sep="\n")
        save()


def _line(report: StepReport) -> str:
    return f"latent {report.latent:.3f}  caption {report.caption:.3f}  lr {report.lr:.1e}"


def _keep_until(file: Path, step: int) -> None:
    if file.is_file():
        lines = file.read_text().splitlines(keepends=True)
        file.write_text(
            "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        )


def _append(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def save(captioner: Captioner, tokenizer: Any, out: Path) -> None:
    """Write the captioner a run has come to as ``out/model``."""
    captioner.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")


def text_to_learn(data: DataConfig, watched: Sequence[CaptionedPhoto]) -> list[str]:
    if not data.text:
        return []
    held = {caption for photo in watched for caption in photo.captions}
    held_ids = {photo.id for photo in _text_corpus(data.text_exclude)} if data.text_exclude else set()
    return [
        caption
        for photo in _text_corpus(data.text)
        for caption in photo.captions
        if photo.id not in held_ids and caption not in held
    ]


def _text_corpus(spec: str) -> Corpus:
    name, root, split = spec.split(":")
    return open_corpus(name, root, split, missing="keep", expected=None)


def photos_to_learn(data: DataConfig) -> list[CaptionedPhoto]:
    """The photos of ``data.name`` and of ``data.also``.

    Raises:
        InputError: a corpus cannot be opened, or two photos have the same id.
    """
    count: Expected = "official" if data.expected else None
    photos = list(open_corpus(data.name, data.root, data.split, expected=count))
    for spec in filter(None, data.also.split(",")):
        name, root, split = spec.split(":")
        photos += open_corpus(name, root, split, expected=count)
    ids = {photo.id for photo in photos}
    if len(ids) < len(photos):
        raise InputError(f"data.also={data.also!r} holds photos that other corpora hold too; leave one out")
    return photos


def read_taught(file: Path) -> dict[str, tuple[str, ...]]:
    """Captions by photo id from lines of ``{"photo": id, "captions": [...]}``.

    Raises:
        InputError: the file is missing or a line is something else.
    """
    taught: dict[str, tuple[str, ...]] = {}
    for where, line in read_jsonl(file, 'write one line per photo: {"photo": "a.jpg", "captions": ["..."]}'):
        taught[str(member(line, "photo", (str, int), where))] = tuple(member(line, "captions", list, where))
    return taught


def captions_to_learn(
    captions: Sequence[tuple[str, ...]],
    borrowed: int,
    console: Console,
    taught: Sequence[tuple[str, ...]] = (),
) -> Sequence[tuple[str, ...]]:
    """Each photo's captions, those that a teacher wrote, and as many that it borrows from other photos."""
    own_and_taught = [
        (*own, *more) for own, more in zip(captions, taught or [()] * len(captions), strict=True)
    ]
    if not borrowed:
        return own_and_taught
    with Progress(console=console) as progress:
        task = progress.add_task("borrowing captions", total=len(captions))
        more = borrow(captions, borrowed, lambda n: progress.advance(task, n))
    return [(*own, *others) for own, others in zip(own_and_taught, more, strict=True)]


def cached_features(
    captioner: Captioner, photos: Sequence[CaptionedPhoto], folder: Path, views: int, console: Console
) -> Features:
    """The feature cache in a folder, made of these photos where there is none.

    Raises:
        InputError: a photo cannot be read, or the cache holds another encoder's tokens.
    """
    if not (folder / "index.json").is_file():
        with Progress(console=console) as progress:
            task = progress.add_task("encoding photos", total=len(photos) * views)
            make_features(
                lambda pixels: captioner.encode_image(pixels.to(captioner.device)),
                [(photo.id, photo.image.open) for photo in photos],
                folder,
                size=captioner.config.vision["image_size"],
                views=views,
                seed=0,
                advance=lambda n: progress.advance(task, n),
            )
    features = open_features(folder)
    expected = (captioner.config.vision["tokens"], captioner.config.vision["dim"])
    if tuple(np.shape(features.tokens)[2:]) != expected:
        raise InputError(
            f"{folder} holds tokens of another encoder; choose another data.features or delete it"
        )
    return features
