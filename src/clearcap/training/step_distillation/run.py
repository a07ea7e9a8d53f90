"""From a trained captioner to a student that captions in one or two steps without guidance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from clearcap.captioner.model import Captioner
from clearcap.config import SamplingConfig, TrainConfig, check_choices, knob, require
from clearcap.data.features import Features
from clearcap.data.images import PhotoFile
from clearcap.data.records import CaptionedPhoto, several
from clearcap.errors import InputError
from clearcap.sampling.selection import UTILITIES
from clearcap.training.encoder.targets import list_photos
from clearcap.training.loop import fit
from clearcap.training.run import Curves, cached_features, progress_bar, sample, save, tracked_accelerator
from clearcap.training.step_distillation.objective import Imitation
from clearcap.training.step_distillation.teacher_samples import (
    TARGETS,
    Taught,
    choose_targets,
    read_captions,
    take_targets,
    teach,
)

FREE = ("log_every", "save_every", "sample_every", "tracker")  # of train; may change when a run resumes

UNUSED = ("null_image", "text.weight", "text.bias")  # of a denoiser, without guidance


@dataclass(frozen=True)
class FewStepsConfig:
    """How a student is taught; start from ``few_steps``."""

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
    draws: int = knob(1, "captions the teacher draws of each variant")
    caption_weight: float = knob(1.0, "lambda of the caption loss")
    views: int = knob(2, "views of each photo in the feature cache, where it has to be made")
    features: str = knob("", "folder of the image-feature cache; default OUT/features")
    taught: str = knob("", "folder of the teacher's captions, which runs may share; default OUT/taught")
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


def few_steps(sampling: SamplingConfig) -> FewStepsConfig:
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
    return FewStepsConfig(teacher=teacher, student=student, train=train)


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
    config: FewStepsConfig,
    out: Path,
    console: Console | None = None,
) -> Captioner:
    """Teach the captioner to say in a few steps what it says in many, or go on where a killed run stopped.

    The teacher captions every variant of every photo once (``clearcap.training.step_distillation.teacher_samples``); then its denoiser,
    the text space and image encoder frozen, learns those captions (``clearcap.training.step_distillation.objective``). Photos need
    no captions, and those that the teacher was not trained on show best what it says of new ones.

    Writes ``out/taught``, ``out/teacher.json``, ``out/checkpoint``, ``out/curves.jsonl``, ``out/samples.jsonl``
    (scores of every number of steps up to the student's) and ``out/model``, which samples in few steps by default.

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
    _check_photos(photos, watched)
    out.mkdir(parents=True, exist_ok=True)
    _keep_settings(out / "settings.json", config)
    accelerator = tracked_accelerator(train.tracker, out)
    folder = Path(config.features or out / "features")
    captioner.to(accelerator.device)
    with accelerator.main_process_first():
        features = cached_features(captioner, [*photos, *watched], folder, config.views, console)
    with progress_bar(console, accelerator) as progress:
        with accelerator.main_process_first():  # the others find it done
            task = progress.add_task("teacher", total=len(photos) * config.variants * config.draws)
            taught = teach(
                captioner,
                features,
                features.rows([photo.id for photo in photos]),
                Path(config.taught or out / "taught"),
                sampling=config.teacher,
                variants=config.variants,
                draws=config.draws,
                seed=train.seed,
                advance=lambda captions: progress.advance(task, captions),
            )
        if watched and accelerator.is_main_process:
            _score_teacher(captioner, tokenizer, features, watched, config.teacher, out, console)
        _imitate(captioner, tokenizer, features, taught, watched, config, out, console, progress, accelerator)
    if accelerator.is_main_process:
        save(captioner, tokenizer, out)
    accelerator.end_training()
    return captioner


def _imitate(
    captioner: Captioner,
    tokenizer: Any,
    features: Features,
    taught: Taught,
    watched: Sequence[CaptionedPhoto],
    config: FewStepsConfig,
    out: Path,
    console: Console,
    progress: Any,
    accelerator: Any,
) -> None:
    """Train the student; at the end the captioner is it."""
    captions = read_captions(taught, tokenizer, captioner.text.special_ids)
    chosen = choose_targets(captions, config.target, config.utility)
    captioner.defaults = config.student
    captioner.config.sampling = dataclasses.asdict(config.student)
    captioner.text.requires_grad_(False)
    for name, parameter in captioner.denoiser.named_parameters():
        if name in UNUSED:
            parameter.requires_grad_(False)  # several processes would wait for its gradient
    objective = Imitation(captioner, config.student)
    curves = Curves(out, accelerator, progress, config.train.steps)

    def batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        return take_targets(
            taught,
            chosen,
            features,
            config.train,
            step,
            rank,
            world,
            calls=objective.calls,
            device=accelerator.device,
        )

    def evaluate(step: int) -> None:
        if watched:
            curves.sample(
                step,
                _score_student(captioner, tokenizer, features, watched, config.student),
                console,
                lambda: save(captioner, tokenizer, out),
            )

    if not curves.reached and accelerator.is_main_process:
        evaluate(0)  # what the teacher says in so few steps, for comparison
    fit(
        captioner,
        objective,
        batch_at,
        config.train,
        out,
        caption_weight=config.caption_weight,
        report=curves.write,
        evaluate=evaluate,
        accelerator=accelerator,
    )


def _score_teacher(
    captioner: Captioner,
    tokenizer: Any,
    features: Features,
    watched: Sequence[CaptionedPhoto],
    sampling: SamplingConfig,
    out: Path,
    console: Console,
) -> None:
    if (out / "teacher.json").is_file():
        return  # a resumed run, whose captioner is the teacher no longer or will not be for long
    captions, scores = sample(captioner, tokenizer, features, watched, sampling)
    (out / "teacher.json").write_text(json.dumps({"scores": scores, "captions": captions}, indent=1))
    console.print(f"teacher, {sampling.steps} steps, guidance {sampling.guidance:g}: {_said(scores)}")


def _score_student(
    captioner: Captioner,
    tokenizer: Any,
    features: Features,
    watched: Sequence[CaptionedPhoto],
    sampling: SamplingConfig,
) -> tuple[dict[str | int, str], dict[str, float]]:
    """Captions and scores in all steps, and the scores in fewer under names such as "CIDEr-D 1"."""
    captions, scores = sample(captioner, tokenizer, features, watched, sampling)
    for steps in range(1, sampling.steps):
        fewer = dataclasses.replace(sampling, steps=steps)
        _, found = sample(captioner, tokenizer, features, watched, fewer)
        scores |= {f"{name} {steps}": value for name, value in found.items()}
    return captions, scores


def _said(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def _check_photos(photos: Sequence[CaptionedPhoto], watched: Sequence[CaptionedPhoto]) -> None:
    if not photos:
        raise InputError("no photos to teach with; pass --data NAME:ROOT:SPLIT or --photos FOLDER")
    seen: set[str] = set()
    twice = [photo.id for photo in photos if photo.id in seen or seen.add(photo.id)]  # type: ignore[func-returns-value]
    if twice:
        raise InputError(f"{several(twice, 'photo')} given twice; pass each corpus once")
    held = [photo.id for photo in watched if photo.id in seen]
    if held:
        raise InputError(f"{several(held, 'photo')} of --watch would be taught with; pass another split")


def _keep_settings(file: Path, config: FewStepsConfig) -> None:
    """Write the run's settings, or see that a resumed run has the same."""
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    if file.is_file():
        before = json.loads(file.read_text())
        changed = [name for name in settings if _fixed(before.get(name)) != _fixed(settings[name])]
        if changed:
            raise InputError(
                f"{file.parent} holds a run of other settings ({changed[0]}); give the same or another --out"
            )
    file.write_text(json.dumps(settings, indent=1))


def _fixed(section: Any) -> Any:
    return {k: v for k, v in section.items() if k not in FREE} if isinstance(section, dict) else section
