"""What tells one image encoder from another: the tokens that it makes of a fixed picture, pooled."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from clearcap.captioner.network import Network
from clearcap.errors import InputError
from clearcap.layers import ImageTokens

WIDEST = 16_384  # channels of pooled tokens; graphs of onnxruntime have keys and values instead of tokens
TOLERANCE = 0.1  # share by which two backends or precisions of one encoder may differ


def pooled_tokens(tokens: ImageTokens) -> Float[Tensor, "photos pooled"]:
    """Mean and maximum of each photo's image tokens, one behind the other, in float32."""
    return torch.cat((tokens.float().mean(1), tokens.float().amax(1)), 1)


@torch.inference_mode()
def fingerprint(network: Network) -> Float[np.ndarray, " pooled"]:
    """Pooled tokens of coloured squares.

    Raises:
        InputError: the network has no image tokens.
    """
    size = int(network.config.vision["image_size"])
    squares = torch.from_numpy(_squares()).permute(2, 0, 1)[None].float() / 255
    picture = F.interpolate(squares, (size, size), mode="nearest")
    seen = pooled_tokens(network.encode_image(picture.to(network.device, network.dtype)))[0].cpu().numpy()
    if len(seen) > WIDEST:
        raise InputError(
            "graphs of onnxruntime keep no image tokens; load the model that they were written of, with backend=torch"
        )
    return np.array(seen)


def check_fingerprint(network: Network, known: Float[np.ndarray, " pooled"], what: str) -> None:
    """Raise InputError unless the network's encoder is the one whose fingerprint is known.

    Args:
        network: at hand.
        known: of the encoder that something was made with.
        what: the something, and how to make it again, for the message.
    """
    seen = fingerprint(network)
    if seen.shape != known.shape or np.linalg.norm(seen - known) > TOLERANCE * np.linalg.norm(known):
        raise InputError(f"{what} was made with another image encoder; make it again with this model")


def _squares() -> UInt8[np.ndarray, "8 8 3"]:
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
