"""From a preset to a trained captioner on disk: corpus, feature cache, statistics, fit, samples."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from clearcap.captioner.folder import FREQUENCY
from clearcap.captioner.model import Captioner
from clearcap.captioner.towers import build_captioner, continue_captioner, tokenize_for
from clearcap.config import DataConfig, Preset, SamplingConfig, TextConfig, TrainConfig, require
from clearcap.data.corpus import open_spec
from clearcap.data.features import Features, make_features, open_features
from clearcap.data.records import CaptionedPhoto, Corpus, Expected, several
from clearcap.data.writing import make_folder, whole_folder, write_json
from clearcap.errors import InputError
from clearcap.metrics import DocumentFrequency
from clearcap.metrics.words import agreement_words
from clearcap.registry import find
from clearcap.text.tokenizer import decode_caption
from clearcap.training.examples import Examples, batches_of, prepare_examples, read_teacher_captions
from clearcap.training.log import RunLog, Scored, progress_bar, scored, tracked_accelerator
from clearcap.training.loop import StepReport, fit, make_accelerator
from clearcap.training.neighbours import neighbour_captions, with_neighbours
from clearcap.training.optimizers import make_optimizers

BATCH = 100  # watched photos captioned at once


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
    photos, watched = open_data(data)
    captioner, tokenizer = (
        continue_captioner(preset) if config.init else build_captioner(preset, seed=config.seed)
    )
    if not config.init:
        captions = [caption for photo in photos for caption in photo.captions]
        ids, mask = tokenize_for(preset.text, tokenizer)(captions)
        captioner.text.fit(ids, mask, preset.text, tokenizer)
    accelerator = tracked_accelerator(config.tracker, out)
    captioner.to(accelerator.device)
    with progress_bar(console, accelerator.is_main_process) as progress:
        with accelerator.main_process_first():  # the others find it done
            features = cached_features(
                captioner, [*photos, *watched], Path(data.features), data.views, progress
            )
        rows = features.rows([photo.id for photo in photos])
        examples = examples_of(captioner, tokenizer, preset, photos, watched, rows, progress)
        write_preset(preset, out)
        run = Run(captioner, tokenizer, features, watched, RunLog(out, console, progress, accelerator))
        run.log.begin(config.steps)
        fit_captions(
            captioner,
            examples,
            features,
            config,
            out,
            report=run.log.report,
            evaluate=lambda step: run.evaluate(step, run.sample()),
            accelerator=accelerator,
        )
    if accelerator.is_main_process:
        run.save()
        save_frequency(photos, out)
    accelerator.end_training()
    return captioner


def fit_captions(
    captioner: Any,
    examples: Examples,
    features: Features,
    config: TrainConfig,
    out: Path,
    *,
    report: Callable[[StepReport], None] = lambda report: None,
    evaluate: Callable[[int], None] = lambda step: None,
    accelerator: Any | None = None,
) -> None:
    """Fit a captioner to captions, as its diffusion settings say; a killed run resumes exactly.

    Args:
        captioner: its denoiser and LM head are trained in place; at the end it holds the averaged weights.
        examples: captions as latents.
        features: image tokens.
        config: optimisation settings.
        out: folder of the checkpoint.
        report: receives every ``log_every``-th step's measures.
        evaluate: called every ``sample_every`` steps while the captioner holds the averaged weights.
        accelerator: an ``accelerate.Accelerator``, for several processes or a GPU.

    Raises:
        InputError: ``out`` holds a checkpoint of other settings.
    """
    accelerator = accelerator or make_accelerator()
    captioner.to(accelerator.device)
    asked = captioner.objective
    objective = find("objective", asked.objective)(captioner, captioner.noise(asked.noise_factor))
    fit(
        captioner,
        objective,
        make_optimizers(objective, config),
        batches_of(examples, features, config, objective),
        config,
        out,
        settings={"diffusion": dataclasses.asdict(asked)},
        report=report,
        evaluate=evaluate,
        accelerator=accelerator,
    )


@runtime_checkable
class WatchedTokens(Protocol):
    """Image tokens of photos: a feature cache, or what is computed from one."""

    def rows(self, names: Sequence[str]) -> Int[Tensor, " photos"]:
        """Positions of photos."""

    def gather(
        self, views: Int[Tensor, " photos"], rows: Int[Tensor, " photos"]
    ) -> Float[Tensor, "photos tokens dim"]:
        """Tokens of the given views of the given photos."""


@dataclass
class Run:
    """A captioner in training: what it says of watched photos, and the model so far.

    Attributes:
        captioner: what is trained.
        tokenizer: its.
        features: image tokens of the watched photos.
        watched: captioned photos that it is scored on.
        log: of the run.
    """

    captioner: Captioner
    tokenizer: Any
    features: WatchedTokens
    watched: Sequence[CaptionedPhoto]
    log: RunLog

    def sample(self, sampling: SamplingConfig | None = None) -> Scored:
        """Captions of the watched photos as they are, the first candidate of each, and their scores.

        Args:
            sampling: how; default the model's own.
        """
        captions: dict[str | int, str] = {}
        special = self.captioner.text.special_ids
        for start in range(0, len(self.watched), BATCH):
            group = self.watched[start : start + BATCH]
            rows = self.features.rows([photo.id for photo in group])
            image = self.features.gather(torch.zeros_like(rows), rows).to(self.captioner.device)
            found = self.captioner.generate(image=image, sampling=sampling).ids[:, 0].tolist()
            for photo, ids in zip(group, found, strict=True):
                captions[photo.id] = decode_caption(self.tokenizer, ids, special).text
        words = str(self.captioner.config.text.get("words", TextConfig.words))
        return scored(captions, {photo.id: photo.captions for photo in self.watched}, words)

    def score(self, step: int) -> None:
        """Evaluate the model as it is at a step, if there are photos to do so on."""
        if self.watched:
            self.evaluate(step, self.sample())

    def evaluate(self, step: int, sampled: Scored) -> None:
        """Write down, print and save what the model has come to at a step."""
        self.log.samples(step, sampled)
        self.save()

    def save(self) -> None:
        """Write the captioner as ``out/model``."""
        save_model(self.captioner, self.tokenizer, self.log.out)


def save_model(captioner: Captioner, tokenizer: Any, out: Path) -> None:
    """Write a captioner as ``out/model``."""
    with whole_folder(out / "model") as fresh:
        captioner.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)


def save_frequency(photos: Sequence[CaptionedPhoto], out: Path) -> None:
    """Write the document frequency of people's captions beside ``out/model``, for minimum Bayes risk by CIDEr."""
    counted = DocumentFrequency.of([photo.captions for photo in photos], agreement_words)
    counted.pruned().save(out / "model" / FREQUENCY)


def write_preset(preset: Preset, out: Path) -> None:
    """Write all settings to ``out/preset.json``."""
    make_folder(out)
    write_json(out / "preset.json", dataclasses.asdict(preset))


def cached_features(
    captioner: Captioner, photos: Sequence[CaptionedPhoto], folder: Path, views: int, progress: Progress
) -> Features:
    """The feature cache in a folder, made of these photos where there is none.

    Raises:
        InputError: a photo cannot be read, or the cache holds another encoder's tokens.
    """
    vision = captioner.config.vision
    return encoded_photos(
        lambda pixels: captioner.encode_image(pixels.to(captioner.device)),
        photos,
        folder,
        size=vision["image_size"],
        shape=(vision["tokens"], vision["dim"]),
        views=views,
        progress=progress,
    )


def encoded_photos(
    encode: Callable[[Float[Tensor, "photos 3 size size"]], Float[Tensor, "photos tokens dim"]],
    photos: Sequence[CaptionedPhoto],
    folder: Path,
    *,
    size: int,
    shape: tuple[int, int],
    views: int,
    progress: Progress,
) -> Features:
    """The feature cache in a folder, made of these photos where there is none.

    Args:
        encode: photos in 0..1 to tokens.
        photos: what is encoded.
        folder: of the cache.
        size: pixels a side of the photos.
        shape: tokens of a photo, and their channels.
        views: of each photo.
        progress: where a bar is shown.

    Raises:
        InputError: a photo cannot be read, or the cache holds another encoder's tokens.
    """
    if not (folder / "index.json").is_file():
        task = progress.add_task("encoding photos", total=len(photos) * views)
        make_features(
            encode,
            [(photo.id, photo.image.open) for photo in photos],
            folder,
            size=size,
            views=views,
            seed=0,
            advance=lambda n: progress.advance(task, n),
        )
    features = open_features(folder)
    if tuple(np.shape(features.tokens)[2:]) != shape:
        raise InputError(
            f"{folder} holds tokens of another encoder; choose another data.features or delete it"
        )
    return features


def open_data(data: DataConfig) -> tuple[Sequence[CaptionedPhoto], Sequence[CaptionedPhoto]]:
    """What is trained on and what is watched.

    Raises:
        InputError: a corpus cannot be opened, or two corpora that are trained on have a photo in common.
    """
    if not data.corpus and not data.root:
        raise InputError("data.corpus is empty; pass data.corpus=NAME:ROOT:SPLIT, such as flickr8k:DIR:train")
    count: Expected = "official" if data.expected else None
    corpora = [open_spec(spec, expected=count) for spec in (data.trained, *data.also)]
    photos = [photo for corpus in corpora for photo in corpus.photos[: data.limit or None]]
    common = [name for name, times in Counter(photo.id for photo in photos).items() if times > 1]
    if common:
        raise InputError(f"data.also gives {several(common, 'photo')} again; leave one of the corpora out")
    return photos, open_spec(data.watched, expected=count).photos[: data.watch_photos]


def check_photos(photos: Sequence[CaptionedPhoto], watched: Sequence[CaptionedPhoto]) -> None:
    """Raise InputError where a photo that is trained on is given twice, or is watched too."""
    seen: set[str] = set()
    twice = [photo.id for photo in photos if photo.id in seen or seen.add(photo.id)]  # type: ignore[func-returns-value]
    if twice:
        raise InputError(f"{several(twice, 'photo')} given twice; pass each corpus once")
    held = [photo.id for photo in watched if photo.id in seen]
    if held:
        raise InputError(f"{several(held, 'photo')} of --watch would be trained on; pass another split")


def examples_of(
    captioner: Captioner,
    tokenizer: Any,
    preset: Preset,
    photos: Sequence[CaptionedPhoto],
    watched: Sequence[CaptionedPhoto],
    rows: Int[Tensor, " photos"],
    progress: Progress,
) -> Examples:
    """The training examples of a preset: people's captions, a teacher's, neighbours', and text without photos.

    Args:
        captioner: its text space encodes them.
        tokenizer: its.
        preset: all settings.
        photos: trained on.
        watched: photos whose captions are not trained on.
        rows: each photo's row in the feature cache.
        progress: where a bar is shown.
    """
    data, config = preset.data, preset.train
    teacher = read_teacher_captions(Path(data.teacher_captions)) if data.teacher_captions else {}
    captions = [taught(photo, teacher.get(str(photo.id), ()), data.teacher_alone) for photo in photos]
    if config.neighbour_captions:
        task = progress.add_task("neighbour captions", total=len(photos))
        more = neighbour_captions(
            [photo.captions for photo in photos],
            config.neighbour_captions,
            lambda n: progress.advance(task, n),
        )
        captions = [(*own, *others) for own, others in zip(captions, more, strict=True)]
    examples = prepare_examples(
        captioner,
        tokenize_for(preset.text, tokenizer),
        captions,
        rows,
        _text_only(data, watched),
        config.agreement,
    )
    never = torch.zeros_like(examples.mirrored)
    return examples if data.mirror else dataclasses.replace(examples, mirrored=never)


def taught(photo: CaptionedPhoto, teacher: Sequence[str], alone: bool) -> tuple[str, ...]:
    """Captions that a photo is learned with: people's and a teacher's, or the teacher's alone where it wrote any."""
    return tuple(teacher) if alone and teacher else (*photo.captions, *teacher)


def captions_to_learn(
    photos: Sequence[CaptionedPhoto], teacher_captions: str, neighbours: int
) -> list[tuple[str, ...]]:
    """Captions of each photo: those in a teacher's file alone, or people's with those of neighbours.

    Args:
        photos: learned from.
        teacher_captions: file as for ``read_teacher_captions``; empty for people's.
        neighbours: captions of other photos that are added to people's.

    Raises:
        InputError: the file cannot be read, or lacks a photo.
    """
    if not teacher_captions:
        return with_neighbours([photo.captions for photo in photos], neighbours)
    teacher = read_teacher_captions(Path(teacher_captions))
    untold = next((photo.id for photo in photos if not teacher.get(str(photo.id))), None)
    require(
        untold is None,
        f"{teacher_captions}: has no caption of {untold}; let the teacher caption every photo that is learned from",
    )
    return [teacher[str(photo.id)] for photo in photos]


def _text_only(data: DataConfig, watched: Sequence[CaptionedPhoto]) -> list[str]:
    """Captions without photos, none of them a watched photo's or of a photo that is left out."""
    if not data.text:
        return []
    held = {caption for photo in watched for caption in photo.captions}
    return [caption for caption in captions_of([data.text], [data.text_exclude]) if caption not in held]


def captions_of(specs: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """All captions of corpora; the photos themselves may be missing.

    Args:
        specs: corpora, each as NAME:ROOT:SPLIT.
        exclude: corpora whose photos' captions are left out; "" is none.
    """
    held = {photo.id for spec in exclude if spec for photo in _text_corpus(spec)}
    photos = (photo for spec in specs for photo in _text_corpus(spec))
    return [caption for photo in photos if photo.id not in held for caption in photo.captions]


def _text_corpus(spec: str) -> Corpus:
    return open_spec(spec, missing="keep", expected=None)
