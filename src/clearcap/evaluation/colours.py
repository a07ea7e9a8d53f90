"""Colours that a caption names though neither a reference nor the region that the word looks at supports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from clearcap.metrics.tokenizer import tokenize
from clearcap.metrics.wording import COLOURS
from clearcap.pipeline import CaptionPipeline

NAMES = tuple(dict.fromkeys(COLOURS.values()))
REGION = 0.25  # share of the photo, where the word looks most, that counts as what it looks at
DOMINANT = 0.15  # share of that region from which a colour is one of its dominant ones


def colours_of(photo: UInt8[np.ndarray, "height width 3"]) -> Int[np.ndarray, "height width"]:
    """Each pixel's colour, as a place in ``NAMES``, by hue, saturation and brightness."""
    hue, saturation, value = (np.asarray(Image.fromarray(photo).convert("HSV"), dtype=float) / 255).transpose(
        2, 0, 1
    )
    degrees = 360 * hue
    by_hue = [
        ("red", (degrees < 15) | (degrees >= 340)),
        ("brown", (degrees < 45) & (value < 0.65)),
        ("orange", degrees < 42),
        ("yellow", degrees < 70),
        ("green", degrees < 170),
        ("blue", degrees < 260),
        ("purple", degrees < 300),
        ("pink", degrees < 340),
    ]
    conditions = [
        ("black", value < 0.2),
        ("white", (saturation < 0.15) & (value > 0.75)),
        ("gray", saturation < 0.15),
        ("pink", ((degrees < 15) | (degrees >= 300)) & (saturation < 0.5) & (value > 0.75)),
        ("brown", (degrees < 15) & (saturation < 0.7) & (value < 0.65)),
        *by_hue,
    ]
    return np.select([where for _, where in conditions], [NAMES.index(name) for name, _ in conditions])


def dominant_colours(
    photo: UInt8[np.ndarray, "height width 3"], heat: Float[np.ndarray, "grid grid"]
) -> set[str]:
    """Colours of at least so much of the region that a map is greatest on (``REGION``, ``DOMINANT``).

    Args:
        photo: pixels.
        heat: the map.
    """
    size = photo.shape[1], photo.shape[0]
    spread = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    region = spread >= np.quantile(spread, 1 - REGION)
    shares = np.bincount(colours_of(photo)[region], minlength=len(NAMES)) / region.sum()
    return {name for name, share in zip(NAMES, shares, strict=True) if share >= DOMINANT}


def doubtful_colours(
    pipeline: CaptionPipeline,
    photo: UInt8[np.ndarray, "size size 3"],
    caption: str,
    references: Sequence[str],
) -> list[tuple[str, bool]]:
    """Colour words of a caption that no reference names, and whether the region each looks at has that colour.

    Args:
        pipeline: whose captioner has cross-attention; any caption can be asked about.
        photo: pixels as the captioner takes them.
        caption: of the photo.
        references: people's captions of it.

    Raises:
        InputError: the caption has a word that the model has not, or the model shows no attention.
    """
    named = {COLOURS[word] for words in tokenize(list(references)) for word in words if word in COLOURS}
    if not any(word in COLOURS and COLOURS[word] not in named for word in caption.split()):
        return []
    looks: Any = pipeline.attention(Image.fromarray(photo), caption, guidance=0.0)
    found = []
    for word, heat in zip(looks.words, looks.beside_the_others(), strict=True):
        if word in COLOURS and COLOURS[word] not in named:
            found.append((word, COLOURS[word] in dominant_colours(photo, heat)))
    return found
