"""The training loop: optimisers, averaged weights, checkpoints and exact resume, whatever the objective."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clearcap.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from clearcap.config import TrainConfig
from clearcap.errors import InputError
from clearcap.training.schedules import generator_at, learning_rate

BatchAt = Callable[[int, int, int], tuple[Any, ...]]
"""(step, rank, world) -> the objective's arguments; a pure function, so that a killed run can repeat it."""
Batch = TypeVar("Batch")
AHEAD = 4
"""Batches made while a step runs, each by a thread of its own: what they take is one core's time, for drawing noise."""


def make_optimizers(objective: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices inside the blocks and AdamW for everything else."""
    named = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    if config.optimizer == "plain-adamw":  # both papers': betas 0.9 and 0.999, decay on vectors too
        return [torch.optim.AdamW([p for _, p in named], lr=config.lr, weight_decay=config.weight_decay)]
    inner = [p for name, p in named if config.optimizer == "muon" and ".blocks." in name and p.ndim == 2]
    held = {id(p) for p in inner}
    matrices = [p for _, p in named if id(p) not in held and p.ndim >= 2]
    vectors = [p for _, p in named if id(p) not in held and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},  # decay of norms and biases only shrinks what they rescale
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))]
    if inner:
        optimizers.append(
            torch.optim.Muon(
                inner, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimizers


@dataclass
class Averaged:
    """Exponential moving average of the trained parameters."""

    decay: float
    values: dict[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module, decay: float) -> Averaged:
        return cls(decay, {k: p.detach().clone() for k, p in module.named_parameters() if p.requires_grad})

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Blend in the current weights; early steps count more, so that the start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [p.detach() for _, p in module.named_parameters() if p.requires_grad]
        torch._foreach_lerp_(list(self.values.values()), current, 1 - decay)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange the module's weights with the averages; a second call undoes it."""
        for name, p in module.named_parameters():
            if p.requires_grad:
                kept = p.detach().clone()
                p.copy_(self.values[name])
                self.values[name].copy_(kept)


@dataclass(frozen=True)
class StepReport:
    """What one step measured; ``latent`` in latent units, ``caption`` in nats per position."""

    step: int
    latent: float
    caption: float
    lr: float
    grad_norm: float


def make_accelerator(**settings: Any) -> Any:
    """An ``accelerate.Accelerator`` on a GPU where there is one."""
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.cuda.is_available(), **settings)


def fit(
    captioner: Any,
    objective: Any,
    batch_at: BatchAt,
    config: TrainConfig,
    out: Path,
    *,
    caption_weight: float,
    report: Callable[[StepReport], None],
    evaluate: Callable[[int], None],
    accelerator: Any,
    optimizers: Callable[[nn.Module, TrainConfig], list[torch.optim.Optimizer]] = make_optimizers,
) -> None:
    """Train until ``config.steps``, from the newest checkpoint in ``out`` if there is one.

    Every draw is a function of seed, step and rank, so a killed run that resumes gives the same weights, bit for
    bit on a CPU, as one never killed.

    Args:
        captioner: at the end it holds the averaged weights.
        objective: a module over the captioner's parts: arguments -> (latent loss, caption loss), with a method
            ``weight(caption_weight, latent, caption)``; what requires gradients in it is trained in place.
        batch_at: the objective's arguments at a step.
        config: optimisation settings.
        out: folder of the checkpoint.
        caption_weight: lambda.
        report: receives every ``log_every``-th step's measures.
        evaluate: called every ``sample_every`` steps while the captioner holds the averaged weights.
        accelerator: see ``make_accelerator``.
        optimizers: makes the optimisers of the objective's parameters.
    """
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    captioner.to(device)
    made = optimizers(objective, config)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in made]
    average = Averaged.of(objective, config.ema)
    step = _resume(out / "checkpoint", objective, made, average, config)
    wrapped = accelerator.prepare_model(objective)
    run: Callable[..., tuple[Tensor, Tensor]] = torch.compile(wrapped) if config.compile else wrapped
    # On a CPU the threads would take the cores that the step computes on (LOG.md).
    ahead: Callable[..., Iterable[tuple[Any, ...]]] = map if device.type == "cpu" else made_ahead
    for batch in ahead(lambda step: batch_at(step, rank, world), range(step, config.steps)):
        objective.train()
        torch.manual_seed(generator_at(config.seed, 3, step, rank).initial_seed())  # dropout
        for optimizer, peak in zip(made, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = learning_rate(
                    step,
                    peak=lr,
                    steps=config.steps,
                    warmup=config.warmup,
                    decay=config.decay,
                    end=config.end,
                )
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            latent, caption = run(*(_to(device, part) for part in batch))
        accelerator.backward(latent + objective.weight(caption_weight, latent, caption) * caption)
        trained = [p for p in objective.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, config.clip or float("inf"))
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if config.ema:
            average.update(objective, step)
        if step % config.log_every == 0:
            lr_now = made[0].param_groups[0]["lr"]
            report(StepReport(step, latent.item(), caption.item(), lr_now, float(norm)))
        if accelerator.is_main_process and (step % config.save_every == 0 or step == config.steps):
            _save(out / "checkpoint", objective, made, average, config, step)
        if config.sample_every and accelerator.is_main_process and step % config.sample_every == 0:
            _evaluate(captioner, objective, average, config, partial(evaluate, step))
    if config.ema:
        average.swap(objective)
    captioner.eval()


def made_ahead(batch_at: Callable[[int], Batch], steps: Iterable[int]) -> Iterator[Batch]:
    """The batches of steps, in order, the next ``AHEAD`` of which are made by threads meanwhile.

    Args:
        batch_at: a pure function of the step, so that it does not matter who calls it and when.
        steps: the steps, in order.
    """
    coming: deque[Future[Batch]] = deque()
    left = iter(steps)
    with ThreadPoolExecutor(max_workers=AHEAD, thread_name_prefix="batch") as pool:
        coming.extend(pool.submit(batch_at, step) for step in islice(left, AHEAD + 1))
        while coming:
            batch = coming.popleft().result()
            coming.extend(pool.submit(batch_at, step) for step in islice(left, 1))
            yield batch


def _evaluate(
    captioner: Any, objective: nn.Module, average: Averaged, config: TrainConfig, evaluate: Callable[[], None]
) -> None:
    captioner.eval()
    if config.ema:
        average.swap(objective)
    try:
        evaluate()
    finally:
        if config.ema:
            average.swap(objective)


def _to(device: torch.device, part: Any) -> Any:
    """A tensor, or a dataclass of tensors, on the device."""
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    held = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return dataclasses.replace(part, **{k: v.to(device) for k, v in held.items() if isinstance(v, Tensor)})


def _trained(objective: nn.Module) -> dict[str, Tensor]:
    return {f"model.{k}": p for k, p in objective.named_parameters() if p.requires_grad}


def _save(
    folder: Path,
    objective: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: Averaged,
    config: TrainConfig,
    step: int,
) -> None:
    tensors = _trained(objective) | {f"ema.{k}": v for k, v in average.values.items()}
    for i, optimizer in enumerate(optimizers):
        tensors |= optimizer_tensors(optimizer, f"optimizer{i}")
    save_checkpoint(folder, tensors, {"step": step, "train": dataclasses.asdict(config)})


@torch.no_grad()
def _resume(
    folder: Path,
    objective: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: Averaged,
    config: TrainConfig,
) -> int:
    found = load_checkpoint(folder)
    if found is None:
        return 0
    tensors, progress = found
    before, now = progress["train"], dataclasses.asdict(config)
    free = ("log_every", "save_every", "sample_every")  # and settings newer than the checkpoint
    changed = [k for k in now if before.get(k, now[k]) != now[k] and k not in free]
    if changed:
        raise InputError(
            f"{folder} was made with train.{changed[0]}={before.get(changed[0])!r}, not {now[changed[0]]!r}; "
            "resume with the old setting or train into another folder"
        )
    mine = _trained(objective)
    theirs = {k: v for k, v in tensors.items() if k.startswith("model.")}
    if mine.keys() != theirs.keys():
        raise InputError(f"{folder} holds another model's parameters; train into another folder")
    for key, p in mine.items():
        p.copy_(theirs[key])
    for key in average.values:
        average.values[key].copy_(tensors[f"ema.{key}"])
    for i, optimizer in enumerate(optimizers):
        restore_optimizer(optimizer, f"optimizer{i}", tensors)
    return int(progress["step"])
