"""Tiny transformers vision models, written to disk as real checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "sep_token_id": 1,
    "encoder_hidden_size": 16,
}
SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}

MODELS: dict[str, Callable[[], Any]] = {
    "blip": lambda: hf.BlipForConditionalGeneration(hf.BlipConfig(text_config=TEXT, vision_config=VISION)),
    "clip": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)),
    "clip_vision": lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**VISION, projection_dim=8)),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=VISION)),
    "swin": lambda: hf.SwinModel(hf.SwinConfig(**SWIN)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**VISION)),
    "registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**VISION)),
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION)),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], tuple[Path, Any]]:
    """Write the tiny model of a family; returns its folder and the model itself."""

    def write(family: str) -> tuple[Path, Any]:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            model = MODELS[family]().eval()
        model.save_pretrained(tmp_path / family)
        return tmp_path / family, model

    return write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 12 small photos of smooth noise."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(12):
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{index:02}.png")
    return folder
