"""Distillation: trains a compact encoder to predict what a teacher sees, resumably, within a given time."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from clearcap.data.writing import make_folder, whole_file, write_json
from clearcap.errors import InputError
from clearcap.training.checkpoint import RunState
from clearcap.training.encoder import objective
from clearcap.training.encoder.batches import Batch, Data, Split
from clearcap.training.encoder.live import LiveData
from clearcap.training.encoder.settings import DistillConfig
from clearcap.training.encoder.starting import load_like, start_from, turn_to
from clearcap.training.encoder.targets import build_targets, list_photos
from clearcap.training.log import keep_until, progress_bar
from clearcap.training.loop import (
    Averaged,
    descend,
    learning_rate_by_progress,
    planned_rate,
    set_learning_rates,
)
from clearcap.training.optimizers import split_optimizers
from clearcap.vision.compact import CompactEncoder

REPLAN_STEPS = 50  # steps between two looks at the clock
LOG_STEPS = 50
METRICS = "metrics.jsonl"
FREE = (  # may change when a run resumes
    "out",
    "cache",
    "views",
    "workers",
    "checkpoint_minutes",
    "validate_steps",
    "class_weight",
    "word_weight",
    "sizes",
    "switches",
)


class DistillResult(NamedTuple):
    """Where the exported encoder is, and what it scores on the held-out photos."""

    weights: Path
    settings: Path
    metrics: dict[str, float]


class Run:
    """The whole state of a training run: student, average, optimiser, progress."""

    def __init__(
        self, config: DistillConfig, grid: int, size: int, classes: int, words: int, device: torch.device
    ) -> None:
        """A run at its beginning.

        Raises:
            InputError: the teacher's grid is not the student's.
        """
        self.config = config
        with torch.random.fork_rng([]):
            torch.manual_seed(config.seed)  # torch's initialisers take no generator
            encoder = CompactEncoder(config.dim, config.widths, config.depths, config.mixers, image_size=size)
            heads = objective.AuxiliaryHeads(config.dim, classes, words)
        if encoder.tokens != grid**2:
            raise InputError(
                f"{config.teacher}: a grid of {grid} x {grid}, but the encoder has {encoder.tokens} tokens; "
                "pass a teacher with one token per 32 x 32 pixels"
            )
        self.device = device
        self.model = nn.ModuleDict({"encoder": encoder, "heads": heads}).to(device)
        self.optimizers = split_optimizers(
            dict(self.model.named_parameters()),
            [f"encoder.{name}" for name, p in encoder.named_parameters() if self.is_muons(name, p)],
            lr=config.lr,
            muon_lr=config.lr,
            weight_decay=config.weight_decay,
        )
        self.remember()
        self.step = 0
        self.progress = 0.0  # of the schedule, 0..1
        self.rate = 1e-4  # progress per step, until the clock tells
        self.seconds = 0.0  # of training so far

    def is_muons(self, name: str, parameter: Tensor) -> bool:
        """Whether Muon is asked for, and a parameter of the encoder is a matrix or kernel between features."""
        inner = name.startswith(("stages.", "mixers.")) and parameter.ndim in (2, 4)
        return self.config.optimizer == "muon" and inner

    def remember(self) -> None:
        """Begin the average at the weights as they are."""
        self.average = Averaged({k: v for k, v in self.model.state_dict().items() if v.is_floating_point()})

    def finished(self) -> bool:
        """Whether the schedule has run to its end."""
        return self.progress >= 1

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the objective, unweighted, and their weighted sum `loss`."""
        config = self.config
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            tokens = self.model["encoder"](batch.images)
        tokens = tokens.float()
        classes, words = self.model["heads"](tokens)
        terms = {"feature": objective.feature_loss(tokens, batch.tokens)}
        total = terms["feature"]
        if batch.logits.shape[1]:
            terms["class"] = objective.class_loss(classes, batch.logits, config.temperature)
            total = total + config.class_weight * terms["class"]
        if batch.words.shape[1]:
            terms["word"] = objective.word_loss(words, batch.words, batch.known)
            total = total + config.word_weight * terms["word"]
        return {"loss": total, **terms}

    def image_size(self) -> int:
        """Side of the photos at this point of the schedule: small first, which is cheap, then full."""
        sizes, switches = self.config.sizes, self.config.switches
        chosen = sizes[sum(self.progress >= switch for switch in switches)] if sizes else 0
        return chosen or _encoder(self.model).image_size

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms."""
        rate = partial(learning_rate_by_progress, self.progress, warmup=self.config.warmup)
        set_learning_rates(self.optimizers, lambda peak: rate(peak=peak))
        terms = self.losses(batch)
        terms["loss"].backward()
        descend(self.model, self.optimizers, clip=5.0)
        self.step += 1
        # A short memory at first.
        self.average.update(self.model.state_dict(), min(self.config.ema, self.step / (self.step + 10)))
        return {name: term.detach() for name, term in terms.items()}

    @property
    def state(self) -> RunState:
        """What a checkpoint holds."""
        return RunState(self.model.state_dict(), self.average.values, self.optimizers)

    def save(self, folder: Path) -> None:
        """Write everything to a checkpoint."""
        place = {"step": self.step, "progress": self.progress, "rate": self.rate, "seconds": self.seconds}
        self.state.save(folder, asdict(self.config), place)

    def load(self, folder: Path) -> bool:
        """Continue from a checkpoint; False where there is none.

        Raises:
            InputError: it is damaged, or was written under other settings.
        """
        place = self.state.resume(folder, asdict(self.config), FREE)
        if place is None:
            return False
        self.step, self.progress = place["step"], place["progress"]
        self.rate, self.seconds = place["rate"], place["seconds"]
        return True

    def averaged(self) -> nn.ModuleDict:
        """Encoder and heads with the averaged weights, in evaluation mode, batch norms folded."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(model.state_dict() | self.average.values)
        return nn.ModuleDict({"encoder": _encoder(model).folded(), "heads": model["heads"]}).eval()


def _encoder(model: nn.ModuleDict) -> CompactEncoder:
    encoder = model["encoder"]
    assert isinstance(encoder, CompactEncoder)
    return encoder


def distill(config: DistillConfig, progress: bool = True) -> DistillResult:
    """Train a compact encoder, or go on with the run that `config.out` holds.

    Writes `checkpoint` (everything, for resuming) and `metrics.jsonl` while training, and
    `encoder.safetensors` (averaged weights, float32) with `encoder.json` (settings, metrics) at the end.

    Args:
        config: the settings.
        progress: show a progress bar on stderr.

    Raises:
        InputError: photos, teacher, captions or checkpoint do not fit the settings.
    """
    with progress_bar(Console(stderr=True), progress) as bar:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shown = bar.add_task("photos" if config.views == 0 else "teacher features")
        data = _open_data(config, device, lambda done, total: bar.update(shown, completed=done, total=total))
        run = Run(config, data.grid, data.size, data.classes, len(data.split.vocabulary), device)
        out = Path(config.out)
        make_folder(out)
        checkpoint = out / "checkpoint"
        if not run.load(checkpoint) and config.init:
            _begin_from(config.init, run, data)
        keep_until(out / METRICS, run.step)
        shown = bar.add_task("distilling", total=100)
        with torch.backends.cudnn.flags(benchmark=True):  # every step has the same shapes
            metrics = _train(
                run,
                data,
                checkpoint,
                lambda text: bar.update(shown, completed=100 * run.progress, description=text),
            )
    return _export(run, data, out, metrics)


def _open_data(
    config: DistillConfig, device: torch.device, report: Callable[[int, int], None]
) -> Data | LiveData:
    """Photos, targets and words: a store made beforehand, or a teacher that answers while the student learns."""
    photos = list_photos(config.photos)
    split = Split.read([photo.name for photo in photos], config)
    if config.views == 0:
        return LiveData(
            split, photos, config.teacher, config.dim, config.seed, config.init, device, report=report
        )
    store = build_targets(
        config.cache,
        photos,
        frozenset(photos[i].name for i in split.held_out),
        config.teacher,
        config.views,
        config.dim,
        config.seed,
        config.workers,
        report=report,
    )
    return Data(split, store, config.views, config.seed)


def _begin_from(folder: str, run: Run, data: Data | LiveData) -> None:
    """The weights of an earlier encoder, in the targets' axes: live ones are in its own."""
    encoder = _encoder(run.model)
    if isinstance(data, LiveData):
        encoder.load_state_dict(load_like(folder, encoder).state_dict())
    else:
        start_from(folder, encoder, data.store, data.split.rows)
    run.remember()


def _batches(run: Run, data: Data | LiveData) -> Iterator[Batch]:
    """The run's batches from its step on, at the size of the moment."""
    for step, raw in enumerate(data.batches(run.step, run.config.batch), run.step):
        batch = data.prepared(raw, step, run.image_size())
        yield Batch(*(part.to(run.device) for part in batch))


def _train(
    run: Run, data: Data | LiveData, checkpoint: Path, report: Callable[[str], None]
) -> dict[str, float]:
    """Step until the schedule ends; returns the last validation's metrics."""
    config, metrics = run.config, dict[str, float]()
    began = time.monotonic() - run.seconds
    saved = planned = time.monotonic()
    for batch in _batches(run, data):
        if run.finished():
            break
        terms = run.train_step(batch)
        run.seconds = time.monotonic() - began
        if not config.steps and run.step % REPLAN_STEPS == 0:
            step_seconds, planned = (time.monotonic() - planned) / REPLAN_STEPS, time.monotonic()
            run.rate = planned_rate(run.progress, step_seconds, 60 * config.minutes - run.seconds)
        run.progress = run.step / config.steps if config.steps else min(1.0, run.progress + run.rate)
        if run.step == 1 or run.step % LOG_STEPS == 0:
            measured = {name: term.item() for name, term in terms.items()}
            report(f"step {run.step} loss {measured['loss']:.3f}")
            _log(
                checkpoint.parent,
                {"step": run.step, "progress": run.progress, "seconds": run.seconds, **measured},
            )
        if run.step % config.validate_steps == 0 or run.finished():
            metrics = validate(run.averaged(), data, config.batch)
            _log(checkpoint.parent, {"step": run.step, **metrics})
        if time.monotonic() - saved > 60 * config.checkpoint_minutes or run.finished():
            run.save(checkpoint)
            saved = time.monotonic()
    return metrics or validate(run.averaged(), data, config.batch)


@torch.inference_mode()
def validate(model: nn.ModuleDict, data: Data | LiveData, batch: int) -> dict[str, float]:
    """Measures on the held-out photos: tokens' cosine and R2, class agreement, words' average precision."""
    if not data.split.held_out:
        return {}
    images, targets, teacher = data.held(batch)
    device = next(model.parameters()).device
    tokens = torch.cat([model["encoder"](part.to(device)) for part in images])
    classes, words = model["heads"](tokens)
    targets, teacher = targets.to(device), teacher.to(device)
    metrics = objective.agreement(tokens, targets)
    if teacher.shape[1]:
        metrics["class_agreement"] = (classes.argmax(-1) == teacher.argmax(-1)).float().mean().item()
    if data.split.held_out_words.any():
        metrics["word_ap"] = objective.mean_average_precision(words.cpu().numpy(), data.split.held_out_words)
    return metrics


def _log(folder: Path, record: Mapping[str, float | int]) -> None:
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps({k: round(v, 5) for k, v in record.items()}) + "\n")


def _export(run: Run, data: Data | LiveData, folder: Path, metrics: dict[str, float]) -> DistillResult:
    """Write the averaged encoder, batch norms unfolded so that it can be trained on."""
    from safetensors.torch import save_file

    weights, settings = folder / "encoder.safetensors", folder / "encoder.json"
    encoder = copy.deepcopy(_encoder(run.model)).eval()
    prefix = "encoder."
    averaged = {k.removeprefix(prefix): v for k, v in run.average.values.items() if k.startswith(prefix)}
    encoder.load_state_dict(encoder.state_dict() | averaged)
    encoder.cpu()
    if run.config.init and isinstance(data, Data):
        turn_to(run.config.init, encoder, data.store, data.split.rows)
    with whole_file(weights) as fresh:
        save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, fresh)
    record = {
        "encoder": _encoder(run.model).settings(),
        "metrics": metrics,
        "steps": run.step,
        "seconds": run.seconds,
        "config": asdict(run.config),
    }
    write_json(settings, record)
    return DistillResult(weights, settings, metrics)
