"""Tiny pretrained towers in the model hub's folder format, written by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = "a the man woman dog cat two red bus on in riding sitting and wave ball grass . , ' - s ##s ##ing"


def vocabulary() -> list[str]:
    """BERT's special tokens, letters and a few words."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS.split(),
        *letters,
        *(f"##{c}" for c in letters),
    ]
    return list(dict.fromkeys(pieces))


def write_tokenizer(folder: Path) -> None:
    """A word-piece tokenizer of that vocabulary."""
    from transformers import BertTokenizer

    pieces = {piece: i for i, piece in enumerate(vocabulary())}
    BertTokenizer(vocab=pieces, do_lower_case=True).save_pretrained(folder)


def write_bert(folder: Path, layers: int = 4) -> Path:
    """A BERT with its masked-language head."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    BertForMaskedLM(
        BertConfig(
            vocab_size=len(vocabulary()),
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=32,
        )
    ).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_distilbert(folder: Path) -> Path:
    """A DistilBERT with its masked-language head."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    torch.manual_seed(1)
    config = DistilBertConfig(
        vocab_size=len(vocabulary()), dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=32
    )
    model = DistilBertForMaskedLM(config)
    with torch.no_grad():  # pretrained words are told apart by their embeddings; std 0.02 would be all alike
        model.get_input_embeddings().weight.mul_(50)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_blip(folder: Path) -> Path:
    """A BLIP captioning model: 5 tokens of 12 channels from photos of 16 pixels."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    torch.manual_seed(2)
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BlipForConditionalGeneration(
        BlipConfig(
            vision_config=sizes | {"image_size": 16, "patch_size": 8},
            text_config=sizes
            | {"vocab_size": 30, "encoder_hidden_size": 12, "bos_token_id": 1, "sep_token_id": 2},
            projection_dim=8,
        )
    ).save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """A CLIP model: one vector of 10 channels from photos of 16 pixels."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(3)
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPModel(
        CLIPConfig(
            vision_config=sizes | {"image_size": 16, "patch_size": 8, "projection_dim": 10},
            text_config=sizes | {"vocab_size": 30, "projection_dim": 10},
            projection_dim=10,
        )
    ).save_pretrained(folder)
    return folder


def ladic_overrides(bert: Path, blip: Path) -> list[str]:
    """``ladic-base`` and ``ladic-base-authors`` at the size of those towers."""
    return [
        f"text.source={bert}",
        "text.split=2",
        "text.length=8",
        f"vision.source={blip}",
        "vision.tokens=5",
        "vision.dim=12",
        "vision.image_size=16",
        "denoiser.width=32",
        "denoiser.depth=1",
        "denoiser.heads=2",
        "denoiser.hidden=32",
        "denoiser.positions=32",
        "sampling.steps=4",
    ]


def clip_diffusion_lm_overrides(distilbert: Path, clip: Path) -> list[str]:
    """``clip-diffusion-lm-concat`` and ``-add`` at the size of those towers."""
    return [
        f"text.source={distilbert}",
        "text.length=8",
        f"vision.source={clip}",
        "vision.dim=10",
        "vision.image_size=16",
        "denoiser.width=16",
        "denoiser.depth=1",
        "denoiser.heads=2",
        "denoiser.hidden=24",
        "denoiser.positions=32",
        "diffusion.levels=4",
    ]


def write_clip_scorer(folder: Path) -> Path:
    """A CLIP that reads letters, with its processor: what CLIPScore needs."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    part = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **part,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 40,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**part, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
