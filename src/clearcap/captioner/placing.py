"""A captioner loaded into torch for inference, on a device, in a type, by one of torch's backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clearcap.captioner.loading import find_device, load_network
from clearcap.captioner.network import Network
from clearcap.text.tokenizer import WordPieces


def load_placed(folder: Path, device: Any, dtype: Any, backend: str) -> tuple[Network, WordPieces]:
    """The captioner of a folder and its tokenizer.

    Args:
        folder: of weights and settings.
        device: where it goes; None is a GPU if there is one, else the CPU.
        dtype: of weights and activations; None is float32.
        backend: "torch", "prepacked" or "compiled".

    Raises:
        InputError: no such device, or the weights do not fit.
    """
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    place = find_device(usual if device is None else device)
    captioner, tokenizer = load_network(str(folder))
    captioner.vision = captioner.vision.folded()
    captioner = captioner.to(place, dtype or torch.float32)
    if backend == "prepacked":
        from clearcap.captioner.prepacked import prepare_for_inference

        captioner = prepare_for_inference(captioner)
    if backend == "compiled":
        captioner.denoiser.compile(dynamic=True)
    return captioner, tokenizer
