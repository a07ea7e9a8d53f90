"""``CaptionPipeline``: photos in, captions out."""

from clearcap.errors import InputError
from clearcap.pipeline.pipeline import CaptionPipeline, CaptionResult, Watched

__all__ = ["CaptionPipeline", "CaptionResult", "InputError", "Watched"]
