"""The training loop: steps, averaged weights, checkpoints and exact resume, whatever the objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearcap.config import TrainConfig
from clearcap.data.ahead import ahead
from clearcap.errors import InputError
from clearcap.training.checkpoint import RunState

BatchAt = Callable[[int, int, int], tuple[Any, ...]]
"""(step, rank, world) -> the objective's arguments; a pure function, so that a killed run can repeat it."""
AHEAD = 4
"""Threads that make the coming batches on a GPU: what a batch takes is one core's time, for drawing noise."""
FREE = tuple(f"train.{name}" for name in ("log_every", "save_every", "sample_every", "tracker"))
"""Settings that may change when a run resumes."""


class Averaged:
    """Exponential moving averages of tensors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin at the tensors as they are."""
        self.values = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        """Blend in the tensors, whose names are those of the beginning."""
        if self.values:
            current = [tensors[name].detach() for name in self.values]
            torch._foreach_lerp_(list(self.values.values()), current, 1 - decay)

    @torch.no_grad()
    def swap(self, tensors: Mapping[str, Tensor]) -> None:
        """Exchange the tensors with their averages; a second call undoes it."""
        for name, average in self.values.items():
            kept = tensors[name].detach().clone()
            tensors[name].copy_(average)
            average.copy_(kept)

    @contextmanager
    def in_place(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Meanwhile the tensors hold their averages."""
        self.swap(tensors)
        try:
            yield
        finally:
            self.swap(tensors)


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
    optimizers: Sequence[torch.optim.Optimizer],
    batch_at: BatchAt,
    config: TrainConfig,
    out: Path,
    *,
    settings: Mapping[str, Any],
    report: Callable[[StepReport], None],
    evaluate: Callable[[int], None],
    accelerator: Any,
) -> None:
    """Train until ``config.steps``, from the newest checkpoint in ``out`` if there is one.

    Every draw is a function of seed, step and rank, so a killed run that resumes gives the same weights, bit for
    bit on a CPU, as one never killed.

    Args:
        captioner: on the accelerator's device; at the end it holds the averaged weights.
        objective: an ``Objective`` over the captioner's parts; what requires gradients in it is trained in place.
        optimizers: of what requires gradients.
        batch_at: the objective's arguments at a step.
        config: optimisation settings.
        out: folder of the checkpoint.
        settings: all others that the weights depend on; a checkpoint made with other ones is refused.
        report: receives every ``log_every``-th step's measures.
        evaluate: called every ``sample_every`` steps while the captioner holds the averaged weights.
        accelerator: see ``make_accelerator``.

    Raises:
        InputError: the checkpoint in ``out`` is damaged or was made with other settings.
    """
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    average = Averaged(trained if config.ema else {})
    state, checkpoint = RunState(trained, average.values, optimizers), out / "checkpoint"
    settings = {"train": dataclasses.asdict(config), **settings}
    place = state.resume(checkpoint, settings, FREE)
    wrapped = accelerator.prepare_model(objective)
    losses: Callable[..., tuple[Tensor, Tensor]] = torch.compile(wrapped) if config.compile else wrapped
    steps = range(int(place["step"]) if place else 0, config.steps)
    for step, batch in zip(
        steps, _batches(lambda step: batch_at(step, rank, world), steps, device), strict=True
    ):
        objective.train()
        torch.manual_seed(generator_at(config.seed, 3, step, rank).initial_seed())  # dropout
        set_learning_rates(optimizers, partial(_rate, config, step))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            latent, caption = losses(*(_to(device, part) for part in batch))
        accelerator.backward(objective.total(latent, caption))
        norm = descend(objective, optimizers, config.clip)
        done = step + 1
        average.update(trained, min(config.ema, (1 + done) / (10 + done)))  # the start is soon forgotten
        if done % config.log_every == 0:
            lr = optimizers[0].param_groups[0]["lr"]
            report(StepReport(done, latent.item(), caption.item(), lr, norm.item()))
        if config.sample_every and accelerator.is_main_process and done % config.sample_every == 0:
            captioner.eval()
            with average.in_place(trained):
                evaluate(done)
        # Last: a run that is killed before it evaluates this step does so when it goes on.
        if accelerator.is_main_process and (done % config.save_every == 0 or done == config.steps):
            state.save(checkpoint, settings, {"step": done})
    average.swap(trained)
    captioner.eval()


def set_learning_rates(optimizers: Iterable[torch.optim.Optimizer], rate: Callable[[float], float]) -> None:
    """Give every group of parameters the rate that a schedule makes of its peak, the rate it was made with."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = rate(group.setdefault("initial_lr", group["lr"]))


def descend(module: nn.Module, optimizers: Iterable[torch.optim.Optimizer], clip: float) -> Tensor:
    """One step of all optimisers with the gradients at hand, which are cleared; their norm before it was clipped.

    Args:
        module: what is trained.
        optimizers: of its parameters.
        clip: greatest norm; 0 never clips.
    """
    moved = [p for p in module.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(moved, clip or float("inf"))
    for optimizer in optimizers:
        optimizer.step()
    module.zero_grad(set_to_none=True)
    return norm


def constant(progress: float) -> float:
    """The same rate throughout."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 to 0 in a straight line."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


DECAYS: dict[str, Callable[[float], float]] = {"constant": constant, "linear": linear, "cosine": cosine}


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, decay: str, end: float = 0.0) -> float:
    """The rate used at ``step`` (0 first): linear warm-up, then the named decay to ``end`` * peak at ``steps``.

    Decay "log" falls by equal factors, so fastest at first (CLIP-Diffusion-LM, Table 2); it needs ``end`` > 0.

    Raises:
        InputError: the decay is unknown.
    """
    if decay == "log" and end > 0:
        progress = max(step - warmup, 0) / max(steps - warmup, 1)
        return peak * (end**progress if step >= warmup else (step + 1) / warmup)
    if decay not in DECAYS:
        raise InputError(f"unknown learning-rate decay {decay!r}; choose one of {', '.join(DECAYS)} or log")
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (end + (1 - end) * DECAYS[decay]((step - warmup) / max(steps - warmup, 1)))


def learning_rate_by_progress(progress: float, *, peak: float, warmup: float) -> float:
    """The rate of a run that the clock ends: linear warm-up, then half a cosine down to zero.

    Args:
        progress: the share of the run that is over.
        peak: the highest rate.
        warmup: the share of the run during which the rate rises.
    """
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    return peak * cosine((progress - warmup) / (1 - warmup))


def planned_rate(progress: float, step_seconds: float, seconds_left: float) -> float:
    """Share of the run per step with which it ends when the time is over.

    Ten steps at least are left to anneal in, however late it is.
    """
    return (1 - progress) / max(10.0, seconds_left / step_seconds)


def generator_at(seed: int, *place: int, device: str = "cpu") -> torch.Generator:
    """A generator that depends on the seed and the place in the run alone, so that resuming needs no saved state."""
    mixed = seed & 0xFFFFFFFF
    for number in place:  # splitmix64: neighbouring steps get unrelated streams
        mixed = (mixed + 0x9E3779B97F4A7C15 * (number + 1)) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return torch.Generator(device).manual_seed(mixed >> 1)


def _rate(config: TrainConfig, step: int, peak: float) -> float:
    return learning_rate(
        step, peak=peak, steps=config.steps, warmup=config.warmup, decay=config.decay, end=config.end
    )


def _batches(batch_at: Callable[[int], Any], steps: Iterable[int], device: torch.device) -> Iterable[Any]:
    """The batches of steps; on a CPU threads would take the cores that the step computes on (LOG.md)."""
    if device.type == "cpu":
        return map(batch_at, steps)
    return ahead(batch_at, steps, threads=AHEAD, depth=AHEAD + 1)


def _to(device: torch.device, part: Any) -> Any:
    """A tensor, or a dataclass of tensors, on the device; anything else as it is."""
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    held = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return dataclasses.replace(part, **{k: v.to(device) for k, v in held.items() if isinstance(v, Tensor)})
