"""A real captioner of a few thousand random weights, with its tokenizer, for tests that need all parts at once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from clearcap.captioner.model import Captioner, CaptionerConfig
from clearcap.text.tokenizer import train_tokenizer

CAPTIONS = [
    "a brown dog runs on the green grass .",
    "two men ride horses near a river .",
    "a little girl in a red dress jumps over the water .",
    "the man is holding a tennis racket , and a ball .",
]


@functools.cache
@torch.inference_mode(False)  # shared by tests, some of which ask for it in inference mode
def tiny_captioner(length: int = 10, seed: int = 0) -> tuple[Captioner, Any]:
    """The captioner, whose random weights say different things about different photos, and its tokenizer."""
    tokenizer = train_tokenizer(CAPTIONS, size=120, min_count=1)
    torch.manual_seed(seed)
    captioner = Captioner(
        CaptionerConfig(
            text={"length": length, "split": 1},
            vision={"kind": "compact", "tokens": 4, "dim": 16, "image_size": 64},
            denoiser={"width": 32, "depth": 2, "heads": 2, "hidden": 48},
            diffusion={"schedule": "cosine"},
            sampling={"steps": 6},
            tower={"widths": [8, 8, 8, 16], "depths": [0, 1, 1, 1], "mixers": 1, "heads": 2},
            bert={
                "vocab_size": len(tokenizer),
                "hidden_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "max_position_embeddings": 32,
            },
            tokens={
                "pad": tokenizer.pad_token_id,
                "cls": tokenizer.cls_token_id,
                "sep": tokenizer.sep_token_id,
                "filler": tokenizer.pad_token_id,
                "mask": tokenizer.mask_token_id,
            },
        )
    ).eval()
    with torch.no_grad():  # untrained weights of std 0.02 would say one word for every photo
        for name, weight in captioner.named_parameters():
            if weight.ndim > 1 and not name.startswith("vision"):
                weight.mul_(8)
        captioner.text.special.normal_(generator=torch.Generator().manual_seed(1))
    _made.append((captioner, marks(captioner)))
    return captioner, tokenizer


_made: list[tuple[Captioner, list[Any]]] = []  # those in the cache, and what marked their weights


def marks(captioner: Captioner) -> list[Any]:
    """What changes with the weights and with what is asked of them."""
    found: list[Any] = [captioner.training]
    for weight in captioner.parameters():
        found.append((weight.data_ptr(), weight._version, weight.requires_grad, weight.grad is None))
    return found


def forget_the_spoilt() -> None:
    """Have new captioners made where a test trained one, or it would depend on the tests before it what is drawn."""
    if any(marks(captioner) != before for captioner, before in _made):
        tiny_captioner.cache_clear()
        _made.clear()


def seeing_captioner(kind: str = "pair") -> tuple[Captioner, Any]:
    """The tiny captioner with an EfficientNet, alone or beside the compact encoder."""
    old, tokenizer = tiny_captioner()
    settings = old.config.to_dict()
    vision = {"kind": kind, "tokens": 4, "dim": 16, "image_size": 64}
    lite = {"width": 0.2, "depth": 0.3}
    tower = {"efficientnet": lite, "compact": old.config.tower} if kind == "pair" else lite
    torch.manual_seed(0)
    captioner = Captioner(CaptionerConfig.from_dict(settings | {"vision": vision, "tower": tower}))
    captioner.text.load_state_dict(old.text.state_dict())
    return captioner, tokenizer


def save_tiny_captioner(folder: Path, seed: int = 0) -> Path:
    """That captioner as ``from_pretrained`` reads it."""
    captioner, tokenizer = tiny_captioner(seed=seed)
    captioner.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def photos(count: int, seed: int = 0) -> torch.Tensor:
    """Image tokens of unrelated photos."""
    return 3 * torch.randn(count, 4, 16, generator=torch.Generator().manual_seed(seed))
