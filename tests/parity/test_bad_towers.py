"""Towers that are truncated, of other sizes, or pickles with code in them: one clear error each, nothing executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from towers import write_bert, write_blip, write_clip, write_distilbert

from clearcap.captioner.towers import load_language_model
from clearcap.errors import InputError
from clearcap.vision.transformers import load_pretrained

TOWERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "bert": (write_bert, lambda folder: load_language_model(str(folder), "BertForMaskedLM")),
    "distilbert": (write_distilbert, lambda folder: load_language_model(str(folder), "AutoModelForMaskedLM")),
    "blip": (write_blip, load_pretrained),
    "clip": (write_clip, lambda folder: load_pretrained(folder, "global")),
}


class Attack:
    """Leaves a file behind where it is unpickled with code allowed."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("fault", ["code", "truncated", "other size", "missing tensor"])
@pytest.mark.parametrize("name", list(TOWERS))
def test_a_bad_tower_is_one_sentence_and_runs_nothing(name: str, fault: str, tmp_path: Path) -> None:
    write, load = TOWERS[name]
    folder = write(tmp_path / name)
    weights = folder / "model.safetensors"
    state = load_file(weights)
    if fault == "code":
        weights.unlink()
        torch.save({"x": Attack(tmp_path / "attacked")}, folder / "pytorch_model.bin")
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        key = next(key for key in sorted(state) if "position_embedding" in key and "text_" not in key)
        if fault == "other size":
            state[key] = torch.zeros(2, *state[key].shape[1:])
        else:
            del state[key]
        save_file(state, weights, {"format": "pt"})
    with pytest.raises(InputError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    if fault in ("other size", "missing tensor"):
        assert "position_embedding" in str(caught.value)
    assert not (tmp_path / "attacked").exists()
