"""Image captions from diffusion: all words at once, refined from noise."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clearcap.moved import MovedFinder

_HOMES = {  # public name -> module that holds it; loaded on first use, so that import does nothing
    "Captioner": "clearcap.captioner.model",
    "CaptionerConfig": "clearcap.captioner.model",
    "CaptionPipeline": "clearcap.pipeline.pipeline",
    "CaptionResult": "clearcap.pipeline.pipeline",
    "__version__": "clearcap.config",
}

__all__ = ["CaptionPipeline", "CaptionResult", "Captioner", "CaptionerConfig", "__version__"]

if TYPE_CHECKING:
    from clearcap.captioner.model import Captioner, CaptionerConfig
    from clearcap.config import __version__
    from clearcap.pipeline import CaptionPipeline, CaptionResult

sys.meta_path.append(MovedFinder())


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as fault:
            from clearcap.errors import needed

            told = needed(fault, f"clearcap.{name}")
            if told is None:
                raise
            raise ImportError(told, name=fault.name) from fault
    raise AttributeError(f"module 'clearcap' has no attribute {name!r}")
