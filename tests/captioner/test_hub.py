"""Auto classes, processor and model card of a shared captioner."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_captioner import photos, tiny_captioner
from transformers import AutoConfig, AutoModel, AutoProcessor

from clearcap.captioner.hub import CaptionerProcessor, CardFacts, push, save_for_hub
from clearcap.captioner.model import Captioner, CaptionerConfig
from clearcap.errors import InputError

FACTS = CardFacts(
    name="someone/tiny",
    data="Four sentences.",
    command="clearcap train compact train.steps=1",
    scores={"BLEU-4 on nothing": 0.1234},
    evaluation="clearcap evaluate --data nothing",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    captioner, tokenizer = tiny_captioner()
    save_for_hub(captioner, tokenizer, tmp_path / "model", FACTS)
    return tmp_path / "model"


def test_auto_classes_give_the_same_captioner_back(folder: Path) -> None:
    captioner, _ = tiny_captioner()
    assert isinstance(AutoConfig.from_pretrained(folder), CaptionerConfig)
    again = AutoModel.from_pretrained(folder)
    assert isinstance(again, Captioner)
    for name, tensor in captioner.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    image = photos(2)
    assert torch.equal(again.generate(image=image).ids, captioner.generate(image=image).ids)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode_image(pixels), captioner.encode_image(pixels))


def test_processor_round_trip(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, CaptionerProcessor)
    photo = Image.new("RGB", (90, 40), (255, 0, 128))
    batch = processor(images=[photo, photo], text="A brown dog RUNS on the green grass.")
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    torch.testing.assert_close(batch["pixel_values"][0, :, 5, 5], torch.tensor([1.0, 0.0, 128 / 255]))
    assert batch["input_ids"].shape == (1, 10)
    assert processor.batch_decode(batch["input_ids"]) == ["a brown dog runs on the green grass"]
    with pytest.raises(InputError, match="nothing to process"):
        processor()


def test_options_of_a_processor_are_honoured_or_refused(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    photo = Image.new("RGB", (90, 40), (255, 0, 128))
    arrays = processor(images=photo, text="a dog", return_tensors="np", padding=True, truncation=True)
    tensors = processor(images=photo, text="a dog", return_tensors="pt")
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())
    for options, fault in (
        ({"return_tensors": "jax"}, "return_tensors='jax'"),
        ({"do_center_crop": True}, "do_center_crop=True cannot be honoured"),
        ({"padding": "longest"}, "padding='longest' cannot be honoured"),
    ):
        with pytest.raises(InputError, match=fault):
            processor(images=photo, **options)
    ids = tensors["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["a dog"]
    with pytest.raises(InputError, match="skip_special_tokens=False cannot be honoured"):
        processor.batch_decode(ids, skip_special_tokens=False)


def test_card_says_what_it_must(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for fact in (FACTS.data, FACTS.command, FACTS.evaluation, "0.1234", "license: apache-2.0"):
        assert fact in card
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card


def test_pushing_half_a_model_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors missing"):
        push(folder, "someone/tiny")
