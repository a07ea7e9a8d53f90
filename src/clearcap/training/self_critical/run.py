"""Self-critical training of a captioner's few steps, from corpora to a model on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor

from clearcap.captioner.model import Captioner
from clearcap.captioner.towers import tokenize_for
from clearcap.config import SamplingConfig, TextConfig, TrainConfig, knob, make, require
from clearcap.data.features import Features
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder
from clearcap.errors import InputError
from clearcap.metrics.unicode_words import unicode_words
from clearcap.metrics.words import agreement_words
from clearcap.text.tokenizer import keeps_capitals, word_ids
from clearcap.training.examples import Examples, photos_of_step, prepare_examples
from clearcap.training.joint.seeing import ReadPhotos, image_of_step, joint_optimizers, tokens_once
from clearcap.training.log import RunLog, progress_bar, tracked_accelerator
from clearcap.training.loop import fit, generator_at
from clearcap.training.neighbours import with_neighbours
from clearcap.training.run import Run, check_photos, save_frequency
from clearcap.training.self_critical.objective import SelfCriticalObjective
from clearcap.training.self_critical.reward import CiderReward
from clearcap.training.step_distillation.rollout import lengths_of

PLACES = ("features", "views", "watch_photos")  # settings that the weights do not depend on
REFERENCE_WORDS = 30  # of a reference that are compared


@dataclass(frozen=True)
class SelfCriticalConfig:
    """How a captioner is trained by reward; start from ``settings_for``."""

    student: SamplingConfig = field(default_factory=SamplingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    samples: int = knob(5, "captions drawn from each prediction")
    repeated: float = knob(0.3, "CIDEr-D that a repeated word costs, if people never repeat it")
    seldom: float = knob(0.15, "CIDEr-D that three words in a row cost which people hardly write")
    kept: float = knob(0.1, "weight of LaDiC's own losses")
    kept_photos: int = knob(12, "photos of a step that those are computed on")
    shortest: int = knob(7, "words of a drawn caption at least")
    longest: int = knob(14, "words of a drawn caption at most")
    block: int = knob(
        -1,
        "first block of an EfficientNet that is trained, too; -1: the encoder stays, and photos are encoded once",
    )
    encoder_lr: float = knob(1e-4, "peak learning rate of the encoder")
    views: int = knob(3, "views of each photo in the feature cache, where it has to be made")
    features: str = knob("", "folder of the image-feature cache; default OUT/features")
    watch_photos: int = knob(200, "photos of the periodic evaluation")

    def __post_init__(self) -> None:
        require(self.samples >= 2, f"samples={self.samples} leaves nothing to compare with; use at least 2")
        for name in ("kept", "repeated", "seldom"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} must not be negative")
        require(self.kept_photos >= 1, f"kept_photos={self.kept_photos} must be at least 1")
        require(self.views >= 1, f"views={self.views} must be at least 1")
        require(
            self.kept_photos <= self.train.photos,
            f"kept_photos={self.kept_photos} are more than train.photos={self.train.photos}; lower them",
        )
        require(self.encoder_lr > 0, f"encoder_lr={self.encoder_lr} must be positive")
        require(
            1 <= self.shortest <= self.longest,
            f"shortest={self.shortest} must be at least 1, and not above longest={self.longest}",
        )
        require(
            self.student.guidance == 0,
            f"student.guidance={self.student.guidance} would cost a second branch; leave it at 0",
        )
        require(
            self.student.length > 0,
            "student.length=0: the reward is of captions of told lengths; pass student.length=10, say",
        )
        for name in ("refine", "early_exit"):
            require(getattr(self.student, name) == 0, f"student.{name} cannot be trained; leave it at 0 here")
        require(
            not self.train.init and not self.train.text_only,
            "train.init and train.text_only have no meaning here; the model given is what is trained",
        )


def settings_for(sampling: SamplingConfig) -> SelfCriticalConfig:
    """The usual settings for a captioner that samples in the given way: two unguided steps, from much noise both."""
    student = dataclasses.replace(
        sampling,
        steps=2,
        spacing="log-snr",
        clamp=True,
        guidance=0.0,
        early_exit=0,
        refine=0,
        candidates=1,
        length=sampling.length or 10,
    )
    train = TrainConfig(
        steps=2000,
        photos=48,
        copies=2,
        optimizer="muon",
        lr=2e-4,
        muon_lr=3e-4,
        weight_decay=0.02,
        decay="cosine",
        warmup=40,
        ema=0.995,
        neighbour_captions=5,
        agreement=1.0,
        log_every=10,
        save_every=100,
        sample_every=500,
    )
    return SelfCriticalConfig(student=student, train=train)


def self_critical(
    captioner: Captioner,
    tokenizer: Any,
    photos: Sequence[CaptionedPhoto],
    text: Sequence[str],
    watched: Sequence[CaptionedPhoto],
    config: SelfCriticalConfig,
    out: Path,
    console: Console | None = None,
) -> Captioner:
    """Train a captioner's few steps by CIDEr-D of the captions it draws, or go on where a killed run stopped.

    Writes ``out/checkpoint``, ``out/curves.jsonl``, ``out/samples.jsonl`` and ``out/model``, which samples in few
    steps by default.

    Args:
        captioner: trained in place: its denoiser, its LM head and, if asked, its encoder's upper blocks.
        tokenizer: its.
        photos: captioned, learned from.
        text: more captions, from which it is counted what people write; may be empty.
        watched: captioned photos, none of the others, that it is scored on; may be empty.
        config: all settings.
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Returns:
        The captioner.

    Raises:
        InputError: no photos, or one twice or also watched, or ``out`` holds a run of other settings.
    """
    console, train = console or Console(stderr=True), config.train
    watched = watched[: config.watch_photos]
    if not photos:
        raise InputError("no photos to learn from; pass --data NAME:ROOT:SPLIT")
    check_photos(photos, watched)
    for name, words in (("longest", config.longest), ("student.length", config.student.length)):
        require(
            words <= captioner.length - 2,
            f"{name}={words}: captions of this model have at most {captioner.length - 2} words; lower it",
        )
    make_folder(out)
    accelerator = tracked_accelerator(train.tracker, out)
    captioner.to(accelerator.device)
    captioner.defaults = config.student
    captioner.config.sampling = dataclasses.asdict(config.student)
    with progress_bar(console, accelerator.is_main_process) as progress:
        features = tokens_once(captioner, [*photos, *watched], config, out, progress, accelerator)
        names = [photo.id for photo in photos]
        examples = prepare_examples(
            captioner,
            tokenize_for(make(TextConfig, captioner.config.text, "text"), tokenizer),
            with_neighbours([photo.captions for photo in photos], train.neighbour_captions),
            features.rows(names) if features else torch.arange(len(photos)),
            agreement=train.agreement,
        )
        objective = SelfCriticalObjective(
            captioner,
            config.student,
            CiderReward(
                references_of(photos, tokenizer),
                len(tokenizer),
                config.repeated,
                word_rows(text, tokenizer),
                config.seldom,
            ),
            torch.from_numpy(
                word_ids(tokenizer, captioner.text.special_ids, captioner.config.bert["vocab_size"])
            ),
            samples=config.samples,
            kept=config.kept,
            block=None if features else config.block,
        ).to(accelerator.device)
        seen = features or ReadPhotos(captioner, watched)
        run = Run(captioner, tokenizer, seen, watched, RunLog(out, console, progress, accelerator))

        if not run.log.begin(train.steps) and accelerator.is_main_process:
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
            report=run.log.report,
            evaluate=run.score,
            accelerator=accelerator,
        )
    if accelerator.is_main_process:
        run.save()
        save_frequency(photos, out)
    accelerator.end_training()
    return captioner


def references_of(photos: Sequence[CaptionedPhoto], tokenizer: Any) -> Int[Tensor, "photos most length"]:
    """Word ids of each photo's captions as metrics read them, without punctuation; -1 behind their ends."""
    most = max(len(photo.captions) for photo in photos)
    ids = torch.full((len(photos), most, REFERENCE_WORDS), -1)
    there = torch.tensor([[i < len(photo.captions) for i in range(most)] for photo in photos])
    ids[there] = word_rows([caption for photo in photos for caption in photo.captions], tokenizer)
    return ids


def word_rows(captions: Sequence[str], tokenizer: Any) -> Int[Tensor, "captions length"]:
    """Word ids of captions as metrics read them, without punctuation; -1 behind their ends.

    COCO's tokeniser drops capitals, so words of a vocabulary that has them are cut by the one of all scripts.
    """
    ids = torch.full((len(captions), REFERENCE_WORDS), -1)
    cut = unicode_words(captions, lower=False) if keeps_capitals(tokenizer) else agreement_words(captions)
    for row, words in zip(ids, cut, strict=True):
        said = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(" ".join(words)))[:REFERENCE_WORDS]
        row[: len(said)] = torch.tensor(said, dtype=row.dtype)
    return ids


def batches(
    examples: Examples,
    photos: Features | Sequence[CaptionedPhoto],
    config: SelfCriticalConfig,
    objective: SelfCriticalObjective,
) -> Callable[[int, int, int], tuple[Any, ...]]:
    """The objective's arguments at a step: a pure function of seed, step and rank; every photo once per epoch.

    A caption to be drawn has as many words as one of its photo's, within the bounds.

    Args:
        examples: captions of the photos.
        photos: their tokens or, where the encoder is trained, they themselves.
        config: all settings.
        objective: what is trained.
    """
    train, special = config.train, torch.tensor(objective.text.special_ids)
    length, dim = examples.x0.shape[1:]

    def batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        chosen = photos_of_step(len(examples.rows), train.photos, train.seed, step, rank, world)
        generator = generator_at(train.seed, 4, step, rank)
        image = image_of_step(photos, objective.seeing, examples, chosen, (train.seed, step), generator)
        words = lengths_of(examples.ids[examples.draw(chosen, train.copies, generator)], special)
        noise = torch.randn(objective.rollout.calls, len(words), length, dim, generator=generator)
        kept = examples.draw(chosen[: config.kept_photos], train.copies, generator)
        draws = objective.ladic.sample(
            photos=config.kept_photos,
            copies=train.copies,
            length=length,
            dim=dim,
            generator=generator_at(train.seed, 2, step, rank),
        )
        return (
            image,
            chosen,
            words.clamp(config.shortest, config.longest),
            noise,
            generator.initial_seed(),
            examples.x0[kept].float(),
            examples.ids[kept],
            draws,
        )

    return batch_at
