"""From a captioner's settings to its parts, untrained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clearcap import registry
from clearcap.config import DenoiserConfig, TextConfig, VisionConfig, make, number
from clearcap.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Everything that rebuilds a captioner without a hub: sections as in a preset, the towers' own settings
    (``bert`` and ``tower``) and special token ids (``tokens``)."""

    text: dict[str, Any]
    vision: dict[str, Any]
    denoiser: dict[str, Any]
    diffusion: dict[str, Any]
    sampling: dict[str, Any]
    bert: dict[str, Any]
    tower: dict[str, Any]
    tokens: dict[str, int]


@dataclass(frozen=True)
class Parts:
    """What a captioner is put together from.

    Attributes:
        text: a text space, or what runs its graphs (``clearcap.captioner.onnx.runtime``).
        vision: an image encoder, or the same.
        denoiser: a denoiser, or the same.
    """

    text: Any
    vision: Any
    denoiser: Any


def build_parts(config: Any) -> Parts:
    """The parts that settings describe, with random weights.

    Args:
        config: ``Settings``, or what has its fields.

    Raises:
        InputError: impossible settings, or parts that do not fit each other.
    """
    text, vision = make(TextConfig, config.text, "text"), make(VisionConfig, config.vision, "vision")
    sizes = make(DenoiserConfig, config.denoiser, "denoiser")
    space = registry.find("text space", text.kind).build(text, config.bert, config.tokens)
    for name, token in config.tokens.items():
        number(f"tokens.{name}", token, int, 0, 2**31 - 1)
    encoder = registry.find("image encoder", vision.kind).build(vision, config.tower)
    check_tokens(vision, encoder)
    denoiser = registry.find("denoiser", sizes.kind)(
        sizes, dim=space.dim, length=text.length, image_dim=vision.dim, image_tokens=vision.tokens
    )
    return Parts(space, encoder.requires_grad_(False).eval(), denoiser)


def check_tokens(vision: VisionConfig, encoder: Any) -> None:
    """Raise InputError unless an encoder makes the tokens that the settings say."""
    if (encoder.tokens, encoder.dim) != (vision.tokens, vision.dim):
        raise InputError(
            f"vision.tokens={vision.tokens} and vision.dim={vision.dim}, but the encoder makes {encoder.tokens} "
            f"tokens of {encoder.dim} channels; pass vision.tokens={encoder.tokens} vision.dim={encoder.dim}"
        )
