"""An image encoder in training: its upper blocks, the photos of a step, and what it makes of watched ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from rich.progress import Progress
from torch import Tensor, nn

from clearcap.captioner.model import Captioner
from clearcap.config import TrainConfig
from clearcap.data.features import Features, square_view
from clearcap.data.records import CaptionedPhoto
from clearcap.errors import InputError
from clearcap.training.encoder.activations import squared
from clearcap.training.encoder.finetune import freeze_below
from clearcap.training.encoder.live import recoloured, to_unit
from clearcap.training.examples import Examples
from clearcap.training.optimizers import make_optimizers
from clearcap.training.run import cached_features
from clearcap.vision.efficientnet import EfficientNetEncoder, PairedEncoder


@runtime_checkable
class SeenPhotos(Protocol):
    """Settings of how a training sees its photos."""

    @property
    def block(self) -> int:
        """First block of an EfficientNet that is trained, too; -1: the encoder stays."""

    @property
    def features(self) -> str:
        """Folder of the feature cache; "": within the run's."""

    @property
    def views(self) -> int:
        """Views of each photo in it."""


WHOLE = 0.2
"""Share of the photos that are shown whole, as at captioning; of the others a random crop is shown."""


class Seeing(nn.Module):
    """Photos to image tokens, with gradients for an EfficientNet's upper blocks and its projection."""

    vision: Any

    def __init__(self, vision: nn.Module, block: int) -> None:
        """Args:
        vision: an EfficientNet encoder, or a pair of which one is.
        block: first block that is trained.

        Raises:
            InputError: another encoder, or no such block.
        """
        super().__init__()
        self.vision, self.block = vision, block
        network = efficientnet_of(vision)
        if not 0 <= block < len(network.blocks):
            raise InputError(
                f"block={block} is none of the encoder's {len(network.blocks)}; pass 0 to {len(network.blocks) - 1}"
            )
        vision.requires_grad_(False)
        freeze_below(network, block)

    def train(self, mode: bool = True) -> Seeing:
        """Batch norms keep the statistics they came with."""
        super().train(mode)
        self.vision.eval()
        return self

    def forward(
        self, photos: UInt8[Tensor, "photos 3 size size"], generator: torch.Generator
    ) -> Float[Tensor, "photos tokens dim"]:
        """Tokens of photos in other light than they were taken in."""
        return self.tokens(recoloured(to_unit(photos), generator))

    def tokens(self, photos: Float[Tensor, "photos 3 size size"]) -> Float[Tensor, "photos tokens dim"]:
        """Tokens of photos in 0..1, as the encoder gives them."""
        network = efficientnet_of(self.vision)
        with torch.no_grad():
            grid = network.lower(photos, self.block)
            rest = self.vision.compact(photos) if isinstance(self.vision, PairedEncoder) else 0
        tokens: Tensor = network.read(network.upper(grid, self.block)) + rest
        return tokens.float()

    def trained(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        return (p for p in self.vision.parameters() if p.requires_grad)


def efficientnet_of(vision: Any) -> EfficientNetEncoder:
    """The EfficientNet of an image encoder.

    Raises:
        InputError: it has none.
    """
    network = vision.efficientnet if isinstance(vision, PairedEncoder) else vision
    if not isinstance(network, EfficientNetEncoder):
        raise InputError(
            f"the captioner's image encoder is a {type(vision).__name__}, and an EfficientNet alone is trained "
            "jointly; use default, or clearcap train"
        )
    return network


@dataclass(frozen=True)
class ReadPhotos:
    """Image tokens of photos by the encoder as it is now (see ``clearcap.training.run.WatchedTokens``)."""

    captioner: Captioner
    photos: Sequence[CaptionedPhoto]

    def rows(self, names: Sequence[str]) -> Int[Tensor, " photos"]:
        """Positions of photos."""
        places = {photo.id: i for i, photo in enumerate(self.photos)}
        return torch.tensor([places[name] for name in names])

    @torch.inference_mode()
    def gather(
        self, views: Int[Tensor, " photos"], rows: Int[Tensor, " photos"]
    ) -> Float[Tensor, "photos tokens dim"]:
        """Tokens of whole photos; ``views`` is of no account."""
        opened = [self.photos[row].image.open for row in rows.tolist()]
        vision, device = self.captioner.vision, self.captioner.device
        return torch.cat([vision(images.to(device)) for images in squared(opened, vision.image_size, 50)])


def image_of_step(
    photos: Features | Sequence[CaptionedPhoto],
    seeing: Seeing | None,
    examples: Examples,
    chosen: Int[Tensor, " some"],
    seed: Sequence[int],
    generator: torch.Generator,
) -> Tensor:
    """Some photos as an objective takes them: their tokens, or, where the encoder is trained, views of them as bytes.

    Args:
        photos: the tokens of all of them, or, where the encoder is trained, they themselves.
        seeing: the encoder in training; None: it stays as it is.
        examples: theirs.
        chosen: rows of those that are wanted.
        seed: of the crops, besides the photo's row.
        generator: of what else is drawn.
    """
    if seeing is None:
        return examples.tokens(chosen, photos, generator)  # type: ignore[arg-type]
    size = seeing.vision.image_size
    return views_of_step(photos, examples, chosen, size, seed, generator)  # type: ignore[arg-type]


def views_of_step(
    photos: Sequence[CaptionedPhoto],
    examples: Examples,
    chosen: Int[Tensor, " some"],
    size: int,
    seed: Sequence[int],
    generator: torch.Generator,
) -> UInt8[Tensor, "some 3 {size} {size}"]:
    """Views of some photos: crops, a few of them whole; mirrored half the time, unless a caption names a side.

    Args:
        photos: all of them.
        examples: theirs.
        chosen: rows of those that are wanted.
        size: pixels a side.
        seed: of the crops, besides the photo's row.
        generator: of what else is drawn.
    """
    whole = torch.rand(len(chosen), generator=generator) < WHOLE
    mirror = examples.mirrored[chosen] & (torch.rand(len(chosen), generator=generator) < 0.5)
    pixels = []
    for row, crop, mirrored in zip(chosen.tolist(), (~whole).tolist(), mirror.tolist(), strict=True):
        view = square_view(photos[row].image.open(), size, int(crop), (*seed, row))
        pixels.append(np.ascontiguousarray(view[:, ::-1]) if mirrored else view)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def tokens_once(
    captioner: Captioner,
    photos: Sequence[CaptionedPhoto],
    config: SeenPhotos,
    out: Path,
    progress: Progress,
    accelerator: Any,
) -> Features | None:
    """The photos' tokens, computed once, where the encoder stays as it is; None where it is trained.

    Raises:
        InputError: a photo cannot be read, or the cache holds another encoder's tokens.
    """
    if config.block >= 0:
        return None
    with accelerator.main_process_first():  # the others find it done
        folder = Path(config.features or out / "features")
        return cached_features(captioner, photos, folder, config.views, progress)


def joint_optimizers(
    objective: nn.Module, seeing: Seeing | None, train: TrainConfig, encoder_lr: float
) -> list[torch.optim.Optimizer]:
    """Those of a denoiser, and, where there is an encoder to train, AdamW for it at a rate of its own.

    Args:
        objective: all that is trained, the encoder included.
        seeing: the encoder; None: it stays as it is.
        train: settings of the denoiser's.
        encoder_lr: peak rate of the encoder.
    """
    if seeing is None:
        return make_optimizers(objective, train)
    encoder = list(seeing.trained())
    for p in encoder:
        p.requires_grad_(False)  # the denoiser's optimisers take all that asks for gradients
    made = make_optimizers(objective, train)
    for p in encoder:
        p.requires_grad_(True)
    groups = [
        {"params": [p for p in encoder if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in encoder if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [*made, torch.optim.AdamW(groups, lr=encoder_lr, betas=(0.9, 0.98))]
