"""Presets, overrides and settings of every command that has them; small ones that load are built and caption."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from clearcap.captioner.towers import build_captioner
from clearcap.config import Preset, SamplingConfig, changes, load_preset, override, presets
from clearcap.pipeline import CaptionPipeline
from clearcap.training.encoder.run import EncoderConfig
from clearcap.training.encoder.settings import DistillConfig
from clearcap.training.step_distillation.run import StepDistillationConfig
from clearcap.training.text import PretrainTextConfig
from tests.fuzz import Kind
from tests.fuzz.mutating import ODD_TEXTS, Rng, mutated, pick
from tests.fuzz.photos import picture
from tests.tiny_captioner import tiny_captioner

SIZES = {
    "text": {"split": 1, "length": 10},
    "vision": {"tokens": 4, "dim": 16, "image_size": 64},
    "denoiser": {"width": 32, "depth": 2, "heads": 2, "hidden": 48},
    "sampling": {"steps": 3},
}
KINDS = (SamplingConfig, PretrainTextConfig, DistillConfig, EncoderConfig, StepDistillationConfig)
VALUES = (
    *("2", "3", "4", "8", "16", "0.1", "0.5", "true", "false", "3", "4", "8", "0.25", "1e-3", "1"),
    *(
        "0",
        "-1",
        "1",
        "2",
        "7",
        "1000",
        "10000000000",
        "1e400",
        "-0.5",
        "0.5",
        "nan",
        "inf",
        "1e-9",
        "true",
        '""',
    ),
    *(
        "[]",
        "[1]",
        "{}",
        "{a = 1}",
        "'x'",
        "1979-05-27",
        "0x7fffffffffffffffffff",
        '"\\u0000"',
        "x y",
        "=",
        "",
    ),
)
DEAR = 300  # calls of the denoiser that a caption may take here


class Configs(Kind):
    """Text of presets, mutated; and words as a command line has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hf.utils.logging.disable_progress_bar()
        _, tokenizer = tiny_captioner()
        torch.manual_seed(0)
        sizes = hf.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
        hf.BertForMaskedLM(sizes).save_pretrained(folder / "text")
        tokenizer.save_pretrained(folder / "text")
        SIZES["text"]["source"] = str(folder / "text")
        self.small = toml_of(Preset(), SIZES)
        shipped = Path(load_preset.__code__.co_filename).parent / "configs"
        self.shipped = [(shipped / f"{name}.toml").read_text() for name in presets()]

    def case(self, rng: Rng) -> tuple[str, Callable[[], str]]:
        draw = rng.random()
        if draw < 0.2:
            kind = pick(rng, KINDS)
            words = [self._word(rng, kind) for _ in range(int(rng.integers(1, 4)))]
            return f"{kind.__name__} {words}", lambda: self._settings(kind, words)
        small = draw < 0.75
        text = self.small if small else pick(rng, self.shipped)
        about, words = "", []
        if rng.random() < 0.75:
            about, text = changed_toml(rng, text)
        else:
            words = [self._word(rng, Preset) for _ in range(int(rng.integers(1, 4)))]
        run = small and rng.random() < 0.5
        return f"{'small' if small else 'shipped'} {about}{words}", lambda: self._preset(text, words, run)

    def _word(self, rng: Rng, kind: Any) -> str:
        """One ``section.key=value``."""
        fields = list(dataclasses.fields(kind))
        name = pick(rng, fields).name
        if kind is Preset:
            section = type(getattr(Preset(), name))
            name = f"{name}.{pick(rng, dataclasses.fields(section)).name}"
        if rng.random() < 0.1:
            name = pick(rng, (name[:-1], f"{name}.x", name.replace(".", ".."), "", "train", name.upper()))
        return f"{name}{pick(rng, ('=', '=', '=', '=', '=', ' = ', '', ':'))}{pick(rng, VALUES)}"

    def _settings(self, kind: Any, words: list[str]) -> str:
        if kind in (EncoderConfig, StepDistillationConfig):
            override(kind(), words)
        else:
            kind(**changes(kind, words))
        return "settings"

    def _preset(self, text: str, words: list[str], run: bool) -> str:
        file = self.folder / "preset.toml"
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        preset = load_preset(str(file), words)
        if not run:
            return "settings"
        captioner, tokenizer = build_captioner(preset)
        how = preset.sampling
        if how.steps * how.candidates * (1 + how.refine) <= DEAR and how.spacing != "stride":
            CaptionPipeline(captioner, tokenizer)(picture("RGB", 0))
        return "captions"


def toml_of(preset: Preset, changed: dict[str, dict[str, Any]]) -> str:
    """Every setting of a preset, some of them changed, as TOML."""
    lines = []
    for section, table in dataclasses.asdict(preset).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in (table | changed.get(section, {})).items()]
    return "\n".join(lines) + "\n"


def changed_toml(rng: Rng, text: str) -> tuple[str, str]:
    """What was done to it, and what became of it."""
    if rng.random() < 0.3:
        about, data = mutated(rng, text.encode())
        return about, data.decode("utf-8", "surrogateescape")
    lines, names = text.splitlines(), []
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        at = int(rng.integers(len(lines)))
        key, equals, _ = lines[at].partition("=")
        name = pick(rng, ("value", "value", "value", "key", "gone", "twice", "moved", "text"))
        if name == "value" and equals:
            lines[at] = f"{key}= {pick(rng, VALUES)}"
        elif name == "key":
            lines[at] = f"{pick(rng, ('base', 'x', 'steps', 'a.b', '[x]'))} {lines[at][len(key) :]}"
        elif name == "gone":
            del lines[at]
        elif name == "text":
            lines[at] = pick(rng, ODD_TEXTS).encode("utf-8", "replace").decode()
        elif name == "moved":
            lines.insert(int(rng.integers(len(lines))), lines.pop(at))
        else:
            lines.insert(at, lines[at])
        names.append(f"{key.strip()}: {name}")
        if not lines:
            break
    return ", ".join(names), "\n".join(lines)
