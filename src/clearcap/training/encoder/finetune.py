"""Fine-tunes an encoder's upper stages: caption words, whole captions through a twin, and the classes it came with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.config import TrainConfig, knob, require
from clearcap.metrics import score
from clearcap.training.captions import photos_of_step
from clearcap.training.encoder.activations import Activations
from clearcap.training.fit import StepReport, fit, make_accelerator
from clearcap.training.schedules import generator_at
from clearcap.training.twin.examples import TokenisedCaptions, Tokenize, tokenised
from clearcap.training.twin.network import Twin
from clearcap.training.twin.writing import write
from clearcap.vision.efficientnet import EfficientNetEncoder
from clearcap.vision.objective import (
    class_loss,
    mean_average_precision,
    word_loss,
    word_shares,
)


@dataclass(frozen=True)
class FinetuneConfig:
    """What an encoder is fine-tuned with."""

    words: int = knob(1000, "caption words that the mean token and the greatest values tell")
    word_weight: float = knob(0.1, "weight of the words' loss; the captions' has 1")
    class_weight: float = knob(0.2, "weight of the class distribution's loss")
    temperature: float = knob(2.0, "softening of the class distribution")
    unlabelled: int = knob(8, "photos without captions in a step, for the classes alone")
    encoder_lr: float = knob(2e-4, "peak learning rate of the encoder's stages")

    def __post_init__(self) -> None:
        require(self.words >= 1, f"words={self.words} must be at least 1")
        require(self.encoder_lr > 0, f"encoder_lr={self.encoder_lr} must be positive")


class WordHead(nn.Module):
    """Which words a photo's captions hold, told from its tokens' mean and greatest values."""

    def __init__(self, dim: int, words: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim, words)
        nn.init.constant_(self.linear.bias, -3.0)  # most words are absent from most captions

    def forward(self, tokens: Float[Tensor, "photos tokens dim"]) -> Float[Tensor, "photos words"]:
        """Logits."""
        logits: Tensor = self.linear(torch.cat((tokens.mean(1), tokens.amax(1)), -1))
        return logits


class FinetuneObjective(nn.Module):
    """The losses of one step; the encoder's blocks before ``block`` and all depthwise kernels stay as they are."""

    def __init__(
        self,
        encoder: EfficientNetEncoder,
        classifier: nn.Linear,
        twin: Twin,
        config: FinetuneConfig,
        *,
        block: int,
        pad: int,
    ) -> None:
        super().__init__()
        self.encoder, self.twin, self.classifier = encoder, twin, classifier
        self.word_head = WordHead(encoder.dim, config.words)
        self.config, self.block, self.pad = config, block, pad
        freeze_below(encoder, block)

    def forward(
        self, grid: Tensor, classes: Tensor, words: Tensor, known: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(words' and classes' loss, captions' loss).

        Args:
            grid: activations [photos, channels, h, w]; photos without captions at the end.
            classes: the untouched network's class logits.
            words: shares of the words in the captions.
            known: whether a photo has captions.
            ids: captions [captioned photos * copies, length].
        """
        last = self.encoder.upper(grid.to(torch.bfloat16), self.block)
        tokens = self.encoder.read(last)
        captioned = int(known.sum())
        told = self.word_head(tokens).float()
        guessed = self.classifier(last.mean((2, 3))).float()
        extra = self.config.word_weight * word_loss(told, words, known)
        extra = extra + self.config.class_weight * class_loss(guessed, classes, self.config.temperature)
        caption = self.twin.loss(ids, self.twin.see(tokens[:captioned]), self.pad)
        return extra, caption

    def weight(self, caption_weight: float, latent: Tensor, caption: Tensor) -> float:
        """The captions' weight."""
        return caption_weight


def freeze_below(encoder: EfficientNetEncoder, block: int) -> None:
    """Leave gradients to the blocks from ``block`` on, the head and the projection, without depthwise kernels.

    Depthwise kernels are few, and their gradient takes four fifths of a step's time on a CPU.
    """
    encoder.requires_grad_(False)
    trained: list[nn.Module] = [*list(encoder.blocks)[block:], encoder.head, encoder.project]
    for module in trained:
        module.requires_grad_(True)
    for part in encoder.modules():
        if getattr(part, "groups", 1) > 1:
            part.weight.requires_grad_(False)
            part.gain.requires_grad_(False)


def finetune_optimizers(
    objective: nn.Module, config: TrainConfig, encoder_lr: float
) -> list[torch.optim.Optimizer]:
    """AdamW for everything; the encoder and its classifier at a rate of their own."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in objective.named_parameters():
        if p.requires_grad:
            own = name.startswith(("encoder.", "classifier."))
            groups.setdefault((own, p.ndim >= 2), []).append(p)
    return [
        torch.optim.AdamW(
            [
                {
                    "params": params,
                    "lr": encoder_lr if own else config.lr,
                    "weight_decay": config.weight_decay if matrix else 0.0,
                }
                for (own, matrix), params in groups.items()
            ],
            betas=(0.9, 0.98),
        )
    ]


@dataclass(frozen=True)
class FinetuneData:
    """What a step is drawn from.

    Attributes:
        captions: of photos of the cache.
        words: share of each photo's captions that hold each word.
        unlabelled: rows of photos without captions.
    """

    captions: TokenisedCaptions
    words: Float[Tensor, "photos words"]
    unlabelled: Int[Tensor, " rest"]


def finetune_data(
    captions: Mapping[str, Sequence[str]],
    names: Sequence[str],
    held_out: Collection[str],
    tokenize: Tokenize,
    vocabulary: list[str],
) -> FinetuneData:
    """Captions of the photos of a cache that have some, as the objective takes them.

    Args:
        captions: of each captioned photo, by id.
        names: ids of the cache's photos, in order.
        held_out: photos that nothing is learned from.
        tokenize: see ``tokenised``.
        vocabulary: the words whose shares are told.
    """
    learned = {name: list(captions[name]) for name in names if name in captions and name not in held_out}
    told = tokenised(learned, names, tokenize)
    kept = [names[row] for row in told.rows.tolist()]
    shares = word_shares({name: learned[name] for name in kept}, kept, vocabulary)
    without = [row for row, name in enumerate(names) if name not in captions and name not in held_out]
    return FinetuneData(told, torch.from_numpy(shares), torch.tensor(without, dtype=torch.long))


def take_batch(
    data: FinetuneData, cache: Activations, config: TrainConfig, unlabelled: int, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of the objective at a step: a pure function of seed and step; every photo once per epoch."""
    generator = generator_at(config.seed, 1, step)
    told = data.captions
    chosen = photos_of_step(len(told.rows), config.photos, config.seed, step, rank=0, world=1)
    rest = torch.empty(0, dtype=torch.long)
    if unlabelled and len(data.unlabelled):
        rest = data.unlabelled[torch.randint(len(data.unlabelled), (unlabelled,), generator=generator)]
    rows = torch.cat((told.rows[chosen], rest))
    views = torch.randint(len(cache.grids), (len(rows),), generator=generator)
    grid, classes = cache.gather(views, rows)
    free = torch.cat((told.mirrored[chosen], torch.ones(len(rest), dtype=torch.bool)))
    mirror = free & (torch.rand(len(rows), generator=generator) < 0.5)
    grid = torch.where(
        mirror[:, None, None, None], grid.flip(-1), grid
    )  # nearly the mirrored photo's activations
    ids = told.draw(chosen, config.copies, generator)
    words = torch.zeros(len(rows), data.words.shape[1])
    words[: len(chosen)] = data.words[chosen]
    known = torch.arange(len(rows)) < len(chosen)
    return grid.contiguous(memory_format=torch.channels_last), classes, words, known, ids


class Holder(nn.Module):
    """What ``fit`` moves to the device and puts in evaluation mode."""

    def __init__(self, objective: FinetuneObjective) -> None:
        super().__init__()
        self.objective = objective


def finetune(
    objective: FinetuneObjective,
    data: FinetuneData,
    cache: Activations,
    config: TrainConfig,
    out: Path,
    *,
    report: Callable[[StepReport], None],
    evaluate: Callable[[int], None],
) -> None:
    """Train until ``config.steps``; a killed run goes on from its newest checkpoint in ``out``."""
    fit(
        Holder(objective),
        objective,
        lambda step, rank, world: take_batch(data, cache, config, objective.config.unlabelled, step),
        config,
        out,
        caption_weight=1.0,
        report=report,
        evaluate=evaluate,
        accelerator=make_accelerator(),
        optimizers=lambda module, settings: finetune_optimizers(
            module, settings, objective.config.encoder_lr
        ),
    )


@torch.inference_mode()
def measure(
    objective: FinetuneObjective,
    grids: np.ndarray,
    references: Mapping[str | int, Sequence[str]],
    rows: Sequence[int],
    vocabulary: list[str],
    tokenizer: Any,
    beams: int = 3,
    batch: int = 64,
) -> tuple[dict[str, float], dict[str | int, str]]:
    """Scores of the twin's captions and the words' mean average precision on photos not trained on.

    Args:
        objective: in evaluation mode.
        grids: activations of the photos [cache photos, h, w, channels].
        references: captions by id.
        rows: of these photos in ``grids``, in the same order.
        vocabulary: the words of the word head.
        tokenizer: of the twin's tokens.
        beams: of the search.
        batch: photos at once.
    """
    tokens = torch.cat(
        [
            see_tokens(objective.encoder, torch.from_numpy(grids[list(rows[i : i + batch])]), objective.block)
            for i in range(0, len(rows), batch)
        ]
    )
    told = objective.word_head(tokens).numpy()
    spoken = {str(name): list(captions) for name, captions in references.items()}
    present = word_shares(spoken, spoken, vocabulary) > 0
    written = write(objective.twin, tokens, tokenizer, beams=beams)
    captions = dict(zip(references, written, strict=True))
    scores = score(captions, references).corpus
    scores["distinct"] = len(set(captions.values())) / max(len(captions), 1)
    scores["words"] = mean_average_precision(told, present)
    scores["words 200"] = mean_average_precision(told[:, :200], present[:, :200])
    return scores, captions


def see_tokens(
    encoder: EfficientNetEncoder, grid: Float[Tensor, "photos h w channels"], block: int
) -> Float[Tensor, "photos tokens dim"]:
    """Tokens of photos from their cached activations, float32, computed in bf16."""
    x = grid.permute(0, 3, 1, 2)
    with torch.autocast(x.device.type, torch.bfloat16):
        tokens = encoder.read(encoder.upper(x.to(torch.bfloat16), block))
    return tokens.float()
