"""Fine-tuning of a captioner, with its encoder or without, on captioned photos: from corpora to a model on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from clearcap.captioner.model import Captioner
from clearcap.captioner.towers import tokenize_for
from clearcap.config import SamplingConfig, TextConfig, TrainConfig, knob, make, require
from clearcap.data.features import Features
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder
from clearcap.errors import InputError
from clearcap.training.examples import Examples, photos_of_step, prepare_examples
from clearcap.training.joint.objective import JointObjective
from clearcap.training.joint.seeing import ReadPhotos, image_of_step, joint_optimizers, tokens_once
from clearcap.training.log import RunLog, progress_bar, tracked_accelerator
from clearcap.training.loop import fit, generator_at
from clearcap.training.run import Run, captions_to_learn, check_photos, save_frequency

PLACES = ("features", "views", "watch_photos")  # settings that the weights do not depend on


@dataclass(frozen=True)
class JointConfig:
    """How a captioner is fine-tuned; start from ``settings_for``."""

    student: SamplingConfig = field(default_factory=SamplingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    block: int = knob(
        8,
        "first block of the EfficientNet that is trained; -1: the encoder stays, and photos are encoded once",
    )
    encoder_lr: float = knob(1.5e-4, "peak learning rate of the encoder")
    few: float = knob(
        0.5, "share of a step's photos that the few steps learn from; LaDiC's losses get the others"
    )
    teacher_captions: str = knob(
        "", "file of captions that another captioner wrote of the photos, learned in place of people's"
    )
    views: int = knob(3, "views of each photo in the feature cache, where it has to be made")
    features: str = knob("", "folder of the image-feature cache; default OUT/features")
    watch_photos: int = knob(200, "photos of the periodic evaluation")

    def __post_init__(self) -> None:
        require(self.views >= 1, f"views={self.views} must be at least 1")
        require(self.encoder_lr > 0, f"encoder_lr={self.encoder_lr} must be positive")
        require(
            0 < round(self.few * self.train.photos) < self.train.photos,
            f"few={self.few} of train.photos={self.train.photos} leaves one of the losses no photo",
        )
        require(
            self.student.guidance == 0,
            f"student.guidance={self.student.guidance} would cost a second branch; leave it at 0",
        )
        require(not self.train.init, "train.init has no meaning here; the model given is what is trained")


def settings_for(sampling: SamplingConfig) -> JointConfig:
    """The usual settings for a captioner that samples in the given way."""
    student = dataclasses.replace(
        sampling, steps=2, spacing="uniform", guidance=0.0, early_exit=0, refine=0, candidates=1
    )
    train = TrainConfig(
        steps=1500,
        photos=48,
        copies=4,
        text_only=1 / 12,
        optimizer="muon",
        lr=5e-4,
        muon_lr=5e-4,
        weight_decay=0.1,
        decay="cosine",
        warmup=40,
        ema=0.99,
        neighbour_captions=5,
        agreement=1.0,
        log_every=10,
        save_every=100,
        sample_every=300,
    )
    return JointConfig(student=student, train=train)


def finetune(
    captioner: Captioner,
    tokenizer: Any,
    photos: Sequence[CaptionedPhoto],
    text: Sequence[str],
    watched: Sequence[CaptionedPhoto],
    config: JointConfig,
    out: Path,
    console: Console | None = None,
) -> Captioner:
    """Train a captioner's denoiser and LM head, and its encoder if asked, or go on where a killed run stopped.

    Writes ``out/checkpoint``, ``out/curves.jsonl``, ``out/samples.jsonl`` and ``out/model``.

    Args:
        captioner: trained in place.
        tokenizer: its.
        photos: captioned, learned from.
        text: captions without photos; may be empty.
        watched: captioned photos, none of the others, that it is scored on; may be empty.
        config: all settings.
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Returns:
        The captioner.

    Raises:
        InputError: no photos, one twice, also watched or unreadable, another encoder than an EfficientNet, or ``out``
            holds a run of other settings.
    """
    console, train = console or Console(stderr=True), config.train
    watched = watched[: config.watch_photos]
    if not photos:
        raise InputError("no photos to learn from; pass --data NAME:ROOT:SPLIT")
    check_photos(photos, watched)
    make_folder(out)
    accelerator = tracked_accelerator(train.tracker, out)
    captioner.to(accelerator.device)
    with progress_bar(console, accelerator.is_main_process) as progress:
        features = tokens_once(captioner, [*photos, *watched], config, out, progress, accelerator)
        examples = prepare_examples(
            captioner,
            tokenize_for(make(TextConfig, captioner.config.text, "text"), tokenizer),
            captions_to_learn(photos, config.teacher_captions, train.neighbour_captions),
            features.rows([photo.id for photo in photos]) if features else torch.arange(len(photos)),
            text,
            agreement=train.agreement,
        )
        block = None if features else config.block
        objective = JointObjective(captioner, config.student, block).to(accelerator.device)
        log = RunLog(out, console, progress, accelerator)
        run = Run(captioner, tokenizer, features or ReadPhotos(captioner, watched), watched, log)

        if not log.begin(train.steps) and accelerator.is_main_process:
            run.score(0)  # what it says before
        settings = dataclasses.asdict(config)
        fit(
            captioner,
            objective,
            joint_optimizers(objective, objective.seeing, train, config.encoder_lr),
            batches(examples, features or photos, config, objective),
            train,
            out,
            settings={name: value for name, value in settings.items() if name not in PLACES},
            report=log.report,
            evaluate=run.score,
            accelerator=accelerator,
        )
    if accelerator.is_main_process:
        run.save()
        save_frequency(photos, out)
    accelerator.end_training()
    return captioner


def batches(
    examples: Examples,
    photos: Features | Sequence[CaptionedPhoto],
    config: JointConfig,
    objective: JointObjective,
) -> Callable[[int, int, int], tuple[Any, ...]]:
    """The objective's arguments at a step: a pure function of seed, step and rank; every photo once per epoch.

    Args:
        examples: captions of the photos.
        photos: their tokens or, where the encoder is trained, they themselves.
        config: all settings.
        objective: what is trained.
    """
    train = config.train
    length, dim = examples.x0.shape[1:]
    few = round(config.few * train.photos)
    shown = train.photos - few
    texts = len(examples.ids) - examples.text_first
    alone = round(train.text_only * train.photos) if texts else 0

    def batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        chosen = photos_of_step(len(examples.rows), train.photos, train.seed, step, rank, world)
        generator = generator_at(train.seed, 5, step, rank)
        image = image_of_step(photos, objective.seeing, examples, chosen, (train.seed, step), generator)
        captions = examples.draw(chosen, train.copies, generator)
        first = captions[: shown * train.copies]
        if alone:
            extra = torch.randint(texts, (alone * train.copies,), generator=generator)
            first = torch.cat((first, examples.text_first + extra))
        last = captions[shown * train.copies :]
        sizes = {"copies": train.copies, "length": length, "dim": dim}
        draws = objective.ladic.sample(
            photos=shown + alone, generator=generator_at(train.seed, 2, step, rank), **sizes
        )
        noise = torch.randn(objective.few.calls, len(last), length, dim, generator=generator)
        return (
            image,
            generator.initial_seed(),
            torch.arange(shown + alone) < shown,
            examples.x0[first].float(),
            examples.ids[first],
            draws,
            examples.x0[last].float(),
            examples.ids[last],
            noise,
        )

    return batch_at
