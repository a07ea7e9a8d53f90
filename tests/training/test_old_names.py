"""Old spellings of training's settings still work, and say what to use instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearcap.config import SamplingConfig, TrainConfig, changes, load_preset, make, override
from clearcap.errors import InputError
from clearcap.training.checkpoint import check_settings
from clearcap.training.encoder.settings import DistillConfig
from clearcap.training.step_distillation.run import settings_for


def test_renamed_settings_keep_their_old_names() -> None:
    with pytest.warns(DeprecationWarning, match="'borrowed' is called 'neighbour_captions' now"):
        preset = load_preset("compact", ["train.borrowed=5"])
    assert preset.train.neighbour_captions == 5
    with pytest.warns(DeprecationWarning, match="'consensus' is called 'agreement' now"):
        assert make(TrainConfig, {"consensus": 0.7}, "train").agreement == 0.7
    with pytest.warns(DeprecationWarning, match="'taught' is called 'samples' now"):
        assert override(settings_for(SamplingConfig()), ["taught=here"]).samples == "here"
    with pytest.raises(
        InputError, match="'borrowed' is the old name of 'neighbour_captions'; pass one of them"
    ):
        make(TrainConfig, {"borrowed": 1, "neighbour_captions": 1}, "train")


def test_label_smoothing_never_did_anything() -> None:
    assert make(TrainConfig, {"label_smoothing": 0.0}, "train") == TrainConfig()
    with pytest.raises(InputError, match="unknown setting 'label_smoothing'"):
        make(TrainConfig, {"label_smoothing": 0.1}, "train")


def test_a_corpus_is_spelt_in_one_way_and_still_in_three() -> None:
    spec = "flickr8k:C:/photos:train"
    data = load_preset("compact", [f"data.corpus={spec}"]).data
    assert (data.trained, data.watched) == (spec, "flickr8k:C:/photos:dev")
    data = load_preset("compact", [f"data.corpus={spec}", "data.watch=coco:elsewhere:val"]).data
    assert data.watched == "coco:elsewhere:val"
    with pytest.warns(DeprecationWarning, match="pass data.corpus=folder:mine:all"):
        old = load_preset("compact", ["data.name=folder", "data.root=mine", "data.split=all"]).data
    assert (old.trained, old.watched) == ("folder:mine:all", "folder:mine:dev")
    with pytest.raises(InputError, match="is the training split"):
        load_preset("compact", [f"data.corpus={spec}", "data.watch=train"])


def test_several_values_are_separated_by_commas() -> None:
    given = ["teacher=t.tflite", "photos=a,b", "sizes=128,0", "switches=0.5", "bf16=False", "minutes=3"]
    config = DistillConfig(**changes(DistillConfig, given))
    assert (config.photos, config.sizes, config.switches) == (("a", "b"), (128, 0), (0.5,))
    assert (config.bf16, config.minutes) == (False, 3.0)
    with pytest.raises(InputError, match="teacher: none given"):
        DistillConfig(**changes(DistillConfig, ["photos=a"]))
    with pytest.raises(InputError, match="unknown setting 'teachers'"):
        changes(DistillConfig, ["teachers=a"])


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    before = {"train": {"lr": 1e-3, "log_every": 1, "gone": 3}, "sizes": [1, 2]}
    check_settings(
        tmp_path,
        before,
        {"train": {"lr": 1e-3, "log_every": 9, "new": 1}, "sizes": (1, 2)},
        ["train.log_every"],
    )
    with pytest.raises(
        InputError, match=r"was made with train\.lr=0\.001, not 0\.1 \(and 1 more differ\); give"
    ):
        check_settings(tmp_path, before, {"train": {"lr": 0.1}, "sizes": (1,)})
