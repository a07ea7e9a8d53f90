"""How far a training step travels through the house."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from test_package import STEP_FILES, Visits

from clearcap.captioner.model import load_captioner
from clearcap.captioner.towers import tokenize_for
from clearcap.config import load_preset
from clearcap.data.features import Features
from clearcap.training.examples import prepare_examples
from clearcap.training.loop import StepReport
from clearcap.training.run import fit_captions


def test_a_training_step_visits_few_files(tmp_path: Path) -> None:
    """The second of three steps of the bundled model, from its batch to its averaged weights."""
    captioner, tokenizer = load_captioner("default")
    settings = [
        "steps=3",
        "photos=2",
        "copies=2",
        "log_every=1",
        "sample_every=0",
        "save_every=9",
        "text_only=0.5",
    ]
    preset = load_preset("compact", [f"train.{setting}" for setting in settings])
    captions = [["a dog runs", "two dogs"], ["a man", "the red man"]]
    tokenize = tokenize_for(preset.text, tokenizer)
    examples = prepare_examples(captioner, tokenize, captions, torch.arange(2), ["a bird"])
    tokens = np.random.default_rng(0).normal(size=(1, 2, 49, 256)).astype(np.float16)
    visits, counted = Visits(), []

    def between_steps(measured: StepReport) -> None:
        if measured.step == 1:
            visits.__enter__()
        elif measured.step == 2:
            visits.__exit__()
            counted.extend(sorted(visits.files))

    features = Features(tokens, ("a", "b"), "test")
    fit_captions(captioner, examples, features, preset.train, tmp_path / "run", report=between_steps)
    assert "training/loop.py" in counted
    assert len(counted) <= STEP_FILES, counted
