"""What tells one image encoder from another: the tokens that it makes of a fixed picture, pooled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from clearcap.arrays import Array, ImageTokens, as_numpy, cast, namespace
from clearcap.captioner.generating import CaptionModel
from clearcap.errors import InputError

SQUARES = 8  # a side of the picture
TOLERANCE = 0.1  # share by which two backends or precisions of one encoder may differ


def pooled_tokens(tokens: ImageTokens) -> Float[Array, "photos pooled"]:
    """Mean and maximum of each photo's image tokens, one behind the other, in float32."""
    xp = namespace(tokens)
    wide = cast(tokens, xp.float32)
    return xp.concat((wide.mean(1), xp.amax(wide, axis=1)), axis=1)


def fingerprint(captioner: CaptionModel) -> Float[np.ndarray, " pooled"]:
    """Pooled tokens of coloured squares.

    Raises:
        InputError: the captioner gives no image tokens.
    """
    if not captioner.image_tokens:
        raise InputError(
            "graphs of onnxruntime give no image tokens; load the model that they were written of, with backend=torch"
        )
    size = int(captioner.config.vision["image_size"])
    squares = np.random.default_rng(0).integers(0, 256, (SQUARES, SQUARES, 3), dtype=np.uint8)
    place = np.arange(size) * SQUARES // size
    with captioner.inference():
        tokens = captioner.encode_image(captioner.pixels(squares[place][:, place][None]))
        return as_numpy(pooled_tokens(tokens))[0].copy()


def check_fingerprint(captioner: CaptionModel, known: Float[np.ndarray, " pooled"], what: str) -> None:
    """Raise InputError unless a captioner's encoder is the one whose fingerprint is known.

    Args:
        captioner: at hand.
        known: of the encoder that something was made with.
        what: the something, and how to make it again, for the message.
    """
    seen = fingerprint(captioner)
    if seen.shape != known.shape or np.linalg.norm(seen - known) > TOLERANCE * np.linalg.norm(known):
        raise InputError(f"{what} was made with another image encoder; make it again with this model")
