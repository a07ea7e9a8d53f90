"""From a preset to a trained captioner on disk: corpus, feature cache, statistics, fit, samples."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clearcap.captioner.loading import CURVES, FREQUENCY, SAMPLES
from clearcap.captioner.model import Captioner
from clearcap.captioner.towers import build_captioner, continue_captioner, tokenize_for
from clearcap.config import DataConfig, Preset, SamplingConfig, TrainConfig
from clearcap.data.corpus import open_spec
from clearcap.data.features import Features, make_features, open_features
from clearcap.data.records import CaptionedPhoto, Corpus, Expected
from clearcap.errors import InputError
from clearcap.metrics import DocumentFrequency, score
from clearcap.registry import find
from clearcap.text.tokenizer import decode_caption
from clearcap.training.checkpoint import reached_step
from clearcap.training.examples import Examples, batches_of, prepare_examples
from clearcap.training.loop import StepReport, fit, make_accelerator
from clearcap.training.neighbours import neighbour_captions
from clearcap.training.optimizers import make_optimizers

BATCH = 100  # watched photos captioned at once
SHOWN = 8  # of them, whose captions are printed and kept
Scored = tuple[dict[str | int, str], dict[str, float]]
"""Captions of photos by id, and their scores by name."""


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
    data, config = preset.data, preset.train
    corpus, watched = _open_data(data)
    captioner, tokenizer = (
        continue_captioner(preset) if config.init else build_captioner(preset, seed=config.seed)
    )
    tokenize = tokenize_for(preset.text, tokenizer)
    captions = [photo.captions for photo in corpus]
    if not config.init:
        ids, mask = tokenize([caption for group in captions for caption in group])
        captioner.text.fit(ids, mask, preset.text, tokenizer)
    with begun_run(captioner, tokenizer, watched, out, config.tracker, console) as run:
        run.cache_features([*corpus, *watched], Path(data.features), data.views)
        examples = prepare_examples(
            captioner,
            tokenize,
            _with_neighbours(captions, config.neighbour_captions, run.progress),
            run.features.rows([photo.id for photo in corpus]),
            _text_only(data, watched),
            config.agreement,
        )
        out.mkdir(parents=True, exist_ok=True)
        (out / "preset.json").write_text(json.dumps(dataclasses.asdict(preset), indent=1))
        run.begin(config.steps)
        fit_captions(
            captioner,
            examples,
            run.features,
            config,
            out,
            report=run.report,
            evaluate=lambda step: run.evaluate(step, run.sample()),
            accelerator=run.accelerator,
        )
    if run.accelerator.is_main_process:
        frequency = DocumentFrequency.of(captions).pruned()
        frequency.save(out / "model" / FREQUENCY)  # for minimum Bayes risk by CIDEr
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


@dataclass
class Run:
    """A training as its user sees it: a bar, curves and samples in files and in the tracker, the model so far.

    Attributes:
        captioner: what is trained.
        tokenizer: its.
        watched: captioned photos that it is scored on.
        out: the run's folder.
        progress: where the bar is and samples are printed.
        accelerator: of the processes, with the tracker that was asked for.
        features: image tokens of all photos, after ``cache_features``.
    """

    captioner: Captioner
    tokenizer: Any
    watched: Sequence[CaptionedPhoto]
    out: Path
    progress: Progress
    accelerator: Any
    features: Features = field(init=False)

    def cache_features(self, photos: Sequence[CaptionedPhoto], folder: Path, views: int) -> None:
        """Open the feature cache in a folder, made of these photos where there is none.

        Raises:
            InputError: a photo cannot be read, or the cache holds another encoder's tokens.
        """
        captioner, vision = self.captioner, self.captioner.config.vision
        with self.accelerator.main_process_first():  # the others find it done
            if not (folder / "index.json").is_file():
                task = self.progress.add_task("encoding photos", total=len(photos) * views)
                make_features(
                    lambda pixels: captioner.encode_image(pixels.to(captioner.device)),
                    [(photo.id, photo.image.open) for photo in photos],
                    folder,
                    size=vision["image_size"],
                    views=views,
                    advance=lambda n: self.progress.advance(task, n),
                )
            self.features = open_features(folder)
        if self.features.tokens.shape[2:] != (vision["tokens"], vision["dim"]):
            raise InputError(
                f"{folder} holds tokens of another encoder; choose another data.features or delete it"
            )

    def begin(self, steps: int) -> int:
        """Show a bar of so many steps, and drop what the files say of steps that will be repeated.

        Returns:
            The step that the run goes on from.
        """
        reached = reached_step(self.out / "checkpoint")
        self.task = self.progress.add_task("training", total=steps, completed=reached)
        self.started = time.monotonic()
        for file in filter(Path.is_file, (self.out / CURVES, self.out / SAMPLES)):
            lines = file.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= reached]
            file.write_text("".join(kept))
        return reached

    def report(self, measured: StepReport) -> None:
        """Write down what a step measured.

        Raises:
            InputError: a loss is not finite.
        """
        if not math.isfinite(measured.latent + measured.caption):
            raise InputError(
                f"the loss is not finite at step {measured.step}; lower train.lr and start again"
            )
        line = dataclasses.asdict(measured) | {"seconds": round(time.monotonic() - self.started, 1)}
        _append(self.out / CURVES, line)
        self.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=measured.step)
        shown = f"latent {measured.latent:.3f}  caption {measured.caption:.3f}  lr {measured.lr:.1e}"
        self.progress.update(self.task, completed=measured.step, description=shown)

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
        scores = score(captions, {photo.id: list(photo.captions) for photo in self.watched}).corpus
        scores["distinct"] = len(set(captions.values())) / max(len(captions), 1)
        return captions, scores

    def evaluate(self, step: int, sampled: Scored) -> None:
        """Write down, print and save what the model has come to at a step."""
        captions, scores = sampled
        some = dict(list(captions.items())[:SHOWN])
        _append(self.out / SAMPLES, {"step": step, "scores": scores, "captions": some})
        self.accelerator.log(scores, step=step)
        lines = [f"step {step}: {shown(scores)}", *(f"  {caption}" for caption in some.values())]
        self.progress.console.print(*lines, sep="\n")
        self.save()

    def save(self) -> None:
        """Write the captioner as ``out/model``."""
        self.captioner.save_pretrained(self.out / "model")
        self.tokenizer.save_pretrained(self.out / "model")


def shown(scores: dict[str, float]) -> str:
    """Scores in a line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


@contextmanager
def begun_run(
    captioner: Captioner,
    tokenizer: Any,
    watched: Sequence[CaptionedPhoto],
    out: Path,
    tracker: str,
    console: Console | None,
) -> Iterator[Run]:
    """A run with its bar and tracker ("none": nowhere), on a GPU where there is one; its model is saved at the end."""
    accelerator = make_accelerator(log_with=None if tracker == "none" else tracker, project_dir=out)
    if tracker != "none":
        accelerator.init_trackers("clearcap")
    captioner.to(accelerator.device)
    with progress_bar(console or Console(stderr=True), accelerator.is_main_process) as progress:
        run = Run(captioner, tokenizer, watched, out, progress, accelerator)
        yield run
    if accelerator.is_main_process:
        run.save()
    accelerator.end_training()


def progress_bar(console: Console, shown: bool = True) -> Progress:
    """Bars with counts and the time that is left; of several processes the main one alone shows them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not shown)


def _open_data(data: DataConfig) -> tuple[Corpus, Sequence[CaptionedPhoto]]:
    """What is trained on and what is watched."""
    if not data.corpus and not data.root:
        raise InputError("data.corpus is empty; pass data.corpus=NAME:ROOT:SPLIT, such as flickr8k:DIR:train")
    count: Expected = "official" if data.expected else None
    corpus = open_spec(data.trained, expected=count)
    return corpus, open_spec(data.watched, expected=count).photos[: data.watch_photos]


def _with_neighbours(
    captions: Sequence[tuple[str, ...]], wanted: int, progress: Progress
) -> Sequence[tuple[str, ...]]:
    """Each photo's captions and as many of its neighbours'."""
    if not wanted:
        return captions
    task = progress.add_task("neighbour captions", total=len(captions))
    more = neighbour_captions(captions, wanted, lambda n: progress.advance(task, n))
    return [(*own, *others) for own, others in zip(captions, more, strict=True)]


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
    opened = partial(open_spec, missing="keep", expected=None)
    held = {photo.id for spec in exclude if spec for photo in opened(spec)}
    photos = (photo for spec in specs for photo in opened(spec))
    return [caption for photo in photos if photo.id not in held for caption in photo.captions]


def _append(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")
