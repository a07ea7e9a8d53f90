"""Pre-training of a compact BERT on captions, as the text space of a captioner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clearcap.config import TrainConfig, knob, require
from clearcap.data.writing import whole_folder
from clearcap.text.tokenizer import clean_caption, encode_captions, train_tokenizer
from clearcap.training.loop import StepReport, fit, generator_at, make_accelerator
from clearcap.training.objectives import Objective
from clearcap.training.optimizers import plain_adamw

SHARED = ("steps", "lr", "warmup", "bf16", "seed", "save_every")
"""Settings that ``TrainConfig`` has too."""


@dataclass(frozen=True)
class PretrainTextConfig:
    """Settings of ``clearcap pretrain-text``."""

    vocab_size: int = knob(5000, "word pieces at most")
    min_count: int = knob(4, "occurrences that make a word one piece")
    cased: bool = knob(False, "keep capitals and accents, as German needs them")
    length: int = knob(20, "positions of a caption, [CLS] and [SEP] included")
    max_words: int = knob(30, "words of a caption that are kept, before it is cut to length")
    width: int = knob(128, "channels of the text space")
    depth: int = knob(4, "layers, both halves together")
    split: int = knob(2, "layers of the lower half")
    heads: int = knob(4, "attention heads")
    hidden: int = knob(512, "feed-forward channels")
    mask_share: float = knob(0.25, "words hidden for the masked-language objective")
    noise: float = knob(0.5, "greatest noise, in latent standard deviations, of the reconstruction objective")
    steps: int = knob(6000, "optimiser steps")
    batch: int = knob(192, "captions a step")
    lr: float = knob(2e-3, "peak learning rate")
    warmup: int = knob(300, "warm-up steps")
    weight_decay: float = knob(0.01, "AdamW weight decay")
    seed: int = knob(0, "seed of every draw")
    bf16: bool = knob(True, "matrix products in bf16")
    save_every: int = knob(1000, "steps between checkpoints")

    def __post_init__(self) -> None:
        require(
            0 < self.split < self.depth,
            f"split={self.split} must lie between 1 and depth-1={self.depth - 1}",
        )
        require(0 < self.mask_share < 1, f"mask_share={self.mask_share} must lie between 0 and 1")


class TextObjective(Objective):
    """Two losses that share each pass over the layers.

    Masked words are predicted (the context the paper takes from BERT), and captions are read back from mid-depth
    latents with noise on them (the autoencoder that the diffusion decodes with).
    """

    caption_weight = 1.0

    def __init__(self, model: Any, split: int, pad_id: int) -> None:
        """Args:
        model: a ``BertForMaskedLM``.
        split: layers of the lower half, above which the noise enters.
        pad_id: token that is not looked at.
        """
        super().__init__()
        self.model, self.split, self.pad_id = model, split, pad_id

    def forward(
        self,
        both: Tensor,
        ids: Tensor,
        hidden: Tensor,
        words: Tensor,
        level: Tensor,
        noise: Tensor,
        dropout: int,
    ) -> tuple[Tensor, Tensor]:
        """Losses of the masked words and of all words read back, in nats.

        Args:
            both: captions with hidden words, then the same with all [2 * batch, length].
            ids: the captions [batch, length].
            hidden: which words are hidden, of
            words: the positions that are words.
            level: of the noise, in standard deviations of the latents [batch, 1, 1].
            noise: standard normal [batch, length, width].
            dropout: seed of torch's global generator, which dropout draws from.
        """
        torch.manual_seed(dropout)
        bert = self.model.bert
        attend = torch.where(
            ids[:, None, None, :] != self.pad_id, 0.0, -1e4
        )  # added to scores; pads are not seen
        h = bert.embeddings(input_ids=both)
        for layer in bert.encoder.layer[: self.split]:
            h = layer(h, torch.cat((attend, attend)))
        masked, clear = h.chunk(2)
        spread = clear.detach().float().std(dim=(0, 1), keepdim=True)
        clear = clear + (level * spread * noise).to(clear.dtype)
        for layer in bert.encoder.layer[self.split :]:
            masked, clear = (
                layer(masked, attend),
                layer(clear),
            )  # the decoder cannot know where a caption ends
        return (
            F.cross_entropy(self.model.cls(masked[hidden]).float(), ids[hidden]),
            F.cross_entropy(self.model.cls(clear[words]).float(), ids[words]),
        )


def pretrain_text(
    captions: Sequence[str],
    out: Path,
    config: PretrainTextConfig,
    report: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> None:
    """Train a tokenizer and a ``BertForMaskedLM`` on captions and write both to ``out`` in the hub's format.

    Args:
        captions: raw captions.
        out: folder; ``out/checkpoint`` holds the place to resume from.
        config: sizes and schedule.
        report: called every 50 steps with the losses.

    Raises:
        InputError: no captions, or ``out/checkpoint`` was made with other settings.
    """
    cleaned = [clean_caption(caption, config.max_words, keep_period=False) for caption in captions]
    tokenizer = train_tokenizer(cleaned, config.vocab_size, config.min_count, cased=config.cased)
    ids, mask = encode_captions(tokenizer, cleaned, config.length)
    accelerator = make_accelerator()
    model = _untrained(config, tokenizer).to(accelerator.device)

    def batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        generator = generator_at(config.seed, step) if world == 1 else generator_at(config.seed, step, rank)
        chosen = ids[rows := torch.randint(len(ids), (config.batch,), generator=generator)]
        words = mask[rows].bool() & (chosen != tokenizer.cls_token_id) & (chosen != tokenizer.sep_token_id)
        hidden = words & (torch.rand(chosen.shape, generator=generator) < config.mask_share)
        level = config.noise * torch.rand(len(chosen), 1, 1, generator=generator)
        noise = torch.randn(*chosen.shape, config.width, generator=generator)
        both = torch.cat((chosen.masked_fill(hidden, tokenizer.mask_token_id), chosen))
        return both, chosen, hidden, words, level, noise, generator.initial_seed()

    shared = {name: getattr(config, name) for name in SHARED}

    def say(measured: StepReport) -> None:
        report(measured.step, {"masked": measured.latent, "read back": measured.caption})

    fit(
        model,
        TextObjective(model, config.split, tokenizer.pad_token_id),
        [plain_adamw(model.parameters(), config.lr, config.weight_decay, betas=(0.9, 0.98))],
        batch_at,
        TrainConfig(**shared, decay="cosine", clip=1.0, ema=0.0, log_every=50, sample_every=0),
        out,
        settings={"text": asdict(config)},
        report=say,
        evaluate=lambda step: None,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        with whole_folder(out) as fresh:
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)


def _untrained(config: PretrainTextConfig, tokenizer: Any) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(config.seed)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.hidden,
            max_position_embeddings=max(64, config.length),
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.set_attn_implementation("eager")  # 2x faster than the fused kernel in bf16 training on a CPU
    return model
