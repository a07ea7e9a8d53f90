"""Foreign checkpoints, strictly converted."""

from __future__ import annotations

from clearcap.convert.ladic import Heads, build_ladic, convert_ladic
from clearcap.convert.renaming import ConversionReport, Dropped

__all__ = ["ConversionReport", "Dropped", "Heads", "build_ladic", "convert_ladic"]
