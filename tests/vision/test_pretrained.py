"""The transformers adapter against transformers' own forward."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from clearcap.errors import InputError
from clearcap.vision.interface import ImageEncoder
from clearcap.vision.transformers import build_pretrained, load_pretrained

OPENAI_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
OPENAI_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


@pytest.fixture
def images(generator):
    return torch.rand(2, 3, 32, 32, generator=generator)


@pytest.mark.parametrize(
    ("family", "tokens", "prefix"),
    [
        ("blip", 5, 1),
        ("clip", 5, 1),
        ("siglip", 4, 0),
        ("swin", 16, 0),
        ("dinov2", 5, 1),
        ("registers", 9, 5),
        ("vit", 5, 1),
    ],
)
def test_patch_tokens_equal_transformers(checkpoint, images, family, tokens, prefix):
    folder, model = checkpoint(family)
    encoder = load_pretrained(folder)
    tower = dict(model.named_children()).get("vision_model", model.base_model)
    pixels = (images - torch.tensor(encoder.mean).view(1, 3, 1, 1)) / torch.tensor(encoder.std).view(
        1, 3, 1, 1
    )
    with torch.no_grad():
        expected = tower(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(encoder(images), expected)
        torch.testing.assert_close(encoder.encode(pixels), expected)
    assert (encoder.tokens, encoder.prefix_tokens, encoder.dim) == (tokens, prefix, 16)
    assert encoder.image_size == 32
    assert isinstance(encoder, ImageEncoder)
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("family", ["clip", "clip_vision"])
def test_global_mode_is_clips_unit_image_embedding(checkpoint, images, family):
    folder, model = checkpoint(family)
    encoder = load_pretrained(folder, mode="global")
    pixels = (images - OPENAI_MEAN) / OPENAI_STD
    with torch.no_grad():
        embeds = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        expected = embeds / embeds.norm(dim=-1, keepdim=True)
        found = encoder(images)
    torch.testing.assert_close(found, expected[:, None])
    assert (encoder.tokens, encoder.dim) == (1, 8)


def test_global_mode_of_siglip_is_its_pooled_output(checkpoint, images):
    folder, model = checkpoint("siglip")
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=(images - 0.5) / 0.5).pooler_output
        found = load_pretrained(folder, mode="global")(images)
    torch.testing.assert_close(found[:, 0], pooled / pooled.norm(dim=-1, keepdim=True))


def test_global_mode_needs_a_contrastive_model(checkpoint):
    folder, _ = checkpoint("dinov2")
    with pytest.raises(InputError, match="no global image embedding"):
        load_pretrained(folder, mode="global")


def test_pixel_statistics_come_from_the_checkpoint(checkpoint):
    folder, _ = checkpoint("vit")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3})
    )
    encoder = load_pretrained(folder)
    assert (encoder.mean, encoder.std) == ((0.1,) * 3, (0.2,) * 3)
    assert load_pretrained(folder, mean=[0.3] * 3).mean == (0.3,) * 3


def test_another_image_size_interpolates_positions(checkpoint, generator):
    folder, model = checkpoint("blip")
    encoder = load_pretrained(folder, image_size=64)
    images = torch.rand(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        expected = model.vision_model(
            pixel_values=(images - OPENAI_MEAN) / OPENAI_STD, interpolate_pos_encoding=True
        ).last_hidden_state
        torch.testing.assert_close(encoder(images), expected)
    assert encoder.tokens == 17


def test_settings_rebuild_the_encoder(checkpoint, images):
    for family, mode in (("clip", "global"), ("blip", "patches")):
        encoder = load_pretrained(checkpoint(family)[0], mode=mode)
        settings = json.loads(json.dumps(encoder.settings()))
        copy = build_pretrained(**settings)
        copy.load_state_dict(encoder.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(copy(images), encoder(images), rtol=0, atol=0)


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_foreign_keys_are_named(checkpoint, fault):
    folder, _ = checkpoint("dinov2")
    state = load_file(folder / "model.safetensors")
    if fault == "missing":
        del state["layernorm.weight"]
    else:
        state["layernorm.extra"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"{fault} keys: layernorm"):
        load_pretrained(folder)


def test_pickled_weights_are_refused(checkpoint):
    folder, model = checkpoint("dinov2")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="not a loadable transformers model"):
        load_pretrained(folder)


def test_unreachable_hub_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match="somebody/some-vit: no such folder, and the model hub cannot be reached"
    ):
        load_pretrained("somebody/some-vit")


def test_a_text_model_is_refused(tmp_path: Path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="takes no pixels"):
        load_pretrained(tmp_path)
