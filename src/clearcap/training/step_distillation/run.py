"""From a trained captioner to a student that captions in one or two steps without guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from clearcap.captioner.model import Captioner
from clearcap.config import SamplingConfig, TrainConfig, check_choices, knob, require
from clearcap.data.features import Features
from clearcap.data.images import PhotoFile
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder, write_json
from clearcap.errors import InputError
from clearcap.sampling.selection import UTILITIES
from clearcap.training.encoder.targets import list_photos
from clearcap.training.examples import sides_of
from clearcap.training.log import RunLog, Scored, progress_bar, shown, tracked_accelerator
from clearcap.training.loop import fit
from clearcap.training.optimizers import make_optimizers
from clearcap.training.run import Run, cached_features, check_photos
from clearcap.training.step_distillation.objective import StepDistillationObjective
from clearcap.training.step_distillation.teacher_samples import (
    TARGETS,
    TeacherSamples,
    choose_targets,
    read_captions,
    sample_teacher,
    take_targets,
)

UNUSED = ("null_image", "text.weight", "text.bias")  # of a denoiser, without guidance
PLACES = ("features", "samples", "views", "watch_photos")  # settings that the weights do not depend on


@dataclass(frozen=True)
class StepDistillationConfig:
    """How a student is distilled; start from ``settings_for``."""

    teacher: SamplingConfig = field(default_factory=SamplingConfig)
    student: SamplingConfig = field(default_factory=SamplingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    target: str = knob(
        "mbr-photo",
        "the caption a variant is given: that of its own start noise, the minimum-Bayes-risk one of its draws, "
        "or that of all draws of its photo",
        TARGETS,
    )
    utility: str = knob("bleu", "utility of minimum Bayes risk", tuple(UTILITIES))
    variants: int = knob(4, "variants of a photo: view 0, its mirror image, view 1, its mirror image ...")
    draws: int = knob(1, "captions the teacher samples of each variant")
    caption_weight: float = knob(1.0, "lambda of the caption loss")
    views: int = knob(2, "views of each photo in the feature cache, where it has to be made")
    features: str = knob("", "folder of the image-feature cache; default OUT/features")
    samples: str = knob(
        "", "folder of the teacher's samples, which runs may share; default OUT/teacher-samples"
    )
    watch_photos: int = knob(200, "photos of the periodic evaluation")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("variants", "draws", "views"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(self.caption_weight >= 0, f"caption_weight={self.caption_weight} must not be negative")
        require(
            self.target != "mbr" or self.draws >= 3,
            f"target=mbr chooses among draws of one variant, and draws={self.draws} leaves nothing to choose; "
            "pass draws=3 or more, or target=mbr-photo",
        )
        require(
            self.target != "draw" or self.train.copies <= self.draws,
            f"train.copies={self.train.copies} of a photo would repeat its draws={self.draws}; lower it",
        )
        require(
            self.student.guidance == 0,
            f"student.guidance={self.student.guidance} would cost a second branch; leave it at 0",
        )
        for name in ("refine", "early_exit"):
            require(getattr(self.student, name) == 0, f"student.{name} cannot be trained; leave it at 0 here")
        require(
            not self.train.init and not self.train.text_only,
            "train.init and train.text_only have no meaning here; the student starts as the teacher",
        )


def settings_for(sampling: SamplingConfig) -> StepDistillationConfig:
    """The usual settings for a teacher that samples in the given way.

    The student keeps the teacher's solver, noise factor and start noise; it takes two steps, evenly spaced, and is
    told the one length that its teacher is told.
    """
    teacher = dataclasses.replace(sampling, candidates=1, refine=0)
    student = dataclasses.replace(
        teacher, steps=2, spacing="uniform", guidance=0.0, early_exit=0, min_length=0, max_length=0
    )
    train = TrainConfig(
        steps=1000,
        photos=64,
        copies=1,
        optimizer="muon",
        lr=1e-3,
        muon_lr=1e-3,
        warmup=30,
        ema=0.99,
        log_every=10,
        save_every=100,
        sample_every=250,
    )
    return StepDistillationConfig(teacher=teacher, student=student, train=train)


def photos_in(folders: Sequence[Path], but: Collection[str] = ()) -> list[CaptionedPhoto]:
    """The photo files in folders, without captions, by file name.

    Args:
        folders: of photos.
        but: names left out: photos of a corpus, given or watched, whose folder this is.

    Raises:
        InputError: a folder is absent or holds no photo.
    """
    files = [file for file in list_photos(folders) if file.name not in but]
    return [CaptionedPhoto(file.name, PhotoFile(file), ()) for file in files]


def distill_steps(
    captioner: Captioner,
    tokenizer: Any,
    photos: Sequence[CaptionedPhoto],
    watched: Sequence[CaptionedPhoto],
    config: StepDistillationConfig,
    out: Path,
    console: Console | None = None,
) -> Captioner:
    """Train the captioner to say in a few steps what it says in many, or go on where a killed run stopped.

    The teacher captions every variant of every photo once (``teacher_samples``); then its denoiser, the text space
    and image encoder frozen, learns those captions (``objective``). Photos need no captions, and those that the
    teacher was not trained on show best what it says of new ones.

    Writes ``out/teacher-samples``, ``out/teacher.json``, ``out/checkpoint``, ``out/curves.jsonl``,
    ``out/samples.jsonl`` (scores of every number of steps up to the student's) and ``out/model``, which samples in few
    steps by default.

    Args:
        captioner: the teacher; turned into the student in place.
        tokenizer: its.
        photos: what the teacher captions.
        watched: captioned photos, none of the others, that both are scored on; may be empty.
        config: all settings.
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Returns:
        The student.

    Raises:
        InputError: no photos, or one twice or also watched, or ``out`` holds a run of other settings.
    """
    console, train = console or Console(stderr=True), config.train
    watched = watched[: config.watch_photos]
    if not photos:
        raise InputError("no photos to sample the teacher on; pass --data NAME:ROOT:SPLIT or --photos FOLDER")
    check_photos(photos, watched)
    make_folder(out)
    accelerator = tracked_accelerator(train.tracker, out)
    captioner.to(accelerator.device)
    with progress_bar(console, accelerator.is_main_process) as progress:
        with accelerator.main_process_first():  # the others find both done
            folder = Path(config.features or out / "features")
            features = cached_features(captioner, [*photos, *watched], folder, config.views, progress)
            task = progress.add_task("teacher", total=len(photos) * config.variants * config.draws)
            samples = sample_teacher(
                captioner,
                features,
                features.rows([photo.id for photo in photos]),
                Path(config.samples or out / "teacher-samples"),
                sampling=config.teacher,
                variants=config.variants,
                draws=config.draws,
                seed=train.seed,
                advance=lambda captions: progress.advance(task, captions),
            )
        run = Run(captioner, tokenizer, features, watched, RunLog(out, console, progress, accelerator))
        if watched and accelerator.is_main_process:
            _score_teacher(run, config.teacher)
        _fit_student(run, features, samples, config)
    if accelerator.is_main_process:
        run.save()
    accelerator.end_training()
    return captioner


def _fit_student(
    run: Run, features: Features, samples: TeacherSamples, config: StepDistillationConfig
) -> None:
    """Train the student; at the end the captioner is it."""
    captioner, accelerator = run.captioner, run.log.accelerator
    captions = read_captions(samples, run.tokenizer, captioner.text.special_ids)
    chosen = choose_targets(captions, config.target, config.utility, sides_of(captioner))
    captioner.defaults = config.student
    captioner.config.sampling = dataclasses.asdict(config.student)
    captioner.text.requires_grad_(False)
    for name, parameter in captioner.denoiser.named_parameters():
        if name in UNUSED:
            parameter.requires_grad_(False)  # several processes would wait for its gradient
    objective = StepDistillationObjective(captioner, config.student, config.caption_weight)

    def evaluate(step: int) -> None:
        if run.watched:
            run.evaluate(step, _score_student(run, config.student))

    if not run.log.begin(config.train.steps) and accelerator.is_main_process:
        evaluate(0)  # what the teacher says in so few steps, for comparison
    settings = dataclasses.asdict(config)
    fit(
        captioner,
        objective,
        make_optimizers(objective, config.train),
        partial(
            take_targets,
            samples,
            chosen,
            features,
            config.train,
            calls=objective.calls,
        ),
        config.train,
        run.log.out,
        settings={name: value for name, value in settings.items() if name not in PLACES},
        report=run.log.report,
        evaluate=evaluate,
        accelerator=accelerator,
    )


def _score_teacher(run: Run, sampling: SamplingConfig) -> None:
    file = run.log.out / "teacher.json"
    if file.is_file():
        return  # a resumed run, whose captioner is the teacher no longer or will not be for long
    captions, scores = run.sample(sampling)
    write_json(file, {"scores": scores, "captions": captions})
    run.log.console.print(f"teacher, {sampling.steps} steps, guidance {sampling.guidance:g}: {shown(scores)}")


def _score_student(run: Run, sampling: SamplingConfig) -> Scored:
    """Captions and scores in all steps, and the scores in fewer under names such as "CIDEr-D 1"."""
    captions, scores = run.sample(sampling)
    for steps in range(1, sampling.steps):
        _, found = run.sample(dataclasses.replace(sampling, steps=steps))
        scores |= {f"{name} {steps}": value for name, value in found.items()}
    return captions, scores
