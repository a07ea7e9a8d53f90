"""A tiny saved captioner and a folder of photos with captions to evaluate it on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_captioner import CAPTIONS, save_tiny_captioner

from clearcap.data import Corpus, open_corpus

PHOTOS = 23  # no multiple of any batch size used here


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(PHOTOS):
        small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((90, 70), Image.Resampling.NEAREST).save(folder / f"{number}.png")
        captions = [CAPTIONS[number % 4], f"{CAPTIONS[(number + 1) % 4]} number {number} ."]
        lines.append(
            json.dumps({"image_id": 100 + number, "file_name": f"{number}.png", "captions": captions})
        )
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def corpus(photo_folder: Path) -> Corpus:
    return open_corpus("folder", photo_folder)
