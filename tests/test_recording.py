"""What the bundled models say is what they said when the recording was made, before the house was rebuilt.

Floats differ in their last digits between processors, and a word may follow them: on the processor family that the
recording was made on every caption must be the same, on another one all but a few.
"""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from recording import BACKENDS, COMMITTED, MODELS, captions, trained

from clearcap.errors import RenamedWarning

RECORDED = json.loads(COMMITTED.read_text())
SAME_FAMILY = torch.backends.cpu.get_cpu_capability() == RECORDED["processor"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("backend", list(BACKENDS))
def test_captions_and_fillings_are_those_recorded(model: str, backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedWarning)  # the recording asks by the names of its time
        found = captions(model, backend, BACKENDS[backend])
    compared = differing = 0
    for name, said in found.items():
        before = RECORDED["said"][f"{model}/{backend}/{name}"]
        for mine, theirs in zip(said["captions"], before["captions"], strict=True):
            compared, differing = compared + 1, differing + (mine != theirs)
        if SAME_FAMILY and "confidence" in before:
            assert said["confidence"] == pytest.approx(before["confidence"], abs=2e-3), name
    assert differing <= (0 if SAME_FAMILY else compared // 20)


def test_training_steps_have_the_losses_recorded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedWarning)
        losses = trained()["losses"]
    for mine, theirs in zip(losses, RECORDED["losses"], strict=True):
        assert mine == pytest.approx(theirs, rel=2e-2)
