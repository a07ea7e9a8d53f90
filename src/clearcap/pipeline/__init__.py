"""``CaptionPipeline``: photos in, captions out."""

from clearcap.errors import InputError
from clearcap.pipeline.pipeline import CaptionPipeline, CaptionResult, Watched
from clearcap.text.tokenizer import side_by_side

__all__ = ["CaptionPipeline", "CaptionResult", "InputError", "Watched", "side_by_side"]
