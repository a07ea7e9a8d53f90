"""How many parameters each part of each preset has, in the sizes of the towers that the presets name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from clearcap.captioner.building import Parts, Settings, build_parts
from clearcap.captioner.folder import bundled_model, settings_of
from clearcap.config import load_preset, presets

TOKENS = {"pad": 0, "cls": 101, "sep": 102, "filler": 0, "mask": 103}
BERT = {  # bert-base-uncased
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
DISTILBERT = {"vocab_size": 30522, "dim": 768}  # the embedding of distilbert-base-uncased
VIT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
PIXELS = {"image_size": 224, "mean": [0.5] * 3, "std": [0.5] * 3}
BLIP = {  # Salesforce/blip-image-captioning-base
    "architecture": "BlipVisionModel",
    "config": VIT | {"image_size": 384, "patch_size": 16},
    "projection": None,
    "mode": "patches",
    **PIXELS,
}
CLIP = {  # openai/clip-vit-base-patch32
    "architecture": "CLIPVisionModel",
    "config": VIT | {"image_size": 224, "patch_size": 32},
    "projection": 512,
    "mode": "global",
    **PIXELS,
}

# preset -> parameters of text space, image encoder and denoiser; of them trained: text space and denoiser
COUNTS = {
    "compact": ((2_103_560, 3_994_544, 5_399_168), (661_768, 5_399_168)),
    "ladic-base": ((132_955_194, 86_090_496, 312_681_216), (24_063_546, 312_529_920)),
    "ladic-base-authors": ((90_427_962, 86_090_496, 312_681_216), (24_063_546, 312_529_920)),
    "ladic-paragraph": ((132_955_194, 86_090_496, 312_681_216), (24_063_546, 312_529_920)),
    "clip-diffusion-lm-concat": ((23_440_896, 87_849_216, 44_303_616), (0, 44_303_616)),
    "clip-diffusion-lm-add": ((23_440_896, 87_849_216, 44_302_080), (0, 44_302_080)),
}


def build(name: str) -> Parts:
    """The parts of a preset, without memory for their weights."""
    sizes: dict[str, Any] = {"bert": BERT, "tower": BLIP}
    if name == "compact":
        sizes = {"bert": settings_of(bundled_model()).bert, "tower": {}}
    if name.startswith("clip-diffusion-lm"):
        sizes = {"bert": DISTILBERT, "tower": CLIP}
    with torch.device("meta"):
        return build_parts(Settings(**load_preset(name).of_the_model(), tokens=TOKENS, **sizes))


def count(part: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in part.parameters() if p.requires_grad or not trained)


@pytest.mark.parametrize("name", presets())
def test_parameters_of_every_part(name: str) -> None:
    parts = build(name)
    everything, trained = COUNTS[name]
    assert (count(parts.text), count(parts.vision), count(parts.denoiser)) == everything
    assert (count(parts.text, trained=True), count(parts.denoiser, trained=True)) == trained
    assert count(parts.vision, trained=True) == 0


def test_the_text_space_of_ladic_is_all_of_bert_with_an_lm_head_of_its_own() -> None:
    with torch.device("meta"):
        bert = BertForMaskedLM(BertConfig(**BERT))
    tied = 30522 * 768
    assert COUNTS["ladic-base"][0][0] == count(bert) + tied
    six = sum(count(layer) for layer in bert.bert.encoder.layer[6:])
    assert COUNTS["ladic-base-authors"][0][0] == COUNTS["ladic-base"][0][0] - six


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def block(width: int, hidden: int, image: int = 0) -> int:
    """A layer: self-attention, attention to the photo where there is one, feed-forward, each with its norm."""
    own = linear(width, 3 * width) + linear(width, width) + 2 * width
    seen = linear(width, width) + linear(image, 2 * width) + linear(width, width) + 2 * width
    return own + (seen if image else 0) + linear(width, hidden) + linear(hidden, width) + 2 * width


def test_the_denoisers_are_the_sums_of_their_layers() -> None:
    image = 49 * 256
    compact = linear(2 * 128, 256) + 2 * linear(256, 256) + 20 * 256 + 2 * 256 + linear(256, 128)
    compact += 5 * block(256, 768, 256) + image  # the null image
    compact += 2 * 256 + image + block(256, 2 * 256)  # the adapter
    ladic = 512 * 1536 + 2 * 1536 + 12 * block(1536, 3072, 768) + 197 * 768
    fused = 2 * linear(512, 768) + 512 * 768 + 2 * 768 + 6 * block(768, 3072) + linear(768, 768) + 2 * 768
    counted = [COUNTS[n][0][2] for n in ("compact", "ladic-base", "clip-diffusion-lm-add")]
    assert counted == [compact, ladic, fused]
    assert COUNTS["clip-diffusion-lm-concat"][0][2] == fused + 2 * 768  # what tells words from vectors
