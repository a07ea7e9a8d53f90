"""A folder of recorded tensors replayed: one result per stage of each variant."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from clearcap.convert.comparing import Comparison, Recorded
from clearcap.convert.reading import read_state
from clearcap.convert.replay_clip_diffusion_lm import replay_clip_diffusion_lm
from clearcap.convert.replay_ladic import replay_ladic
from clearcap.errors import InputError


def replay(folder: str | Path) -> list[tuple[str, float, bool]]:
    """Replay every variant recorded in a folder through our own modules, on the CPU.

    Args:
        folder: holds ``weights.safetensors`` (the authors' names), ``io.safetensors`` (recorded tensors) and
            ``README.json``.

    Returns:
        Variant, greatest difference in float32 as a share of a tensor's greatest magnitude (infinite where token
        ids, captions or shapes differ), and whether it is within the bound of its stage.

    Raises:
        InputError: a file is missing or is no fixture.
    """
    return [(name, result.worst, result.ok) for name, result in compare(Path(folder)).items()]


def compare(folder: Path) -> dict[str, Comparison]:
    """As ``replay``, with each stage's bound, worst tensor and the recording's own rounding.

    Raises:
        InputError: no fixture is there, or it does not fit.
    """
    try:
        about = json.loads((folder / "README.json").read_text())
    except (OSError, ValueError) as fault:
        raise InputError(f"{folder}: no readable README.json ({fault}); pass a fixture's folder") from fault
    weights, tensors = (read_state(folder / f"{name}.safetensors") for name in ("weights", "io"))
    recorded = (Recorded(weights, tensors, about, dtype) for dtype in (torch.float32, torch.float64))
    single, double = (_compare(one, folder) for one in recorded)
    for name, result in single.items():
        result.rounding = double[name].worst
    return single


def _compare(recorded: Recorded, folder: Path) -> dict[str, Comparison]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):  # the plain product, as recorded; fused kernels sum in another order
        if "diffuser.embeddings.LayerNorm.weight" in recorded.weights:
            return replay_ladic(recorded, folder / "vocab.txt")
        if "image_linear.weight" in recorded.weights:
            return replay_clip_diffusion_lm(recorded)
    raise InputError(f"{folder}: weights of neither LaDiC nor CLIP-Diffusion-LM; pass a fixture's folder")
