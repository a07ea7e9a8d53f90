"""Training of a scorer on the image tokens of a captioner, from corpora to ``scorer.safetensors``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from clearcap.captioner.fingerprint import fingerprint
from clearcap.captioner.folder import SCORER
from clearcap.captioner.model import Captioner
from clearcap.captioner.scorer import Scorer, ScorerConfig, save_scorer, word_pieces
from clearcap.config import TrainConfig, knob, require
from clearcap.data.features import Features, flip
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder
from clearcap.training.examples import photos_of_step, sides_of
from clearcap.training.log import RunLog, progress_bar, tracked_accelerator
from clearcap.training.loop import fit, generator_at
from clearcap.training.objectives import Objective
from clearcap.training.optimizers import split_optimizers
from clearcap.training.run import cached_features, check_photos
from clearcap.training.twin.examples import TokenisedCaptions, tokenised

RANKS = (1, 5, 10)
COLDEST = 100.0  # what cosines are multiplied by at most, as in CLIP


@dataclass(frozen=True)
class ScorerTraining:
    """How a scorer is trained; start from ``usual_settings``."""

    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    dropout: float = knob(0.1, "dropout in both towers")
    word_dropout: float = knob(0.1, "word pieces that are hidden")
    smoothing: float = knob(0.1, "label smoothing: other captions of a batch may fit a photo, too")
    features: str = knob("", "folder of the image-feature cache; default OUT/features")
    views: int = knob(1, "views of each photo in the feature cache, where it has to be made")

    def __post_init__(self) -> None:
        for name in ("dropout", "word_dropout", "smoothing"):
            require(0 <= getattr(self, name) < 1, f"{name}={getattr(self, name)} must lie in [0, 1)")
        require(self.views >= 1, f"views={self.views} must be at least 1")
        require(
            self.train.photos >= 2, f"train.photos={self.train.photos} leaves nothing to compare with; use 2"
        )
        require(
            not self.train.init and not self.train.text_only and self.train.copies == 1,
            "train.init, train.text_only and train.copies have no meaning here; leave them out",
        )


def usual_settings() -> ScorerTraining:
    """Ten minutes of one core for 12,000 photos whose tokens are cached."""
    train = TrainConfig(
        steps=1500,
        photos=384,
        copies=1,
        lr=1.5e-3,
        weight_decay=0.1,
        decay="cosine",
        warmup=60,
        ema=0.99,
        bf16=False,
        log_every=50,
        save_every=250,
        sample_every=250,
    )
    return ScorerTraining(train=train)


class ScorerObjective(Objective):
    """Each photo is told from the others by its caption, and each caption by its photo (InfoNCE, both ways)."""

    caption_weight = 1.0

    def __init__(self, scorer: Scorer, smoothing: float, word_dropout: float, unknown: int) -> None:
        """Args:
        scorer: trained.
        smoothing: of labels.
        word_dropout: share of word pieces that are hidden.
        unknown: word piece that stands for hidden ones.
        """
        super().__init__()
        self.scorer, self.smoothing = scorer, smoothing
        self.word_dropout, self.unknown = word_dropout, unknown

    def forward(
        self, tokens: Float[Tensor, "photos tokens dim"], ids: Int[Tensor, "photos length"], dropout: int
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross-entropy of the right caption for each photo, and of the right photo for each caption, in nats.

        Args:
            tokens: of photos.
            ids: a caption of each.
            dropout: seed of torch's global generator, which dropout draws from.
        """
        torch.manual_seed(dropout)
        hidden = (torch.rand(ids.shape, device=ids.device) < self.word_dropout) & (ids != self.scorer.pad)
        texts = self.scorer.text_vectors(ids.masked_fill(hidden, self.unknown))
        scale = self.scorer.scale.exp().clamp(max=COLDEST)
        logits = scale * self.scorer.photo_vectors(tokens) @ texts.T
        own = torch.arange(len(ids), device=ids.device)
        return (
            F.cross_entropy(logits, own, label_smoothing=self.smoothing),
            F.cross_entropy(logits.T, own, label_smoothing=self.smoothing),
        )


def train_scorer(
    captioner: Captioner,
    tokenizer: Any,
    photos: Sequence[CaptionedPhoto],
    watched: Sequence[CaptionedPhoto],
    config: ScorerTraining,
    out: Path,
    console: Console | None = None,
) -> Scorer:
    """Train a scorer on a captioner's image tokens, or go on where a killed run stopped.

    Writes ``out/checkpoint``, ``out/curves.jsonl``, ``out/samples.jsonl`` (recall on watched photos) and
    ``out/scorer.safetensors``, which is found when it lies beside the captioner's weights.

    Args:
        captioner: its encoder and tokenizer are used, and stay as they are.
        tokenizer: its.
        photos: captioned, learned from.
        watched: captioned photos, none of the others, among which recall is measured; may be empty.
        config: all settings.
        out: the run's folder.
        console: where progress is shown; standard error by default.

    Returns:
        The scorer, with averaged weights.

    Raises:
        InputError: too few photos, one twice or also watched, or ``out`` holds a run of other settings.
    """
    console, train = console or Console(stderr=True), config.train
    check_photos(photos, watched)
    require(
        len(photos) >= train.photos,
        f"{len(photos)} photos are fewer than train.photos={train.photos} of a step; pass more --data or lower it",
    )
    make_folder(out)
    accelerator = tracked_accelerator(train.tracker, out)
    captioner.to(accelerator.device)
    pad, length = int(tokenizer.pad_token_id), config.scorer.length
    torch.manual_seed(train.seed)
    scorer = Scorer(
        config.scorer,
        vocab=max(tokenizer.get_vocab().values()) + 1,
        image_dim=captioner.config.vision["dim"],
        pad=pad,
        dropout=config.dropout,
    ).to(accelerator.device)

    def pieces(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = word_pieces(tokenizer, captions, length, pad)
        return ids, (ids != pad).long()

    with progress_bar(console, accelerator.is_main_process) as progress:
        with accelerator.main_process_first():  # the others find it done
            folder = Path(config.features or out / "features")
            features = cached_features(captioner, [*photos, *watched], folder, config.views, progress)
        captions = {photo.id: photo.captions for photo in photos}
        examples = tokenised(captions, features.names, pieces, sides_of(captioner))
        objective = ScorerObjective(
            scorer, config.smoothing, config.word_dropout, int(tokenizer.unk_token_id)
        )
        log = RunLog(out, console, progress, accelerator)
        log.begin(train.steps)

        def evaluate(step: int) -> None:
            if len(watched) >= RANKS[-1]:
                log.samples(step, ({}, recall(scorer, features, watched, pieces)))

        settings = dataclasses.asdict(config)
        fit(
            scorer,
            objective,
            split_optimizers(
                dict(objective.named_parameters()),
                (),
                lr=train.lr,
                muon_lr=train.muon_lr,
                weight_decay=train.weight_decay,
            ),
            batches(examples, features, config),
            train,
            out,
            settings={name: settings[name] for name in settings if name not in ("features", "views")},
            report=log.report,
            evaluate=evaluate,
            accelerator=accelerator,
        )
    if accelerator.is_main_process:
        save_scorer(scorer, tokenizer, fingerprint(captioner), out / SCORER)
    accelerator.end_training()
    return scorer


def batches(
    examples: TokenisedCaptions, features: Features, config: ScorerTraining
) -> Callable[[int, int, int], tuple[Any, ...]]:
    """The objective's arguments at a step: a pure function of seed, step and rank; every photo once per epoch."""
    train = config.train

    def batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        chosen = photos_of_step(len(examples.rows), train.photos, train.seed, step, rank, world)
        generator = generator_at(train.seed, 6, step, rank)
        views = torch.randint(len(features.tokens), (len(chosen),), generator=generator)
        image = features.gather(views, examples.rows[chosen])
        mirror = examples.mirrored[chosen] & (torch.rand(len(chosen), generator=generator) < 0.5)
        image = torch.where(mirror[:, None, None], flip(image), image)
        return image, examples.sample(chosen, 1, generator), generator.initial_seed()

    return batch_at


@torch.inference_mode()
def recall(
    scorer: Scorer,
    features: Features,
    photos: Sequence[CaptionedPhoto],
    pieces: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    batch: int = 500,
) -> dict[str, float]:
    """How often what belongs together is among the first: captions of photos, and photos of captions.

    Args:
        scorer: in evaluation mode.
        features: tokens of the photos.
        photos: captioned; each one's captions are sought among all captions, and the other way round.
        pieces: captions -> ids and mask.
        batch: photos or captions at once.

    Returns:
        "caption R@k": share of photos with a caption of theirs among the first k; "photo R@k": share of captions
        with their photo among the first k.
    """
    device = next(scorer.parameters()).device
    rows = features.rows([photo.id for photo in photos])
    seen = torch.cat(
        [
            scorer.photo_vectors(features.gather(torch.zeros_like(part), part).to(device))
            for part in rows.split(batch)
        ]
    )
    ids, _ = pieces([caption for photo in photos for caption in photo.captions])
    texts = torch.cat([scorer.text_vectors(part.to(device)) for part in ids.split(batch)])
    owner = torch.arange(len(photos), device=device).repeat_interleave(
        torch.tensor([len(photo.captions) for photo in photos], device=device)
    )
    alike = seen @ texts.T
    own = owner == torch.arange(len(photos), device=device)[:, None]
    best = alike.masked_fill(~own, -torch.inf).amax(1)
    before_caption = (alike > best[:, None]).sum(1)
    before_photo = (alike > alike[owner, torch.arange(len(owner), device=device)]).sum(0)
    return {f"caption R@{k}": float((before_caption < k).float().mean()) for k in RANKS} | {
        f"photo R@{k}": float((before_photo < k).float().mean()) for k in RANKS
    }
