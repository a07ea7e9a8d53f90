"""Fine-tunes an encoder's upper stages: caption words, whole captions through a twin, and the classes it came with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.config import TrainConfig, knob, require
from clearcap.training.encoder.activations import Activations
from clearcap.training.encoder.objective import class_loss, mean_average_precision, word_loss, word_shares
from clearcap.training.examples import photos_of_step
from clearcap.training.log import Scored, scored
from clearcap.training.loop import generator_at
from clearcap.training.objectives import Objective
from clearcap.training.twin.examples import TokenisedCaptions, Tokenize, tokenised
from clearcap.training.twin.network import Twin
from clearcap.training.twin.writing import write
from clearcap.vision.efficientnet import EfficientNetEncoder


@dataclass(frozen=True)
class FinetuneConfig:
    """What an encoder is fine-tuned with."""

    words: int = knob(1000, "caption words that are predicted from the tokens' mean and greatest values")
    word_weight: float = knob(0.1, "weight of the words' loss; the captions' has 1")
    class_weight: float = knob(0.2, "weight of the class distribution's loss")
    temperature: float = knob(2.0, "softening of the class distribution")
    unlabelled: int = knob(8, "photos without captions in a step, for the classes alone")
    encoder_lr: float = knob(2e-4, "peak learning rate of the encoder's stages")

    def __post_init__(self) -> None:
        require(self.words >= 1, f"words={self.words} must be at least 1")
        require(self.encoder_lr > 0, f"encoder_lr={self.encoder_lr} must be positive")


class WordHead(nn.Module):
    """Which words a photo's captions hold, predicted from its tokens' mean and greatest values."""

    def __init__(self, dim: int, words: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim, words)
        nn.init.constant_(self.linear.bias, -3.0)  # most words are absent from most captions

    def forward(self, tokens: Float[Tensor, "photos tokens dim"]) -> Float[Tensor, "photos words"]:
        """Logits."""
        logits: Tensor = self.linear(torch.cat((tokens.mean(1), tokens.amax(1)), -1))
        return logits


class FinetuneObjective(Objective):
    """The losses of one step; the encoder's blocks before ``block`` and all depthwise kernels stay as they are."""

    caption_weight = 1.0

    def __init__(
        self,
        encoder: EfficientNetEncoder,
        classifier: nn.Linear,
        twin: Twin,
        config: FinetuneConfig,
        *,
        words: int,
        block: int,
        pad: int,
    ) -> None:
        """Args:
        encoder: what is fine-tuned.
        classifier: of the classes that the encoder came with, over its last grid's mean.
        twin: what writes captions from its tokens.
        config: weights of the losses.
        words: how many caption words are predicted.
        block: first block that is trained.
        pad: token behind a caption's end.
        """
        super().__init__()
        self.encoder, self.twin, self.classifier = encoder, twin, classifier
        self.word_head = WordHead(encoder.dim, words)
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
        device = grid.device.type
        half = torch.is_autocast_enabled(device)
        last = self.encoder.upper(
            grid.to(torch.get_autocast_dtype(device) if half else torch.float32), self.block
        )
        tokens = self.encoder.read(last)
        captioned = int(known.sum())
        word_logits = self.word_head(tokens).float()
        class_logits = self.classifier(last.mean((2, 3))).float()
        extra = self.config.word_weight * word_loss(word_logits, words, known)
        extra = extra + self.config.class_weight * class_loss(class_logits, classes, self.config.temperature)
        caption = self.twin.loss(ids, self.twin.image_context(tokens[:captioned]), self.pad)
        return extra, caption


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
        vocabulary: the words that are predicted.
    """
    learned = {name: list(captions[name]) for name in names if name in captions and name not in held_out}
    tokens = tokenised(learned, names, tokenize)
    kept = [names[row] for row in tokens.rows.tolist()]
    shares = word_shares({name: learned[name] for name in kept}, kept, vocabulary)
    without = [row for row, name in enumerate(names) if name not in captions and name not in held_out]
    return FinetuneData(tokens, torch.from_numpy(shares), torch.tensor(without, dtype=torch.long))


def finetune_batch(
    data: FinetuneData,
    cache: Activations,
    config: TrainConfig,
    unlabelled: int,
    step: int,
    rank: int,
    world: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of the objective at a step: a pure function of seed, step and rank; every photo once per epoch."""
    generator = generator_at(config.seed, 1, step, rank)
    captions = data.captions
    chosen = photos_of_step(len(captions.rows), config.photos, config.seed, step, rank, world)
    rest = torch.empty(0, dtype=torch.long)
    if unlabelled and len(data.unlabelled):
        rest = data.unlabelled[torch.randint(len(data.unlabelled), (unlabelled,), generator=generator)]
    rows = torch.cat((captions.rows[chosen], rest))
    views = torch.randint(len(cache.grids), (len(rows),), generator=generator)
    grid, classes = cache.gather(views, rows)
    free = torch.cat((captions.mirrored[chosen], torch.ones(len(rest), dtype=torch.bool)))
    mirror = free & (torch.rand(len(rows), generator=generator) < 0.5)
    grid = torch.where(
        mirror[:, None, None, None], grid.flip(-1), grid
    )  # nearly the mirrored photo's activations
    ids = captions.sample(chosen, config.copies, generator)
    words = torch.zeros(len(rows), data.words.shape[1])
    words[: len(chosen)] = data.words[chosen]
    known = torch.arange(len(rows)) < len(chosen)
    return grid.contiguous(memory_format=torch.channels_last), classes, words, known, ids


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
) -> Scored:
    """The twin's captions of photos not trained on, their scores, and the words' mean average precision.

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
            tokens_of(objective.encoder, torch.from_numpy(grids[list(rows[i : i + batch])]), objective.block)
            for i in range(0, len(rows), batch)
        ]
    )
    predicted = objective.word_head(tokens).cpu().numpy()
    named = {str(name): list(captions) for name, captions in references.items()}
    present = word_shares(named, named, vocabulary) > 0
    written = write(objective.twin, tokens, tokenizer, beams=beams)
    captions, scores = scored(dict(zip(references, written, strict=True)), references)
    scores["words"] = mean_average_precision(predicted, present)
    scores["words 200"] = mean_average_precision(predicted[:, :200], present[:, :200])
    return captions, scores


@torch.inference_mode()
def tokens_of(
    encoder: EfficientNetEncoder, grid: Float[Tensor, "photos h w channels"], block: int
) -> Float[Tensor, "photos tokens dim"]:
    """Tokens of photos from their cached activations, float32, computed in bf16."""
    x = grid.to(encoder.project.weight.device).permute(0, 3, 1, 2)
    with torch.autocast(x.device.type, torch.bfloat16):
        tokens = encoder.read(encoder.upper(x.to(torch.bfloat16), block))
    return tokens.float()
