"""Pre-training of a compact BERT on captions, as the text space of a captioner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clearcap.errors import InputError
from clearcap.text.tokenizer import clean_caption, encode_captions, train_tokenizer
from clearcap.training.checkpoint import (
    load_checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
    save_checkpoint,
)
from clearcap.training.schedules import generator_at, learning_rate


def _knob(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class PretrainTextConfig:
    """Settings of ``clearcap pretrain-text``."""

    vocab_size: int = _knob(5000, "word pieces at most")
    min_count: int = _knob(4, "occurrences that make a word one piece")
    length: int = _knob(20, "positions of a caption, [CLS] and [SEP] included")
    max_words: int = _knob(30, "words of a caption that are kept, before it is cut to length")
    width: int = _knob(128, "channels of the text space")
    depth: int = _knob(4, "layers, both halves together")
    split: int = _knob(2, "layers of the lower half")
    heads: int = _knob(4, "attention heads")
    hidden: int = _knob(512, "feed-forward channels")
    mask_share: float = _knob(0.25, "words hidden for the masked-language objective")
    noise: float = _knob(
        0.5, "greatest noise, in latent standard deviations, of the reconstruction objective"
    )
    steps: int = _knob(6000, "optimiser steps")
    batch: int = _knob(192, "captions a step")
    lr: float = _knob(2e-3, "peak learning rate")
    warmup: int = _knob(300, "warm-up steps")
    weight_decay: float = _knob(0.01, "AdamW weight decay")
    seed: int = _knob(0, "seed of every draw")
    bf16: bool = _knob(True, "matrix products in bf16")
    save_every: int = _knob(1000, "steps between checkpoints")

    def __post_init__(self) -> None:
        if not 0 < self.split < self.depth:
            raise InputError(f"split={self.split} must lie between 1 and depth-1={self.depth - 1}")
        if not 0 < self.mask_share < 1:
            raise InputError(f"mask_share={self.mask_share} must lie between 0 and 1")


def pretrain_text(
    captions: Sequence[str],
    out: Path,
    config: PretrainTextConfig,
    report: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> None:
    """Train a tokenizer and a ``BertForMaskedLM`` on captions and write both to ``out`` in the hub's format.

    Two losses share each pass over the layers: masked words are predicted (the context the paper takes from
    BERT), and captions are read back from mid-depth latents with noise on them (the autoencoder that the
    diffusion decodes with).

    Args:
        captions: raw captions.
        out: folder; ``out/checkpoint`` holds the place to resume from.
        config: sizes and schedule.
        report: called every 50 steps with the losses.
    """
    from transformers import BertConfig, BertForMaskedLM

    cleaned = [clean_caption(caption, config.max_words, keep_period=False) for caption in captions]
    tokenizer = train_tokenizer(cleaned, config.vocab_size, config.min_count)
    ids, mask = encode_captions(tokenizer, cleaned, config.length)
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
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    step = _resume(out, model, optimizer, config)
    model.train()
    while step < config.steps:
        generator = generator_at(config.seed, step)
        torch.manual_seed(generator.initial_seed())  # dropout draws from the global generator
        rows = torch.randint(len(ids), (config.batch,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step, peak=config.lr, steps=config.steps, warmup=config.warmup, decay="cosine"
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            losses = _losses(model, ids[rows], mask[rows], tokenizer, config, generator)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            report(step, {name: loss.item() for name, loss in losses.items()})
        if step % config.save_every == 0:
            tensors = module_tensors(model, "model") | optimizer_tensors(optimizer, "adam")
            tensors.pop("model.cls.predictions.decoder.weight")  # tied to the word embedding
            tensors.pop("model.cls.predictions.decoder.bias")  # tied to predictions.bias
            save_checkpoint(out / "checkpoint", tensors, {"step": step, "config": asdict(config)})
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)


def _resume(out: Path, model: Any, optimizer: torch.optim.Optimizer, config: PretrainTextConfig) -> int:
    found = load_checkpoint(out / "checkpoint")
    if found is None:
        return 0
    tensors, progress = found
    if progress["config"] != asdict(config):
        raise InputError(f"{out}/checkpoint was made with other settings; choose another folder or delete it")
    tensors["model.cls.predictions.decoder.weight"] = tensors["model.bert.embeddings.word_embeddings.weight"]
    tensors["model.cls.predictions.decoder.bias"] = tensors["model.cls.predictions.bias"]
    restore_module(model, "model", tensors)
    restore_optimizer(optimizer, "adam", tensors)
    return int(progress["step"])


def _losses(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    tokenizer: Any,
    config: PretrainTextConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    words = mask.bool() & (ids != tokenizer.cls_token_id) & (ids != tokenizer.sep_token_id)
    hidden = words & (torch.rand(ids.shape, generator=generator) < config.mask_share)
    both = torch.cat((ids.masked_fill(hidden, tokenizer.mask_token_id), ids))
    bert = model.bert
    attend = torch.where(mask[:, None, None, :].bool(), 0.0, -1e4)  # added to the scores; pads are not seen
    h = bert.embeddings(input_ids=both)
    for layer in bert.encoder.layer[: config.split]:
        h = layer(h, torch.cat((attend, attend)))
    masked, clear = h.chunk(2)
    level = config.noise * torch.rand(len(ids), 1, 1, generator=generator)
    spread = clear.detach().float().std(dim=(0, 1), keepdim=True)
    clear = clear + (level * spread * torch.randn(clear.shape, generator=generator)).to(clear.dtype)
    for layer in bert.encoder.layer[config.split :]:
        masked, clear = layer(masked, attend), layer(clear)  # the decoder cannot know where a caption ends
    return {
        "masked": F.cross_entropy(model.cls(masked[hidden]).float(), ids[hidden]),
        "read back": F.cross_entropy(model.cls(clear[words]).float(), ids[words]),
    }
