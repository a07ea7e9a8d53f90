"""Distillation: trains a compact encoder to predict what a teacher sees, resumably, within a given time."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clearcap.errors import InputError
from clearcap.training.checkpoint import (
    load_checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    save_checkpoint,
)
from clearcap.training.encoder import objective
from clearcap.training.encoder.batches import Batch, Data, prepare, read_names, shrunk, step_generator
from clearcap.training.encoder.live import LiveData
from clearcap.training.encoder.optimizers import make_optimizers
from clearcap.training.encoder.settings import DistillConfig
from clearcap.training.encoder.starting import load_like, start_from, turn_to
from clearcap.training.encoder.targets import build_targets, list_photos
from clearcap.vision.compact import CompactEncoder

REPLAN_STEPS = 50  # steps between two looks at the clock
LOG_STEPS = 50
CHANGEABLE = (  # in a resumed run
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
        self.remember()
        self.optimizers = make_optimizers(
            encoder, heads, config.optimizer == "muon", config.lr, config.weight_decay
        )
        self.step = 0
        self.progress = 0.0  # of the schedule, 0..1
        self.rate = 1e-4  # progress per step, until the clock tells
        self.seconds = 0.0  # of training so far

    def remember(self) -> None:
        """Begin the average at the weights as they are."""
        self.average = {k: v.clone() for k, v in self.model.state_dict().items() if v.is_floating_point()}

    def finished(self) -> bool:
        """Whether the schedule has run to its end."""
        return self.progress >= 1

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        warmup, progress = self.config.warmup, self.progress
        if progress < warmup:
            return self.config.lr * (progress + 1e-3) / (warmup + 1e-3)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

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
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = self.learning_rate()
        terms = self.losses(batch)
        self.model.zero_grad()
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(self.config.ema, self.step / (self.step + 10))  # a short memory at first
        state = self.model.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [state[k] for k in self.average], 1 - decay)
        return {name: term.detach() for name, term in terms.items()}

    def save(self, folder: Path) -> None:
        """Write everything to a checkpoint."""
        tensors = module_tensors(self.model, "model") | {f"average.{k}": v for k, v in self.average.items()}
        for number, optimizer in enumerate(self.optimizers):
            tensors |= optimizer_tensors(optimizer, f"optimizer{number}")
        place = {"step": self.step, "progress": self.progress, "rate": self.rate, "seconds": self.seconds}
        save_checkpoint(folder, tensors, place | {"config": asdict(self.config)})

    def load(self, folder: Path) -> bool:
        """Continue from a checkpoint; False where there is none.

        Raises:
            InputError: it is damaged, or was written under other settings.
        """
        found = load_checkpoint(folder)
        if found is None:
            return False
        tensors, place = found
        own = json.loads(json.dumps(asdict(self.config)))
        changed = [name for name in own if name not in CHANGEABLE and own[name] != place["config"].get(name)]
        if changed:
            raise InputError(
                f"{folder}: written with other settings ({', '.join(changed)}); pass another out folder"
            )
        restore_module(self.model, "model", tensors)
        self.average = {k: v.to(self.device) for k, v in _part(tensors, "average.").items()}
        for number, optimizer in enumerate(self.optimizers):
            restore_optimizer(optimizer, f"optimizer{number}", tensors)
            for parameter, state in optimizer.state.items():
                # Files hold plain row-major tensors; mixed memory formats would slow every step down.
                like = torch.empty_like(parameter, requires_grad=False)
                shaped = {k: like.clone().copy_(m) for k, m in state.items() if m.shape == parameter.shape}
                state.update(shaped)
        self.step, self.progress = place["step"], place["progress"]
        self.rate, self.seconds = place["rate"], place["seconds"]
        return True

    def averaged(self) -> nn.ModuleDict:
        """Encoder and heads with the averaged weights, in evaluation mode, batch norms folded."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(model.state_dict() | self.average)
        return nn.ModuleDict({"encoder": _encoder(model).folded(), "heads": model["heads"]}).eval()


def _encoder(model: nn.ModuleDict) -> CompactEncoder:
    encoder = model["encoder"]
    assert isinstance(encoder, CompactEncoder)
    return encoder


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shown = bar.add_task("photos" if config.views == 0 else "teacher features")
        data = _open_data(config, device, lambda done, total: bar.update(shown, completed=done, total=total))
        run = Run(config, data.grid, data.size, data.classes, len(data.vocabulary), device)
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        checkpoint = out / "checkpoint"
        if not run.load(checkpoint) and config.init:
            _begin_from(config.init, run, data)
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
    photos, held_out, captions = (
        list_photos(config.photos),
        read_names(config.held_out),
        dict[str, list[str]](),
    )
    if config.captions:
        captions = objective.read_captions(config.captions)
    captioned = read_names(config.captioned) or set(captions)
    split = (held_out, captions, captioned, config.words)
    if config.views == 0:
        return LiveData(
            photos, config.teacher, config.dim, *split, config.seed, config.init, device, report=report
        )
    store = build_targets(
        config.cache,
        photos,
        frozenset(held_out),
        config.teacher,
        config.views,
        config.dim,
        config.seed,
        config.workers,
        report=report,
    )
    return Data(store, *split)


def _begin_from(folder: str, run: Run, data: Data | LiveData) -> None:
    """The weights of an earlier encoder, in the targets' axes: live ones are in its own."""
    encoder = _encoder(run.model)
    if isinstance(data, LiveData):
        encoder.load_state_dict(load_like(folder, encoder).state_dict())
    else:
        start_from(folder, encoder, data.store, data.rows)
    run.remember()


def _batches(run: Run, data: Data | LiveData) -> Iterator[Batch]:
    """The run's batches from its step on, at the size of the moment."""
    config = run.config
    if isinstance(data, LiveData):
        for batch in data.batches(run.step, config.batch):
            images, tokens = shrunk(batch.images, batch.tokens, run.image_size())
            yield batch._replace(images=images, tokens=tokens)
        return
    for raw in data.batches(run.step, config.batch, config.views, config.seed):
        batch = prepare(raw, run.image_size(), step_generator(config.seed + 1, run.step))
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


def planned_rate(progress: float, step_seconds: float, seconds_left: float) -> float:
    """Share of the schedule per step with which it ends when the time is over.

    Ten steps at least are left to anneal in, however late it is.
    """
    return (1 - progress) / max(10.0, seconds_left / step_seconds)


@torch.inference_mode()
def validate(model: nn.ModuleDict, data: Data | LiveData, batch: int) -> dict[str, float]:
    """Measures on the held-out photos: tokens' cosine and R2, class agreement, words' average precision."""
    if not data.held_out:
        return {}
    images, targets, teacher = data.held(batch)
    device = next(model.parameters()).device
    tokens = torch.cat([model["encoder"](part.to(device)) for part in images])
    classes, words = model["heads"](tokens)
    targets, teacher = targets.to(device), teacher.to(device)
    metrics = objective.agreement(tokens, targets)
    if teacher.shape[1]:
        metrics["class_agreement"] = (classes.argmax(-1) == teacher.argmax(-1)).float().mean().item()
    if data.held_out_words.any():
        metrics["word_ap"] = objective.mean_average_precision(words.cpu().numpy(), data.held_out_words)
    return metrics


def _log(folder: Path, record: Mapping[str, float | int]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({k: round(v, 5) for k, v in record.items()}) + "\n")


def _export(run: Run, data: Data | LiveData, folder: Path, metrics: dict[str, float]) -> DistillResult:
    """Write the averaged encoder, batch norms unfolded so that it can be trained on."""
    from safetensors.torch import save_file

    weights, settings = folder / "encoder.safetensors", folder / "encoder.json"
    encoder = copy.deepcopy(_encoder(run.model)).eval()
    encoder.load_state_dict(encoder.state_dict() | _part(run.average, "encoder."))
    encoder.cpu()
    if run.config.init and isinstance(data, Data):
        turn_to(run.config.init, encoder, data.store, data.rows)
    save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, weights)
    record = {
        "encoder": _encoder(run.model).settings(),
        "metrics": metrics,
        "steps": run.step,
        "seconds": run.seconds,
        "config": asdict(run.config),
    }
    settings.write_text(json.dumps(record, indent=2) + "\n")
    return DistillResult(weights, settings, metrics)
