"""A new, untrained captioner from a preset and pretrained text and image towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearcap.captioner import Captioner, CaptionerConfig
from clearcap.config import Preset, TextConfig
from clearcap.errors import InputError
from clearcap.text.spaces import SplitBertSpace, copy_from_masked_lm, word_positions
from clearcap.text.tokens import clean_caption, encode_captions

BERT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)


def assemble(preset: Preset, *, seed: int = 0) -> tuple[Captioner, Any]:
    """A captioner with pretrained towers and a new denoiser, and its tokenizer.

    Args:
        preset: settings; ``text.source`` names the masked language model, ``vision.source`` the image encoder.
        seed: of the denoiser's initial weights.

    Raises:
        InputError: a tower is missing or does not fit.
    """
    masked_lm, tokenizer = load_masked_lm(preset.text.source)
    filler = tokenizer.convert_tokens_to_ids(preset.text.filler)
    if filler == tokenizer.unk_token_id:
        raise InputError(
            f"text.filler={preset.text.filler!r} is not in the vocabulary of {preset.text.source}"
        )
    config = CaptionerConfig(
        text=dataclasses.asdict(preset.text),
        vision=dataclasses.asdict(preset.vision),
        denoiser=dataclasses.asdict(preset.denoiser),
        diffusion=dataclasses.asdict(preset.diffusion),
        sampling=dataclasses.asdict(preset.sampling),
        bert={field: getattr(masked_lm.config, field) for field in BERT_FIELDS},
        tokens={
            "pad": tokenizer.pad_token_id,
            "cls": tokenizer.cls_token_id,
            "sep": tokenizer.sep_token_id,
            "filler": filler,
        },
    )
    torch.manual_seed(seed)
    captioner = Captioner(config)
    copy_from_masked_lm(captioner.text, masked_lm)
    if preset.vision.kind == "compact" and preset.vision.source:
        load_compact_encoder(captioner, Path(preset.vision.source))
    return captioner, tokenizer


def load_masked_lm(source: str) -> tuple[Any, Any]:
    """A BERT-family masked language model and its tokenizer, by hub name or folder, safetensors only."""
    from transformers import AutoTokenizer, BertForMaskedLM

    if not source:
        raise InputError(
            "text.source is empty; pass text.source=<folder or hub name> (see clearcap pretrain-text)"
        )
    try:
        masked_lm, loading = BertForMaskedLM.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, attn_implementation="sdpa"
        )
        tokenizer = AutoTokenizer.from_pretrained(source)
    except OSError as fault:
        raise InputError(f"text.source={source!r} cannot be loaded ({str(fault).splitlines()[0]})") from fault
    if loading["missing_keys"]:
        raise InputError(
            f"{source}: {sorted(loading['missing_keys'])[0]} is missing; is it a masked language model?"
        )
    return masked_lm.eval(), tokenizer


def load_compact_encoder(captioner: Captioner, file: Path) -> None:
    """Strictly load a distilled encoder's weights."""
    from safetensors.torch import load_file

    if not file.is_file():
        raise InputError(f"vision.source={str(file)!r} does not exist; make it with clearcap distill")
    captioner.vision.load_state_dict(load_file(file), strict=True)


def tokenize_for(text: TextConfig, tokenizer: Any) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]]:
    """Raw captions -> ids and mask, cleaned and padded as the preset says."""

    def tokenize(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        cleaned = [clean_caption(caption, keep_period=text.keep_period) for caption in captions]
        return encode_captions(tokenizer, cleaned, text.length)

    return tokenize


@torch.no_grad()
def compute_statistics(
    space: SplitBertSpace, ids: Tensor, mask: Tensor, *, words_only: bool, batch: int = 512
) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of each latent channel over a corpus (LaDiC, section 3.2).

    Args:
        space: its lower half encodes.
        ids, mask: tokenised captions.
        words_only: over words (which are all that gets normalised) or over every position, as the authors did.

    Returns:
        Two vectors [dim], float32; accumulated in float64.
    """
    total, square, count = torch.zeros(space.dim).double(), torch.zeros(space.dim).double(), 0
    for i, m in zip(ids.split(batch), mask.split(batch), strict=True):
        z = space.contextual(i, m)
        z = (z[word_positions(m)] if words_only else z.flatten(0, 1)).double().cpu()
        total, square, count = total + z.sum(0), square + (z * z).sum(0), count + len(z)
    mean = total / count
    return mean.float(), ((square - count * mean * mean) / (count - 1)).clamp_min(0).sqrt().float()
