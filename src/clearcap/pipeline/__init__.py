"""``CaptionPipeline``: photos in, captions out."""

from clearcap.pipeline.pipeline import CaptionPipeline, CaptionResult, Watched

__all__ = ["CaptionPipeline", "CaptionResult", "Watched"]
