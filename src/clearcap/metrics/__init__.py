"""Scores of captions: values, for the corpus and for each caption, without Java.

Example::

    from clearcap.metrics import score

    scores = score({"1": "a dog runs"}, {"1": ["a dog is running", "the dog runs"]})
    scores.corpus["CIDEr-D"], scores.per_caption["BLEU-4"]["1"]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {  # public name -> module that holds it; loaded on first use, so that import does nothing
    "DocumentFrequency": "clearcap.metrics.frequency",
    "Scores": "clearcap.metrics.scoring",
    "score": "clearcap.metrics.scoring",
    "tokenize": "clearcap.metrics.tokenizer",
}

__all__ = ["DocumentFrequency", "Scores", "score", "tokenize"]

if TYPE_CHECKING:
    from clearcap.metrics.frequency import DocumentFrequency
    from clearcap.metrics.scoring import Scores, score
    from clearcap.metrics.tokenizer import tokenize


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clearcap.metrics' has no attribute {name!r}")
