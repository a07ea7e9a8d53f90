"""Fitting a denoiser and its LM head to captions of photos."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clearcap.config import TrainConfig
from clearcap.data.features import Features, flip
from clearcap.diffusion import Draws, Noise, draw, training_losses
from clearcap.errors import InputError
from clearcap.layers import KeysValues
from clearcap.training.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from clearcap.training.levels import LevelsObjective
from clearcap.training.schedules import generator_at, learning_rate

_SIDED = re.compile(r"\b(left|right)\b")


@dataclass(frozen=True)
class Examples:
    """All training captions as clean latents, grouped by photo; text without a photo at the end.

    Attributes:
        x0: clean latents, float16.
        ids: tokens.
        first: index of each photo's first caption, then the number of captioned ones.
        rows: each photo's row in the feature cache.
        mirrored: whether a photo may be mirrored (no caption names a side).
        text_first: index of the first caption that has no photo.
    """

    x0: Float[Tensor, "captions length dim"]
    ids: Int[Tensor, "captions length"]
    first: Int[Tensor, " photos_and_end"]
    rows: Int[Tensor, " photos"]
    mirrored: Bool[Tensor, " photos"]
    text_first: int


@dataclass(frozen=True)
class Batch:
    """One step's input: photos and ``copies`` captions of each, photo-major."""

    image: Float[Tensor, "photos tokens image_dim"]
    has_image: Bool[Tensor, " photos"]
    x0: Float[Tensor, "batch length dim"]
    ids: Int[Tensor, "batch length"]


class Objective(nn.Module):
    """The losses of one step as a module, so that data parallelism synchronises their gradients."""

    denoiser: Any
    text: Any

    def __init__(self, captioner: Any, noise: Noise) -> None:
        super().__init__()
        self.denoiser = captioner.denoiser
        self.text = captioner.text
        self.noise = noise
        self.emphasis = captioner.objective.emphasis

    def forward(
        self, image: Tensor, has_image: Tensor, x0: Tensor, ids: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        seen = self.denoiser.see(image)
        view = hide_photos(seen, self.denoiser.see_nothing(), draws.keep_image & has_image)

        def predict(x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(x, x_self, t, view)

        losses = training_losses(predict, self.text, self.noise, x0=x0, ids=ids, draws=draws)
        return losses.latent, losses.caption

    def draw(self, **sizes: Any) -> Draws:
        """A step's randomness; arguments of ``clearcap.diffusion.draw``."""
        return draw(emphasis=self.emphasis, **sizes)

    def weight(self, caption_weight: float, latent: Tensor, caption: Tensor) -> float:
        """lambda, fixed."""
        return caption_weight


def make_objective(captioner: Any, noise: Noise) -> Objective | LevelsObjective:
    """The losses that the captioner's settings ask for."""
    asked = captioner.objective
    if asked.objective == "diffusion-lm":
        return LevelsObjective(
            captioner, noise, asked.distance, asked.lag, levels=asked.levels, dynamic=asked.dynamic_weight
        )
    return Objective(captioner, noise)


def hide_photos(
    view: list[KeysValues], nothing: list[KeysValues], keep: Bool[Tensor, " photos"]
) -> list[KeysValues]:
    """Keys and values of the null image where a photo is not kept."""
    mask = keep[:, None, None, None]
    return [
        (torch.where(mask, k, k0), torch.where(mask, v, v0))
        for (k, v), (k0, v0) in zip(view, nothing, strict=True)
    ]


@torch.no_grad()
def prepare_examples(
    captioner: Any,
    tokenize: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    captions: Sequence[Sequence[str]],
    rows: Int[Tensor, " photos"],
    text_only: Sequence[str] = (),
    batch: int = 512,
) -> Examples:
    """Encode all captions once: the lower half is frozen, so their clean latents never change."""
    flat = [caption for group in captions for caption in group] + list(text_only)
    ids, mask = tokenize(flat)
    space = captioner.text.eval()
    x0 = torch.cat(
        [space.encode(i, m).half() for i, m in zip(ids.split(batch), mask.split(batch), strict=True)]
    )
    counts = torch.tensor([0, *(len(group) for group in captions)])
    sided = [any(_SIDED.search(caption.lower()) for caption in group) for group in captions]
    first = counts.cumsum(0)
    return Examples(x0, ids, first, rows, ~torch.tensor(sided), int(first[-1]))


def take_batch(
    examples: Examples, features: Features, config: TrainConfig, step: int, rank: int, world: int
) -> Batch:
    """The batch of a step: a pure function of seed, step and rank; every photo once per epoch."""
    photos = len(examples.rows)
    with_text = round(config.text_only * config.photos)
    with_photo = config.photos - with_text
    per_step = with_photo * world
    epoch, place = divmod(step, max(photos // per_step, 1))
    order = torch.randperm(photos, generator=generator_at(config.seed, 0, epoch))
    chosen = order[(place * per_step + rank * with_photo + torch.arange(with_photo)) % photos]
    generator = generator_at(config.seed, 1, step, rank)
    views = torch.randint(len(features.tokens), (with_photo,), generator=generator)
    image = features.gather(views, examples.rows[chosen])
    mirror = examples.mirrored[chosen] & (torch.rand(with_photo, generator=generator) < 0.5)
    image = torch.where(mirror[:, None, None], flip(image), image)
    first, end = examples.first[chosen], examples.first[chosen + 1]
    start = torch.randint(1 << 30, (with_photo, 1), generator=generator)
    captions = (first[:, None] + (start + torch.arange(config.copies)) % (end - first)[:, None]).flatten()
    if with_text:
        texts = len(examples.ids) - examples.text_first
        extra = examples.text_first + torch.randint(texts, (with_text * config.copies,), generator=generator)
        captions = torch.cat((captions, extra))
        image = torch.cat((image, torch.zeros(with_text, *image.shape[1:])))
    has_image = torch.arange(config.photos) < with_photo
    return Batch(image, has_image, examples.x0[captions].float(), examples.ids[captions])


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


def fit(
    captioner: Any,
    examples: Examples,
    features: Features,
    config: TrainConfig,
    out: Path,
    *,
    caption_weight: float,
    factor: float,
    drop_image: float,
    self_condition: float,
    report: Callable[[StepReport], None] = lambda report: None,
    evaluate: Callable[[int], None] = lambda step: None,
    accelerator: Any | None = None,
) -> None:
    """Train until ``config.steps``, from the newest checkpoint in ``out`` if there is one.

    Every draw is a function of seed, step and rank, so a killed run that resumes gives the same weights, bit for
    bit on a CPU, as one never killed.

    Args:
        captioner: its denoiser and LM head are trained in place; at the end it holds the averaged weights.
        examples: captions as latents.
        features: image tokens.
        config: optimisation settings.
        out: folder of the checkpoint.
        caption_weight: lambda.
        factor: noise factor k.
        drop_image: probability of hiding the photo.
        self_condition: probability of conditioning on a first prediction.
        report: receives every ``log_every``-th step's measures.
        evaluate: called every ``sample_every`` steps while the captioner holds the averaged weights.
        accelerator: an ``accelerate.Accelerator``, for several processes or a GPU.
    """
    from accelerate import Accelerator

    accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    captioner.to(device)
    noise = captioner.noise(factor)
    objective = make_objective(captioner, noise)
    optimizers = make_optimizers(objective, config)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average = Averaged.of(objective, config.ema)
    step = _resume(out / "checkpoint", objective, optimizers, average, config)
    wrapped = accelerator.prepare_model(objective)
    run: Callable[..., tuple[Tensor, Tensor]] = torch.compile(wrapped) if config.compile else wrapped
    length, dim = examples.x0.shape[1:]
    while step < config.steps:
        objective.train()
        batch = take_batch(examples, features, config, step, rank, world)
        draws = objective.draw(
            photos=config.photos,
            copies=config.copies,
            length=length,
            dim=dim,
            steps=noise.steps,
            drop_image=drop_image,
            self_condition=self_condition,
            generator=generator_at(config.seed, 2, step, rank),
        )
        torch.manual_seed(generator_at(config.seed, 3, step, rank).initial_seed())  # dropout
        for optimizer, peak in zip(optimizers, peaks, strict=True):
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
            latent, caption = run(*_to(device, batch), _draws_to(device, draws))
        accelerator.backward(latent + objective.weight(caption_weight, latent, caption) * caption)
        trained = [p for p in objective.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, config.clip or float("inf"))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if config.ema:
            average.update(objective, step)
        if step % config.log_every == 0:
            lr_now = optimizers[0].param_groups[0]["lr"]
            report(StepReport(step, latent.item(), caption.item(), lr_now, float(norm)))
        if accelerator.is_main_process and (step % config.save_every == 0 or step == config.steps):
            _save(out / "checkpoint", objective, optimizers, average, config, step)
        if config.sample_every and accelerator.is_main_process and step % config.sample_every == 0:
            _evaluate(captioner, objective, average, config, partial(evaluate, step))
    if config.ema:
        average.swap(objective)
    captioner.eval()


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


def _to(device: torch.device, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(x.to(device, non_blocking=True) for x in (batch.image, batch.has_image, batch.x0, batch.ids))  # type: ignore[return-value]


def _draws_to(device: torch.device, draws: Any) -> Any:
    held = {field.name: getattr(draws, field.name) for field in dataclasses.fields(draws)}
    return dataclasses.replace(draws, **{k: v.to(device) for k, v in held.items() if isinstance(v, Tensor)})


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


__all__ = [
    "Examples",
    "StepReport",
    "fit",
    "prepare_examples",
    "take_batch",
]
