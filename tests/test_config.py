"""Presets and what they build on, settings under their old names, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tiny_captioner import save_tiny_captioner, tiny_captioner

from clearcap.captioner.folder import read_settings
from clearcap.captioner.loading import load_network
from clearcap.captioner.model import load_captioner
from clearcap.config import (
    RENAMED,
    DiffusionConfig,
    Preset,
    SamplingConfig,
    changes,
    load_preset,
    make,
    override,
    presets,
)
from clearcap.errors import InputError, RenamedWarning
from clearcap.pipeline import CaptionPipeline

# What the presets of 0.1, of which none built on another, resolved to where they differ from the defaults.

CLIP_DIFFUSION_LM: dict[str, dict[str, Any]] = {
    "text": {
        "source": "distilbert-base-uncased",
        "kind": "embedding",
        "length": 16,
        "keep_period": True,
        "normalise": False,  # which said nothing of word embeddings then
    },
    "vision": {
        "kind": "pretrained",
        "source": "openai/clip-vit-base-patch32",
        "tokens": 1,
        "dim": 512,
        "mode": "global",
    },
    "denoiser": {
        "kind": "concat",
        "width": 768,
        "depth": 6,
        "heads": 12,
        "hidden": 3072,
        "dropout": 0.1,
        "positions": 512,
    },
    "diffusion": {
        "schedule": "cosine-float32",
        "noise_factor": 1.0,
        "caption_weight": 0.3,
        "drop_image": 0.0,
        "self_condition": 0.0,
        "objective": "diffusion-lm",
    },
    "sampling": {
        "solver": "plain",
        "steps": 5,
        "guidance": 0.0,
        "noise_factor": 1.0,
        "start": 1.0,
        "self_condition": False,
    },
    "train": {
        "steps": 56250,
        "photos": 8,
        "copies": 1,
        "optimizer": "plain-adamw",
        "lr": 1e-4,
        "warmup": 0,
        "decay": "linear",
        "end": 0.5,
        "clip": 0.0,
        "ema": 0.0,
    },
}
LADIC: dict[str, dict[str, Any]] = {
    "text": {
        "source": "bert-base-uncased",
        "split": 6,
        "special": "zero",
        "length": 24,
        "keep_period": True,
    },
    "vision": {
        "kind": "pretrained",
        "source": "Salesforce/blip-image-captioning-base",
        "tokens": 197,
        "dim": 768,
    },
    "denoiser": {
        "width": 1536,
        "depth": 12,
        "heads": 16,
        "hidden": 3072,
        "projected": False,
        "time_head": "none",
        "adapter_depth": 0,
        "dropout": 0.1,
        "positions": 512,
        "null": "mean-colour",
    },
    "diffusion": {"noise_factor": 4.0},
    "sampling": {"steps": 30, "noise_factor": 4.0, "start": 4.0, "refine": 1, "candidates": 5},
    "train": {
        "steps": 531000,
        "photos": 64,
        "copies": 1,
        "optimizer": "plain-adamw",
        "lr": 5e-5,
        "warmup": 53100,
        "decay": "linear",
        "clip": 0.0,
        "ema": 0.0,
    },
    "data": {"name": "coco"},
}
EXPECTED: dict[str, dict[str, dict[str, Any]]] = {
    "clip-diffusion-lm-concat": CLIP_DIFFUSION_LM,
    "clip-diffusion-lm-add": CLIP_DIFFUSION_LM
    | {"denoiser": CLIP_DIFFUSION_LM["denoiser"] | {"kind": "add"}},
    "compact": {
        "text": {
            "function_words": "a an and another are as at be being by each for from he her him his in into is "
            "it its near next of off on one onto or other out over some that the their them "
            "there they this through to two under up which while who with"
        },
        "denoiser": {"image_dropout": 0.3},
        "diffusion": {
            "noise_factor": 4.0,
            "caption_weight": 1.0,
            "timestep_exponent": 2.0,
            "infilling": 0.4,
        },
        "sampling": {
            "solver": "renoise",
            "steps": 10,
            "spacing": "log-snr",
            "guidance": 0.5,
            "length": 9,
            "min_length": 8,
            "max_length": 11,
        },
        "train": {"photos": 24, "copies": 6, "optimizer": "muon", "lr": 2e-3, "muon_lr": 2e-3},
    },
    "ladic-base": LADIC,
    "ladic-base-authors": LADIC
    | {
        "text": LADIC["text"] | {"decoder": "identity", "special": "raw", "filler": "."},
        "diffusion": {"noise_factor": 4.0, "schedule": "linear"},
        "sampling": {
            "solver": "renoise",
            "steps": 30,
            "spacing": "stride",
            "noise_factor": 1.0,
            "start": 1.0,
            "time_offset": 5,
        },
    },
    "ladic-paragraph": LADIC
    | {
        "text": LADIC["text"] | {"length": 60, "max_words": 50},
        "train": LADIC["train"] | {"steps": 27300, "warmup": 2730},
        "data": {"name": "stanford-paragraphs", "watch": "val"},
    },
}
DEFAULTS: dict[str, dict[str, Any]] = {  # of a captioner's sections: saved models may leave them out
    "text": {
        "source": "",
        "kind": "bert-split",
        "split": 2,
        "decoder": "upper",
        "special": "normalised",
        "filler": "[PAD]",
        "length": 20,
        "max_words": 30,
        "keep_period": False,
        "function_words": "",
        "words": "ptb",
        "sides": "left right",
        "normalise": True,
        "pretrained": True,
    },
    "vision": {
        "kind": "compact",
        "source": "",
        "tokens": 49,
        "dim": 256,
        "image_size": 224,
        "mode": "patches",
    },
    "denoiser": {
        "kind": "cross-attention",
        "width": 256,
        "depth": 5,
        "heads": 4,
        "hidden": 768,
        "projected": True,
        "time_head": "mlp",
        "adapter_depth": 1,
        "image_dropout": 0.1,
        "dropout": 0.0,
        "positions": 0,
        "null": "learned",
    },
    "diffusion": {
        "schedule": "cosine",
        "steps": 1000,
        "noise_factor": 2.0,
        "prediction_type": "x0",
        "caption_weight": 0.2,
        "drop_image": 0.1,
        "self_condition": 0.5,
        "timestep_exponent": 1.0,
        "infilling": 0.0,
        "objective": "ladic",
        "levels": 100,
        "distance": "l1",
        "lag": 0,
        "dynamic_weight": 0.0,
        "image_weight": 0.0,
    },
    "sampling": {
        "solver": "ddim",
        "steps": 8,
        "spacing": "uniform",
        "guidance": 1.0,
        "guidance_low": 0.0,
        "guidance_high": 1.0,
        "noise_factor": 2.0,
        "start": 2.0,
        "eta": 0.0,
        "time_offset": 0,
        "self_condition": True,
        "clamp": False,
        "once": False,
        "early_exit": 0,
        "refine": 0,
        "refine_time": 0.5,
        "refine_share": 0.5,
        "refine_threshold": 0.0,
        "refine_level": 0.0,
        "length": 0,
        "min_length": 0,
        "max_length": 0,
        "candidates": 1,
        "select": "mbr",
        "utility": "bleu",
        "length_penalty": 1.0,
    },
}


def test_a_captioners_defaults_are_those_of_0_1() -> None:
    assert Preset().of_the_model() == DEFAULTS


def test_every_preset_is_expected() -> None:
    assert presets() == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_preset_resolves_to_what_it_was(name: str) -> None:
    default, resolved = (dataclasses.asdict(preset) for preset in (Preset(), load_preset(name)))
    differing = {
        section: {key: value for key, value in table.items() if value != default[section][key]}
        for section, table in resolved.items()
    }
    assert {section: table for section, table in differing.items() if table} == EXPECTED[name]


def test_a_file_builds_on_a_preset_by_name_and_on_a_file_by_path(tmp_path: Path) -> None:
    middle, top = tmp_path / "middle.toml", tmp_path / "top.toml"
    middle.write_text('base = "compact"\n[sampling]\nsteps = 3\n[text]\nlength = 12\n')
    top.write_text(f'base = "{middle}"\n[sampling]\nguidance = 2\n')
    preset = load_preset(str(top), ["sampling.start=1.5"])
    expected = load_preset(
        "compact", ["sampling.steps=3", "text.length=12", "sampling.guidance=2.0", "sampling.start=1.5"]
    )
    assert preset == expected
    assert (preset.sampling.steps, preset.sampling.guidance, preset.sampling.spacing) == (3, 2.0, "log-snr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "compacter"', "no preset 'compacter'; choose one of clip-diffusion-lm-add"),
        ('base = "{me}"', "is its own base; name another preset"),
        ('base = "{other}"', "is its own base; name another preset"),
        ("base = 3", "base=3 names no preset"),
        ('base = "compact"\nsampling = 3', "sampling must be a table of settings, not 3"),
        ("[sampling]\nstep = 3", "unknown setting 'step'; choose one of solver, steps"),
        ("[sampler]\nsteps = 3", "unknown setting 'sampler'"),
        ('[sampling]\nsteps = "3"', "steps='3' must be of type int"),
        ("[sampling]\nsteps = true", "steps=True must be of type int"),
        ("[sampling", "not valid TOML"),
        ("[diffusion]\nfactor = 1.0\nnoise_factor = 2.0", "'factor' is the old name of 'noise_factor'"),
        ('[sampling]\nsolver = "euler"', "unknown solver 'euler'; choose one of renoise, ddpm"),
        ('[vision]\nmode = "whole"', "mode='whole' is not known; choose one of patches, global"),
    ],
)
def test_bad_presets_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    me, other = tmp_path / "me.toml", tmp_path / "other.toml"
    me.write_text(text.format(me=me, other=other))
    other.write_text(f'base = "{me}"\n')
    with pytest.raises(InputError) as caught:
        load_preset(str(me))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# Settings under the names they had in 0.1.

OLD = {
    ("diffusion", "factor", "noise_factor"): 3.0,
    ("diffusion", "predicts", "prediction_type"): "v",
    ("diffusion", "emphasis", "timestep_exponent"): 1.5,
    ("diffusion", "given", "infilling"): 0.25,
    ("sampling", "factor", "noise_factor"): 3.0,
    ("sampling", "words", "length"): 9,
    ("sampling", "words_from", "min_length"): 7,
    ("sampling", "words_to", "max_length"): 12,
}
GROUND = "[sampling]\nlength = 9\n[denoiser]\ndepth = 2\n"


def test_every_renamed_sampling_and_diffusion_setting_is_tried_here() -> None:
    renamed = {
        (section, old, new)
        for section, kind in (("diffusion", DiffusionConfig), ("sampling", SamplingConfig))
        for old, new in RENAMED[kind.__name__].items()
    }
    assert renamed == set(OLD)


@pytest.mark.parametrize(("names", "value"), OLD.items(), ids=lambda v: v[1] if isinstance(v, tuple) else "")
def test_an_old_name_is_the_new_one_everywhere(
    names: tuple[str, str, str], value: Any, tmp_path: Path
) -> None:
    section, old, new = names
    file = tmp_path / "mine.toml"
    file.write_text(GROUND)
    expected = load_preset(str(file), [f"{section}.{new}={value}"])
    assert getattr(getattr(expected, section), new) == value
    say = f"'{old}' is called '{new}' now"
    with pytest.warns(RenamedWarning, match=say):  # an override
        assert load_preset(str(file), [f"{section}.{old}={value}"]) == expected
    with pytest.warns(RenamedWarning, match=say):  # an override of settings at hand
        assert override(load_preset(str(file)), [f"{section}.{old}={value}"]) == expected
    with pytest.warns(RenamedWarning, match=say):  # --set of a command
        assert changes(type(getattr(expected, section)), [f"{old}={value}"]) == {new: value}
    shown = f'"{value}"' if isinstance(value, str) else value
    text = GROUND.replace("length = 9\n", "" if old == "words" else "length = 9\n")
    head = f"[{section}]\n{old} = {shown}\n"
    file.write_text(text.replace("[sampling]\n", head) if section == "sampling" else head + text)
    with pytest.warns(RenamedWarning, match=say):  # TOML
        assert load_preset(str(file)) == expected
    base = file.rename(tmp_path / "base.toml")
    file.write_text(f'base = "{base}"\n')
    with pytest.warns(RenamedWarning, match=say):  # TOML that another one builds on, under the new name
        assert load_preset(str(file), [f"{section}.{new}={value}"]) == expected


def test_both_names_at_once_are_one_line() -> None:
    for table in ({"factor": 1.0, "noise_factor": 2.0}, {"noise_factor": 2.0, "factor": 2.0}):
        with pytest.raises(InputError, match="'factor' is the old name of 'noise_factor'; pass one of them"):
            make(SamplingConfig, table, "sampling")


def test_of_two_overrides_the_last_one_wins_under_whatever_name() -> None:
    overrides = ["sampling.factor=3.0", "sampling.noise_factor=4.0"]
    with pytest.warns(RenamedWarning):
        assert load_preset("compact", overrides).sampling.noise_factor == 4.0
    with pytest.warns(RenamedWarning):
        assert load_preset("compact", overrides[::-1]).sampling.noise_factor == 3.0


def test_a_model_saved_under_old_names_is_the_same_and_nobody_is_told(tmp_path: Path) -> None:
    folder = save_tiny_captioner(tmp_path / "model")
    diffusion = DiffusionConfig(noise_factor=3.0, timestep_exponent=1.5, infilling=0.25)
    sampling = SamplingConfig(noise_factor=1.5, length=4, min_length=3, max_length=6)
    today = {"diffusion": dataclasses.asdict(diffusion), "sampling": dataclasses.asdict(sampling)}
    old = {section: dict(table) for section, table in today.items()}
    for section, before, after in OLD:
        old[section][before] = old[section].pop(after)
    file = folder / "config.json"
    file.write_text(json.dumps(read_settings(folder) | old))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RenamedWarning)
        network, _ = load_network(str(folder))
        captioner, _ = load_captioner(str(folder))
    for found in (network, captioner):
        assert (found.defaults, found.objective) == (sampling, diffusion)
    assert captioner.config.diffusion == today["diffusion"]
    captioner.save_pretrained(folder)  # which brings the file up to date
    assert {section: read_settings(folder)[section] for section in today} == today


def test_old_names_in_python() -> None:
    pipeline = CaptionPipeline(*tiny_captioner())
    with pytest.warns(RenamedWarning, match="'words' is called 'length' now"):
        assert pipeline.sampling(words=6, candidates=3) == pipeline.sampling(length=6, candidates=3)
    with pytest.raises(InputError, match="'words' is the old name of 'length'"):
        pipeline.sampling(words=6, length=6)


# diffusers' names.


def test_diffusers_names_of_settings() -> None:
    pipeline = CaptionPipeline(*tiny_captioner())
    ours = pipeline.sampling(steps=3, guidance=0.7)
    assert pipeline.sampling(num_inference_steps=3, guidance_scale=0.7) == ours
    assert pipeline.sampling(num_inference_steps=None, guidance_scale=None) == pipeline.sampling()
    assert pipeline.sampling(num_inference_steps=3, steps=None) == pipeline.sampling(steps=3)
    with pytest.raises(InputError, match="'num_inference_steps' is diffusers' name of 'steps'; pass one"):
        pipeline.sampling(num_inference_steps=3, steps=3)
