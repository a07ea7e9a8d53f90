"""Scoring a captioner, or anyone's captions, on a split of a corpus."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {  # public name -> module that holds it; loaded on first use, so that import does nothing
    "Evaluation": "clearcap.evaluation.run",
    "compare": "clearcap.metrics.significance",
    "evaluate": "clearcap.evaluation.run",
    "load_evaluation": "clearcap.evaluation.run",
    "read_references": "clearcap.evaluation.files",
    "read_results": "clearcap.evaluation.files",
    "score_captions": "clearcap.evaluation.scores",
    "write_report": "clearcap.evaluation.report",
}

__all__ = [
    "Evaluation",
    "compare",
    "evaluate",
    "load_evaluation",
    "read_references",
    "read_results",
    "score_captions",
    "write_report",
]

if TYPE_CHECKING:
    from clearcap.evaluation.files import read_references, read_results
    from clearcap.evaluation.report import write_report
    from clearcap.evaluation.run import Evaluation, evaluate, load_evaluation
    from clearcap.evaluation.scores import score_captions
    from clearcap.metrics.significance import compare


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clearcap.evaluation' has no attribute {name!r}")
