"""``CaptionPipeline``: photos in, captions out."""

from clearcap.pipeline.pipeline import CaptionPipeline, CaptionResult

__all__ = ["CaptionPipeline", "CaptionResult"]
