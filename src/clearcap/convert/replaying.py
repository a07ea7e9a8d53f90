"""Any fixture folder to one result per variant."""

from __future__ import annotations

import json
from pathlib import Path

from clearcap.convert.comparing import Comparison, Recorded
from clearcap.convert.reading import read_state
from clearcap.convert.replay_clip_diffusion_lm import replay_clip_diffusion_lm
from clearcap.convert.replay_ladic import replay_ladic
from clearcap.errors import InputError


def replay(folder: str | Path) -> list[tuple[str, float, bool]]:
    """Replay every variant recorded in a folder through our own modules, in float32 on the CPU.

    Args:
        folder: holds ``weights.safetensors`` (the authors' names), ``io.safetensors`` (recorded tensors) and
            ``README.json``.

    Returns:
        Variant, worst absolute difference (losses above 1 and gradients: relative to their size; infinite where
        token ids, captions or shapes differ), and whether all is within 2e-5, and optimiser steps within 1e-5.

    Raises:
        InputError: a file is missing or is no fixture.
    """
    return [(name, result.worst, result.ok) for name, result in compare(Path(folder)).items()]


def compare(folder: Path) -> dict[str, Comparison]:
    """As ``replay``, with the name of each variant's worst tensor."""
    try:
        about = json.loads((folder / "README.json").read_text())
    except (OSError, ValueError) as fault:
        raise InputError(f"{folder}: no readable README.json ({fault}); pass a fixture's folder") from fault
    from torch.nn.attention import SDPBackend, sdpa_kernel

    weights, tensors = (read_state(folder / f"{name}.safetensors") for name in ("weights", "io"))
    recorded = Recorded(tensors, about)
    with sdpa_kernel(SDPBackend.MATH):  # the plain product, as recorded; fused kernels sum in another order
        if "diffuser.embeddings.LayerNorm.weight" in weights:
            return replay_ladic(weights, recorded, folder / "vocab.txt")
        if "image_linear.weight" in weights:
            return replay_clip_diffusion_lm(weights, recorded)
    raise InputError(f"{folder}: weights of neither LaDiC nor CLIP-Diffusion-LM; pass a fixture's folder")
