"""Training of a captioner's word-by-word twin: same photos, tokens, captions, steps and optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from clearcap.captioner.model import Captioner
from clearcap.captioner.towers import build_captioner, tokenize_for
from clearcap.config import Preset, TrainConfig
from clearcap.data.features import Features, flip
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import whole_file
from clearcap.training.examples import photos_of_step
from clearcap.training.log import RunLog, Scored, progress_bar, tracked_accelerator
from clearcap.training.loop import BatchAt, fit, generator_at
from clearcap.training.objectives import Objective
from clearcap.training.optimizers import make_optimizers
from clearcap.training.run import cached_features, open_data, write_preset
from clearcap.training.twin.examples import TokenisedCaptions, tokenised
from clearcap.training.twin.network import Twin, TwinConfig, build_twin

WEIGHTS = "twin.safetensors"


class TwinObjective(Objective):
    """Cross-entropy of every word, given those before it; there is no latent, whose loss is 0."""

    caption_weight = 1.0
    twin: Any  # a Twin; nn.Module's own typing would make it "Tensor or Module"

    def __init__(self, twin: Twin, pad: int) -> None:
        """Args:
        twin: what is trained.
        pad: id of the padding.
        """
        super().__init__()
        self.twin, self.pad = twin, pad

    def forward(
        self, image: Float[Tensor, "photos tokens dim"], ids: Int[Tensor, "batch length"]
    ) -> tuple[Tensor, Tensor]:
        """0 and the mean cross-entropy of the words, in nats."""
        loss = self.twin.loss(ids, self.twin.image_context(image), self.pad)
        return torch.zeros_like(loss), loss


def sizes_of(preset: Preset) -> TwinConfig:
    """The twin of a preset's denoiser: its width, heads, feed-forward and dropout, and the length of its captions.

    A denoiser has projections and a time head that a twin lacks, a twin a word matrix of its width where a
    captioner trains its LM head: with a layer less and a feed-forward a third wider, that of ``ladic-study`` has as
    many trained parameters within 5%.
    """
    sizes = preset.denoiser
    return TwinConfig(
        width=sizes.width,
        depth=max(1, sizes.depth - 1),
        heads=sizes.heads,
        hidden=sizes.hidden * 4 // 3,
        adapter_depth=sizes.adapter_depth,
        dropout=sizes.dropout,
        image_dropout=sizes.image_dropout,
        length=preset.text.length,
    )


def train_twin(preset: Preset, out: Path, console: Console | None = None) -> tuple[Twin, Any]:
    """Train the twin of a preset's captioner, or go on where a killed run stopped.

    Captions that fill their whole length are left out, for they may have been cut; the feature cache is shared with
    the captioner.
    Writes ``out/checkpoint``, ``out/curves.jsonl`` and ``out/twin.safetensors`` (averaged weights).

    Args:
        preset: of the captioner.
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Returns:
        The twin, in evaluation mode, and its tokenizer.

    Raises:
        InputError: settings, corpus or towers do not fit.
    """
    from safetensors.torch import load_file

    console, config = console or Console(stderr=True), preset.train
    captioner, tokenizer = build_captioner(preset, seed=config.seed)
    sizes = sizes_of(preset)
    twin = build_twin(
        sizes, vocab=len(tokenizer), image_dim=captioner.vision.dim, tokens=captioner.vision.tokens
    )
    if (out / WEIGHTS).is_file():
        twin.load_state_dict(load_file(out / WEIGHTS))
        return twin.eval(), tokenizer

    def likelihood(
        photos: Sequence[CaptionedPhoto], features: Features, captions: TokenisedCaptions
    ) -> tuple[Objective, BatchAt]:
        batch_at = batches_of_twin(captions, features, config, mirror=preset.data.mirror)
        return TwinObjective(twin, tokenizer.pad_token_id), batch_at

    fit_twin(twin, captioner, tokenizer, preset, out, console, likelihood)
    save_twin(twin, out)
    return twin.eval(), tokenizer


def fit_twin(
    twin: Twin,
    captioner: Captioner,
    tokenizer: Any,
    preset: Preset,
    out: Path,
    console: Console,
    prepare: Callable[[Sequence[CaptionedPhoto], Features, TokenisedCaptions], tuple[Objective, BatchAt]],
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    sample: Callable[[Features, Sequence[CaptionedPhoto]], Scored] | None = None,
) -> None:
    """Fit a twin by an objective, on the photos and captions of a preset; a killed run resumes exactly.

    Args:
        twin: trained in place; at the end it holds the averaged weights, on the CPU.
        captioner: whose image encoder makes the tokens.
        tokenizer: its.
        preset: all settings.
        out: the run's folder.
        console: where progress is shown.
        prepare: makes the objective and its batches of the photos, of all tokens and of the captions that are learned.
        settings: that the weights depend on besides the preset's.
        sample: captions of the watched photos and their scores, before the first step and every ``sample_every``; None
            for none.
    """
    config = preset.train
    photos, watched = open_data(preset.data)
    accelerator = tracked_accelerator(config.tracker, out)
    twin.to(accelerator.device)
    with progress_bar(console, accelerator.is_main_process) as progress:
        features = cached_features(
            captioner, [*photos, *watched], Path(preset.data.features), preset.data.views, progress
        )
        told = {photo.id: photo.captions for photo in photos}
        captions = tokenised(told, list(features.names), tokenize_for(preset.text, tokenizer))
        objective, batch_at = prepare(photos, features, captions)
        objective.to(accelerator.device)
        write_preset(preset, out)
        log = RunLog(out, console, progress, accelerator)

        def evaluate(step: int) -> None:
            if sample and watched:
                log.samples(step, sample(features, watched))

        if not log.begin(config.steps):
            evaluate(0)
        fit(
            twin,
            objective,
            make_optimizers(objective, config),
            batch_at,
            config,
            out,
            settings={"twin": dataclasses.asdict(sizes_of(preset)), **settings},
            report=log.report,
            evaluate=evaluate,
            accelerator=accelerator,
        )
    twin.cpu()


def save_twin(twin: Twin, out: Path) -> None:
    """Write a twin's weights as ``out/twin.safetensors``."""
    from safetensors.torch import save_file

    with whole_file(out / WEIGHTS) as fresh:
        save_file({name: tensor.cpu() for name, tensor in twin.state_dict().items()}, fresh)


def batches_of_twin(
    captions: TokenisedCaptions, features: Features, config: TrainConfig, *, mirror: bool = True
) -> Callable[[int, int, int], tuple[Any, ...]]:
    """Image tokens and captions of a step, a pure function of it, as ``clearcap.training.loop.fit`` asks for them."""

    def batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        chosen = photos_of_step(len(captions.rows), config.photos, config.seed, step, rank, world)
        generator = generator_at(config.seed, 1, step, rank)
        views = torch.randint(len(features.tokens), (len(chosen),), generator=generator)
        image = features.gather(views, captions.rows[chosen])
        turned = captions.mirrored[chosen] & (torch.rand(len(chosen), generator=generator) < 0.5) & mirror
        image = torch.where(turned[:, None, None], flip(image), image)
        return image, captions.sample(chosen, config.copies, generator)

    return batch_at
