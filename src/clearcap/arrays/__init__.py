"""Arrays of NumPy and of torch alike, and the layers that torch's networks are made of.

Sampling is written once, in the part of the array API that both have (``namespace(x).where`` ...), and imports
neither torch nor its types: a captioner that onnxruntime runs has NumPy arrays alone.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

Array: TypeAlias = Any  # a NumPy array or a torch tensor; naming the second would import torch

Latents = Float[Array, "batch length dim"]
"""Captions as latents, clean or noisy: one vector a position."""
TokenIds = Int[Array, "batch length"]
"""Captions as token ids, or their attention mask: 1 where a token stands, 0 behind the caption."""
Logits = Float[Array, "batch length vocab"]
"""Token logits of every position."""
ImageTokens = Float[Array, "photos tokens image_dim"]
"""Photos as vectors: what an image encoder makes of them."""
Mask = Bool[Array, "batch length"]
"""Positions of captions."""
Context: TypeAlias = list[tuple[Array, ...]]
"""An image context: what a denoiser keeps of photos for all its calls. The first axis of every array is photos."""


def namespace(x: Array) -> Any:
    """The module that an array's functions are in: ``numpy`` or ``torch``."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    import torch

    return torch


def cast(x: Array, kind: Any) -> Array:
    """The array in a type of its own library."""
    return x.astype(kind, copy=False) if isinstance(x, np.ndarray) else x.to(kind)


def softmax(x: Array) -> Array:
    """Probabilities of logits along the last axis."""
    if not isinstance(x, np.ndarray):
        return x.softmax(-1)
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def as_numpy(values: Array) -> np.ndarray:
    """An array of either kind as NumPy's."""
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


def select_photos(context: Context, photos: Int[Array, " rows"]) -> Context:
    """The context of one caption per row, each about the given photo."""
    return [tuple(part[photos] for part in layer) for layer in context]


def join_contexts(*contexts: Context, photos: int) -> Context:
    """Contexts stacked along the batch, each expanded to ``photos``: the branches of guidance run as one batch."""
    xp = namespace(contexts[0][0][0])
    return [
        tuple(
            xp.concat([xp.broadcast_to(part, (photos, *part.shape[1:])) for part in parts])
            for parts in zip(*layers, strict=True)
        )
        for layers in zip(*contexts, strict=True)
    ]
