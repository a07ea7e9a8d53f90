"""Foreign checkpoints, strictly converted."""

from __future__ import annotations

from clearcap.convert.clip_diffusion_lm import build_clip_diffusion_lm, convert_clip_diffusion_lm
from clearcap.convert.ladic import Heads, build_ladic, convert_ladic
from clearcap.convert.renaming import ConversionReport, Dropped

__all__ = [
    "ConversionReport",
    "Dropped",
    "Heads",
    "build_clip_diffusion_lm",
    "build_ladic",
    "convert_clip_diffusion_lm",
    "convert_ladic",
]
