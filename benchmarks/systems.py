"""Our captioners at any caption length, with random weights, by steps and guidance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.paper_size import paper_size_captioner
from benchmarks.timing import System
from clearcap.captioner.folder import bundled_model
from clearcap.captioner.model import Captioner, CaptionerConfig
from clearcap.config import load_preset
from clearcap.errors import InputError

ENDS = 2  # [CLS] and [SEP], positions of ours that hold no word
DISTILLED = (2, 0.0)  # steps and guidance of a distilled captioner
VARIANTS: dict[str, tuple[tuple[int, float], ...]] = {
    "bundled": tuple((steps, guidance) for guidance in (0.0, 1.0) for steps in (1, 2, 5, 10)),
    "paper": (DISTILLED, (5, 1.0)),
}
"""Steps and guidance scales each size is measured at."""


def captioner_of_size(size: str, longest: int) -> Captioner:
    """A captioner with random weights that can write captions of up to ``longest`` tokens.

    Args:
        size: "bundled" (the sizes of the model that ships) or "paper" (``ladic-base``).
        longest: tokens of the longest caption, without [CLS] and [SEP].

    Raises:
        InputError: no such size.
    """
    if size == "paper":
        captioner = paper_size_captioner(load_preset("ladic-base", [f"text.length={longest + ENDS}"]))
    elif size == "bundled":
        settings = json.loads((bundled_model() / "config.json").read_text())
        settings["text"]["length"] = longest + ENDS
        torch.manual_seed(0)
        captioner = Captioner(CaptionerConfig.from_dict(settings))
    else:
        raise InputError(f"unknown size {size!r}; choose among {', '.join(VARIANTS)}")
    captioner.vision = captioner.vision.folded()  # as the pipeline does
    return captioner.eval().requires_grad_(False)


def write(
    captioner: Captioner, photos: Tensor, tokens: int, *, steps: int, guidance: float, candidates: int = 1
) -> Tensor:
    """Captions of ``tokens`` positions for words, one draw each, without Back&Refine.

    A captioner that is told how long its captions are is told that all positions are words.

    Args:
        captioner: its length is set to ``tokens`` and the two ends; weights do not depend on it.
        photos: [photos, 3, side, side], RGB in 0..1, of the model's dtype.
        tokens: positions between [CLS] and [SEP].
        steps: calls of the denoiser.
        guidance: guidance scale; 0 costs no second branch.
        candidates: captions of a photo, drawn and not chosen among.

    Returns:
        Ids [photos * candidates, tokens].
    """
    captioner.length = tokens + ENDS
    how = dataclasses.replace(
        captioner.defaults,
        steps=steps,
        spacing="uniform",
        guidance=guidance,
        candidates=candidates,
        refine=0,
        early_exit=0,
        length=tokens if captioner.defaults.length else 0,
        min_length=0,
        max_length=0,
    )
    return captioner.generate(photos, sampling=how).ids.flatten(0, 1)[:, 1:-1]


def systems_of(size: str, captioner: Captioner, ways: Sequence[tuple[int, float]]) -> list[System]:
    """A captioner as one system for each way of drawing: steps and guidance scale."""
    return [_system(size, captioner, steps, guidance) for steps, guidance in ways]


def name_of(size: str, steps: int, guidance: float) -> str:
    """What tables call a size at a number of steps."""
    return f"{size}, {steps} step{'s' if steps > 1 else ''}{', guided' if guidance else ''}"


def _system(size: str, captioner: Captioner, steps: int, guidance: float) -> System:
    shown = (steps, guidance) == DISTILLED or (size, steps, guidance) == ("bundled", 10, 1.0)
    return System(
        name_of(size, steps, guidance),
        size,
        lambda photos, tokens, candidates: write(
            captioner, photos, tokens, steps=steps, guidance=guidance, candidates=candidates
        ),
        at_batches=shown,
        at_candidates=shown,
    )
